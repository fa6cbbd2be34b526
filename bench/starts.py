"""How long many starts of runners take that are asked for at once, by how many begin together.

    .venv/bin/python -m bench.starts

Real parts: the Docker Engine and the runner image; no homeserver, no CLI. Twenty-four containers
are made, started and greeted, with 1, 2, 4, 8 and all of them at a time, in this order and back
again, so that a machine that is busier for a while does not favour one. A start is counted from the
moment in which all are asked for. The table goes to stdout. Needs root. Takes two minutes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path

from loguru import logger

from bench.support.entrance import need_root, run_to_end
from bench.support.figures import Figure, Section, median, render_table
from orchestrator.model import Seq
from orchestrator.rooms.starts import RunnerStarts
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.link import open_link
from tests.support.runner_engine import (
    ensure_runner_image,
    new_installation,
    open_clean_backend,
    prepare,
    room_spec,
)

COUNT = 24
LIMITS = (1, 2, 4, 8, COUNT)
LIMIT_S = 900.0


def main() -> None:
    """Run everything and print the table."""
    need_root()
    logger.remove()
    with redirect_stdout(sys.stderr):
        image = ensure_runner_image()
    run_to_end(run(image), limit_s=LIMIT_S)


async def run(image: str) -> None:
    """Measure, then print; nothing that was started stays."""
    found: dict[int, list[list[float]]] = defaultdict(list)
    async with asyncio.timeout(LIMIT_S):
        await _start_all(image, 2)  # what is cold is warm from here on
        for limit in (*LIMITS, *reversed(LIMITS)):
            found[limit].append(await _start_all(image, limit))
    processors = len(os.sched_getaffinity(0))
    sections = [
        Section(
            title=f"{limit} at a time" if limit < COUNT else "all at once",
            figures=(
                Figure(name="the first", value=min(map(min, runs))),
                Figure(name="the median start", value=min(map(median, runs))),
                Figure(name="the last", value=min(map(max, runs))),
            ),
        )
        for limit, runs in found.items()
    ]
    head = f"{COUNT} starts asked for at once, {processors} processors; the better of two runs"
    print("\n".join([head, "", *render_table(sections)]))


async def _start_all(image: str, limit: int) -> list[float]:
    """Seconds from asking for all to each one's greeting."""
    starts, took, installation = RunnerStarts(limit), list[float](), new_installation()
    with tempfile.TemporaryDirectory() as folder:
        async with open_clean_backend(installation) as backend:
            specs = [
                prepare(room_spec(Path(folder), installation, image, index=number))
                for number in range(COUNT)
            ]
            began = time.monotonic()

            async def start(number: int) -> None:
                async with starts.permit() as permit:
                    await permit.take()
                    await backend.ensure(specs[number])
                    await backend.start(specs[number].name)
                    await _greet(backend, specs[number].name)
                took.append(time.monotonic() - began)

            async with asyncio.TaskGroup() as group:
                for number in range(COUNT):
                    group.create_task(start(number))
    return took


async def _greet(backend: DockerBackend, name: str) -> None:
    async with backend.attach(name) as stream, open_link(stream, epoch=None, acked=Seq(0)):
        pass


if __name__ == "__main__":
    main()
