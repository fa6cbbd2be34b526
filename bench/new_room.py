"""What a new room's first answer takes, and how much of it a runner that was made ahead saves.

    .venv/bin/python -m bench.new_room

Real parts: `orchestrator up --embedded` with its Synapse, the Docker Engine, the real CLI; the
Messages API is a stand-in that answers at once. Each room is asked three times: new, without
anything; in a new conversation with its container running and no CLI; and with the CLI live. Rooms
of a second installation, with `docker.prewarm: 1`, are asked once, each after a runner was ready;
they take turns with those of the first, so that all see the same machine. The table goes to stdout,
progress to stderr. Needs root, as the orchestrator does. Takes about five minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from bench.support.entrance import run_with_cli
from bench.support.figures import Figure, Section, median, render_table
from bench.support.installation import Bench, open_bench, say
from bench.support.machine import describe_machine, load
from bench.support.room import read_stages
from orchestrator.control.models import RunnerView
from orchestrator.model import JsonObject, RunnerState

ROOMS = 7
IDLE_STOP_S = 3.0
LIMIT_S = 580.0
_POLL_S = 0.5
_SETTLE_S = 1.0

NAMES = {
    "new": "a new room",
    "ahead": "with a runner made ahead",
    "container": "its container runs",
    "cli": "its CLI is live",
}
NOTES = """\
A runner that was made ahead saves the room's disk and directories, its container, the connection. A
room whose container runs has them, too, and a home that the CLI has used. Lines with a dot: from
the turn's being made to the API's being asked."""


def main() -> None:
    """Run everything and print the table."""
    run_with_cli(run, limit_s=LIMIT_S)


async def run(image: str, claude: Path) -> None:
    """Measure, then print; whatever happens, nothing that was started stays."""
    load_before = load()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    resting: JsonObject = {"idle_stop_s": IDLE_STOP_S, "greet": False, "stream": "final"}
    async with (
        asyncio.timeout(LIMIT_S),
        open_bench(image, claude, defaults=resting) as bench,
        open_bench(image, claude, defaults=resting, docker={"prewarm": 1}) as pooled,
    ):
        for number in range(ROOMS):
            say(f"room {number + 1} of {ROOMS}")
            room = await bench.person.new_room(f"new {number}")
            await asyncio.sleep(_SETTLE_S)
            found["new"].append(await _ask(bench, room, f"first {number}"))
            await _wait(bench, room, lambda runner: not runner.cli_running)
            await bench.person.send(room, "!new")
            await asyncio.sleep(_SETTLE_S)
            found["container"].append(await _ask(bench, room, f"second {number}"))
            found["cli"].append(await _ask(bench, room, f"third {number}"))
            await _wait_spare(pooled)
            room = await pooled.person.new_room(f"ahead {number}")
            await asyncio.sleep(_SETTLE_S)
            found["ahead"].append(await _ask(pooled, room, f"first {number}"))
        head = describe_machine(bench.client, load_before)
    medians = {
        name: (median([whole for whole, _ in times]), median([part for _, part in times]))
        for name, times in found.items()
    }
    than = medians["new"]
    figures = []
    for name, (whole, part) in medians.items():
        for label, value, other in ((NAMES[name], whole, than[0]), ("· to the API", part, than[1])):
            figures.append(Figure(name=label, value=value, than=NAMES["new"], than_value=other))
    section = Section(title=f"Message to answer, median of {ROOMS}", figures=tuple(figures))
    print("\n".join([head, "", *render_table([section]), "", NOTES]))


async def _ask(bench: Bench, room: str, text: str) -> tuple[float, float]:
    """Seconds to the answer, and those of them from the turn to the API."""
    turn = await bench.person.ask(room, text)
    return turn.seconds, read_stages(bench.state_dir, turn, bench.api).to_api


async def _wait_spare(bench: Bench) -> None:
    """Until a runner is there for the next room."""
    while not any(  # noqa: ASYNC110 - asked of another process
        runner.is_spare and runner.state is RunnerState.RUNNING
        for runner in await bench.orchestrator.runners()
    ):
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(_SETTLE_S)


async def _wait(bench: Bench, room: str, is_so: Callable[[RunnerView], bool]) -> None:
    while not is_so(await bench.runner_of(room)):  # noqa: ASYNC110 - asked of another process
        await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    main()
