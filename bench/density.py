"""What rooms cost that nobody writes in: awake, with their CLI stopped, hibernated.

    .venv/bin/python -m bench.density

Real parts: `orchestrator up --embedded` with its Synapse, the Docker Engine, the real CLI; the
Messages API is a stand-in that answers at once. Twenty rooms are asked something, rest, and are
woken together; then 180 more rooms are made, which nobody writes in. Memory of runners is their
cgroups', as the engine says it. The table goes to stdout, progress to stderr. Needs root, as the
orchestrator does. Takes about ten minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.support.entrance import run_with_cli
from bench.support.figures import Figure, Section, Unit, median, render_table
from bench.support.installation import Bench, open_bench, say
from bench.support.machine import describe_machine, load, vm_rss
from orchestrator.control.models import RunnerView
from orchestrator.model import RunnerState

ACTIVE = 20
KNOWN = 200
IDLE_STOP_S = 150.0
HIBERNATE_S = 270.0
LIMIT_S = 1800.0
_POLL_S = 2.0

NOTES = f"""\
Awake: all {ACTIVE} have a live CLI, as they have without idle_stop_s and hibernate_s. Woken: a
message in all of the hibernated rooms at once, to each one's answer; the machine has 2 cores, so
they wait for each other. A room that is only known has no container and no worker."""


def main() -> None:
    """Run everything and print the table."""
    run_with_cli(run, limit_s=LIMIT_S)


async def run(image: str, claude: Path) -> None:
    """Measure, then print; whatever happens, nothing that was started stays."""
    load_before = load()
    rests = {"idle_stop_s": IDLE_STOP_S, "hibernate_s": HIBERNATE_S, "greet": False}
    opening = open_bench(image, claude, defaults={**rests, "stream": "final"})
    async with asyncio.timeout(LIMIT_S), opening as bench:
        rooms = [await bench.person.new_room(f"room {number}") for number in range(ACTIVE)]
        say("asking all of them")
        await _ask_all(bench, rooms)
        found = await _wait(bench, lambda one: one.cli_running)
        awake, daemon_awake = _memory(found), float(vm_rss(bench.orchestrator.pid))
        say("waiting for their CLIs to stop")
        found = await _wait(bench, lambda one: not one.cli_running)
        stopped = _memory(found)
        say("waiting for their containers to stop")
        await _wait(bench, lambda one: one.state is RunnerState.EXITED)
        asleep = float(vm_rss(bench.orchestrator.pid))
        say("waking all of them")
        woken = await _ask_all(bench, rooms)
        say(f"making {KNOWN - ACTIVE} rooms more")
        for number in range(ACTIVE, KNOWN):
            await bench.person.new_room(f"room {number}")
        known = float(vm_rss(bench.orchestrator.pid))
        head = describe_machine(bench.client, load_before)
    than = "awake"
    runners = (
        Figure(name=than, value=awake, unit=Unit.BYTES),
        _bytes("their CLIs stopped", stopped, than, awake),
        _bytes("hibernated", 0.0, than, awake),
    )
    daemon = (
        Figure(name=f"{ACTIVE} rooms awake", value=daemon_awake, unit=Unit.BYTES),
        _bytes(f"{ACTIVE} rooms asleep", asleep, f"{ACTIVE} awake", daemon_awake),
        _bytes(f"{KNOWN} rooms known", known, f"{ACTIVE} awake", daemon_awake),
    )
    waking = (Figure(name="message to answer, median", value=median(woken)),)
    sections = (
        Section(title=f"Memory of {ACTIVE} runners", figures=runners),
        Section(title="Memory of the orchestrator (RSS)", figures=daemon),
        Section(title=f"{ACTIVE} hibernated rooms, woken at once", figures=waking),
    )
    print("\n".join([head, "", *render_table(sections), "", NOTES]))


def _bytes(name: str, value: float, than: str, than_value: float) -> Figure:
    return Figure(name=name, value=value, unit=Unit.BYTES, than=than, than_value=than_value)


async def _ask_all(bench: Bench, rooms: Sequence[str]) -> list[float]:
    """Seconds from sending to the answer, of each; all are sent first."""
    asked = [(room, *await bench.person.send(room, "hello")) for room in rooms]
    took: list[float] = []
    for _, sent_at, event_id in asked:
        await bench.person.wait_for_answer(event_id)
        took.append(time.time() - sent_at)
    return took


async def _wait(bench: Bench, is_so: Callable[[RunnerView], bool]) -> Sequence[RunnerView]:
    """Until it is so of every runner."""
    while True:
        found = await bench.orchestrator.runners()
        if len(found) >= ACTIVE and all(is_so(one) for one in found):
            return found
        await asyncio.sleep(_POLL_S)


def _memory(found: Sequence[RunnerView]) -> float:
    return float(sum(one.memory_bytes or 0 for one in found))


if __name__ == "__main__":
    main()
