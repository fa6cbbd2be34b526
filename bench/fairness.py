"""How long another room's turn takes while one room makes noise, beside the same in quiet.

    .venv/bin/python -m bench.fairness [WORD …]

With words only the noises whose names have one of them. Real parts: `orchestrator up --embedded`
with its Synapse, the Docker Engine, the real CLI in every room; the Messages API is a stand-in that
answers at once. Each noise alternates with quiet, several times, so that both see the same machine.
The table goes to stdout, progress to stderr. Needs root. Takes about seven minutes with all noises.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from bench.support.entrance import need_root, run_to_end
from bench.support.figures import Figure, Section, median, percentile, render_table
from bench.support.installation import Bench, open_bench, say
from bench.support.machine import describe_machine, load
from bench.support.noise import NOISES, Noise
from bench.support.room import read_stages
from orchestrator.model import JsonObject, Permissions
from tests.support.claude_cli import ensure_claude_cli
from tests.support.runner_engine import ensure_runner_image

ROUNDS = 3
TURNS_A_ROUND = 7
LIMIT_S = 1500.0
_SETTLE_S = 1.0
_NUMBERS = itertools.count()
# More than the person in the quiet room sends; a flood meets it after a few seconds.
_SENDER: JsonObject = {"sender_burst": 200, "sender_per_minute": 120}

NOTES = f"""\
A turn: a message sent until its answer is seen, in a room whose CLI is live; {ROUNDS} rounds of
{TURNS_A_ROUND} turns in quiet and {TURNS_A_ROUND} with the noise. The noisy room has the limits
that every room has by default (2 CPUs, 2 GiB, 512 processes): on a machine of 2 cores it may want
all of them. The flood may send {_SENDER["sender_burst"]} messages at once and
{_SENDER["sender_per_minute"]} a minute (the default is 60 and 30): more would be refused sooner.
Without the homeserver: from the message's being stored to its turn's being stored as ended."""


def main() -> None:
    """Run everything and print the table."""
    need_root()
    words = sys.argv[1:]
    chosen = {n: noise for n, noise in NOISES.items() if not words or any(w in n for w in words)}
    logger.remove()
    with contextlib.redirect_stdout(sys.stderr):
        image = ensure_runner_image()
        claude = ensure_claude_cli()
    run_to_end(run(image, claude, chosen), limit_s=LIMIT_S)


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of one turn: all of it, and from its being stored to its end."""

    seconds: float
    inside: float


async def run(image: str, claude: Path, noises: dict[str, Noise]) -> None:
    """Measure, then print; whatever happens, nothing that was started stays."""
    load_before = load()
    async with (
        asyncio.timeout(LIMIT_S),
        open_bench(image, claude, permissions=Permissions.BYPASS, gateway=_SENDER) as bench,
    ):
        quiet = await bench.person.new_room("quiet")
        await ask(bench, quiet, 3)
        sections = [await measure(bench, quiet, name, noise) for name, noise in noises.items()]
        head = describe_machine(bench.client, load_before)
    print("\n".join([head, "", *render_table(sections), "", NOTES]))


async def measure(bench: Bench, quiet: str, name: str, noise: Noise) -> Section:
    """Quiet and noisy stretches in turns."""
    noisy = await bench.person.new_room(name)
    await bench.person.ask(noisy, "warm up")
    without: list[Sample] = []
    beside: list[Sample] = []
    for n in range(ROUNDS):
        say(f"{name}, round {n + 1} of {ROUNDS}")
        await asyncio.sleep(_SETTLE_S)
        without += await ask(bench, quiet, TURNS_A_ROUND)
        async with noise(bench, noisy):
            beside += await ask(bench, quiet, TURNS_A_ROUND)
    return build_section(name, beside, without)


async def ask(bench: Bench, room: str, count: int) -> list[Sample]:
    """So many turns, one after the other."""
    samples: list[Sample] = []
    for _ in range(count):
        turn = await bench.person.ask(room, f"question {next(_NUMBERS)}")
        at = read_stages(bench.state_dir, turn, bench.api)
        samples.append(Sample(turn.seconds, at.window + at.to_api + at.from_api))
    return samples


def build_section(name: str, beside: Sequence[Sample], without: Sequence[Sample]) -> Section:
    """A noise's lines."""
    loud, calm = [s.seconds for s in beside], [s.seconds for s in without]
    ways = {
        "median": (median(loud), median(calm)),
        "p95": (percentile(loud, 95), percentile(calm, 95)),
        "longest": (max(loud), max(calm)),
        "· without the homeserver, median": (
            median([s.inside for s in beside]),
            median([s.inside for s in without]),
        ),
    }
    return Section(
        title=f"Another room's turn beside {name}",
        figures=tuple(
            Figure(name=way, value=value, than="in quiet", than_value=than)
            for way, (value, than) in ways.items()
        ),
    )


if __name__ == "__main__":
    main()
