"""What a room that prints without end costs the orchestrator's memory and another room's turns.

    .venv/bin/python -m bench.floods [KIND SIZE …]

Kinds and sizes: output, line, stderr and junk in MB, tiny in events, pace in seconds with 10,000
lines each. Without any: 100 MB of tool output, a line of 64 MB, a million tiny events, 10,000 lines
a second for half a minute, 100 MB of stderr, 2 MB of what is no line of the CLI. That takes about
25 minutes, because the orchestrator reads a room at a pace (1,000 lines or KiB a second).

Real parts: `orchestrator up --embedded` with its Synapse, the Docker Engine, shim and wire; in the
CLI's place a program that floods, also in the room that is asked meanwhile: so the other room's
turn is the product's own share alone. Before each flood the same is measured without it. The table
goes to stdout, progress to stderr. Needs root, as the orchestrator does.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from bench.support.entrance import need_root, run_to_end
from bench.support.figures import Figure, Section, Unit, median, percentile, render_table
from bench.support.installation import Bench, open_bench, say
from bench.support.machine import describe_machine, load, peak_rss, reset_peak, vm_rss
from orchestrator.model import JsonObject
from tests.support.flood_cli import FLOODS, PROGRAM
from tests.support.runner_engine import ensure_cli_image, ensure_runner_image

ALL = (
    ("output", 100),
    ("line", 64),
    ("tiny", 1_000_000),
    ("pace", 30),
    ("stderr", 100),
    ("junk", 2),
)
UNITS = {"tiny": "events", "pace": "s at 10,000 lines/s"}
QUIET_TURNS = 20
LIMIT_S = 3000.0
# What the allocator gives back, it has given back by then.
_SETTLE_S = 3.0
_FLOOD_S = 1800.0
# The same person asks all the time: that is no flood here.
_SENDER: JsonObject = {"sender_burst": 100_000, "sender_per_minute": 100_000}

NOTES = """\
RSS is VmRSS of the orchestrator's process; its peak is the kernel's own (VmHWM, reset before). Each
is above what it was before that flood, or that quiet stretch. The target for the peak is 64 MiB.
Turns: a message in another room until its answer is seen by the client there. Of a flood that is
over before a turn is, the turn counts still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some time with or without a flood; bytes above its beginning, seconds of each turn."""

    peak: int
    after: int
    turns: tuple[float, ...]


def main() -> None:
    """Run everything and print the table."""
    need_root()
    floods = parse_floods(sys.argv[1:])
    logger.remove()
    with contextlib.redirect_stdout(sys.stderr):
        image, flooding = ensure_runner_image(), ensure_cli_image(PROGRAM)
    run_to_end(run(image, flooding, floods), limit_s=LIMIT_S)


def parse_floods(words: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Pairs of kind and size."""
    if not words:
        return ALL
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or any(k not in FLOODS or not size.isdigit() for k, size in pairs):
        sys.exit(__doc__)
    return tuple((kind, int(size)) for kind, size in pairs)


async def run(image: str, flooding: str, floods: Sequence[tuple[str, int]]) -> None:
    """Measure, then print; whatever happens, nothing that was started stays."""
    load_before = load()
    sections: list[Section] = []
    async with (
        asyncio.timeout(LIMIT_S),
        open_bench(image, Path(), docker={"image": flooding}, gateway=_SENDER) as bench,
    ):
        noisy, quiet = [await bench.person.new_room(name) for name in ("noisy", "quiet")]
        for room in (noisy, quiet):
            await bench.person.ask(room, "warm up")
        for kind, size in floods:
            say(f"{kind} {size}")
            without = await measure_quiet(bench, quiet)
            flooded = await measure_flood(bench, noisy, quiet, f"flood {kind} {size}")
            sections.append(build_section(kind, size, flooded, without))
        head = describe_machine(bench.client, load_before)
    print("\n".join([head, "", *render_table(sections), "", NOTES]))


async def measure_quiet(bench: Bench, quiet: str) -> Stretch:
    """Turns of one room, and nothing else."""
    before = await begin(bench)
    turns = [(await bench.person.ask(quiet, f"q {n}")).seconds for n in range(QUIET_TURNS)]
    return await end(bench, before, turns)


async def measure_flood(bench: Bench, noisy: str, quiet: str, text: str) -> Stretch:
    """Turns of one room for as long as another one floods."""
    before = await begin(bench)
    turns: list[float] = []
    _, flood_id = await bench.person.send(noisy, text)
    async with asyncio.timeout(_FLOOD_S):
        while not bench.person.has_answer(flood_id):
            turns.append((await bench.person.ask(quiet, f"q {len(turns)}")).seconds)
        await bench.person.wait_for_answer(flood_id)
    return await end(bench, before, turns)


async def begin(bench: Bench) -> int:
    await asyncio.sleep(_SETTLE_S)
    reset_peak(bench.orchestrator.pid)
    return vm_rss(bench.orchestrator.pid)


async def end(bench: Bench, before: int, turns: list[float]) -> Stretch:
    peak = peak_rss(bench.orchestrator.pid) - before
    await asyncio.sleep(_SETTLE_S)
    after = vm_rss(bench.orchestrator.pid) - before
    return Stretch(peak=peak, after=after, turns=tuple(turns))


def build_section(kind: str, size: int, flooded: Stretch, without: Stretch) -> Section:
    memory = {
        "RSS, peak": (flooded.peak, without.peak),
        "RSS, after": (flooded.after, without.after),
    }
    turns = {
        "median": (median(flooded.turns), median(without.turns)),
        "p95": (percentile(flooded.turns, 95), percentile(without.turns, 95)),
        "longest": (max(flooded.turns), max(without.turns)),
    }
    figures = [
        Figure(name=name, value=value, unit=Unit.BYTES, than="without", than_value=than)
        for name, (value, than) in memory.items()
    ]
    figures += [
        Figure(name=f"another room's turn, {name}", value=value, than="without", than_value=than)
        for name, (value, than) in turns.items()
    ]
    title = f"{kind}, {size:,} {UNITS.get(kind, 'MB')} ({len(flooded.turns)} turns meanwhile)"
    return Section(title=title, figures=tuple(figures))


if __name__ == "__main__":
    main()
