"""What the socket proxy costs: calls, starts and a runner's stream, beside the engine's own socket.

    .venv/bin/python -m bench.socket_proxy

Real parts: the Docker Engine, the proxy as a process of its own, a runner whose program sends back
what it gets. Both ways are measured in turn, so that a machine that is busier for a while favours
neither. The table goes to stdout. Needs root. Takes a minute.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from loguru import logger

from bench.support.entrance import need_root, run_to_end
from bench.support.figures import Figure, Section, Unit, median, render_table
from bench.support.machine import vm_rss
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.runners.docker_backend import DockerBackend
from tests.support.runner_engine import (
    ECHO,
    ensure_program_image,
    new_installation,
    open_clean_backend,
)
from tests.support.socket_proxy import open_socket_proxy, room_in_state

CALLS = 60
STARTS = 7
STREAM_BYTES = 64 << 20
STREAMS = 5
LIMIT_S = 600.0


def main() -> None:
    """Run everything and print the table."""
    need_root()
    logger.remove()
    with redirect_stdout(sys.stderr):
        image = ensure_program_image(ECHO)
    run_to_end(run(image), limit_s=LIMIT_S)


async def run(image: str) -> None:
    """Measure, then print; nothing that was started stays."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    installation = new_installation()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        spec = room_in_state(state, installation, image)
        async with (
            asyncio.timeout(LIMIT_S),
            open_socket_proxy(Path(folder) / "engine", state, "--image", image) as proxy,
            open_clean_backend(installation) as direct,
            open_clean_backend(installation, proxy.address) as proxied,
        ):
            ways = {"direct": direct, "proxied": proxied}
            for _ in range(STARTS):
                for way, backend in ways.items():
                    found["a start"][way].append(await _timed(partial(_start, backend, spec)))
            for _ in range(CALLS):
                for way, backend in ways.items():
                    found["inspect"][way].append(await _timed(partial(backend.inspect, spec.name)))
            for _ in range(STREAMS):
                for way, backend in ways.items():
                    found["stream"][way].append(await _timed(partial(_echo, backend, spec)))
            memory = vm_rss(proxy.pid)
    print("\n".join(render_table(_sections(found, memory))))


def _sections(found: dict[str, dict[str, list[float]]], memory: int) -> list[Section]:
    titles = {
        "a start": f"a runner is removed, made, started (median of {STARTS})",
        "inspect": f"a runner is looked at (median of {CALLS})",
        "stream": f"{STREAM_BYTES >> 20} MiB there and back (median of {STREAMS})",
    }
    calls = [
        Figure(
            name=titles[name],
            value=median(ways["proxied"]),
            than="the engine's own socket",
            than_value=median(ways["direct"]),
        )
        for name, ways in found.items()
    ]
    size = Figure(name="memory of the proxy", value=memory, unit=Unit.BYTES)
    return [Section(title="by way of the socket proxy", figures=(*calls, size))]


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await work()
    return time.monotonic() - began


async def _start(backend: DockerBackend, spec: SandboxSpec) -> None:
    await backend.remove(spec.name)
    await backend.ensure(spec)
    await backend.start(spec.name)


async def _echo(backend: DockerBackend, spec: SandboxSpec) -> None:
    chunk = bytes(64 << 10)
    async with backend.attach(spec.name) as stream, asyncio.TaskGroup() as group:

        async def send() -> None:
            for _ in range(STREAM_BYTES // len(chunk)):
                await stream.write(chunk)

        group.create_task(send())
        got = 0
        while got < STREAM_BYTES:
            got += len(await stream.read())


if __name__ == "__main__":
    main()
