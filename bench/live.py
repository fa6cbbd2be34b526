"""A live answer beside one that comes at once: the first sign, the end, the events that it takes.

    .venv/bin/python -m bench.live

Real parts: `orchestrator up --embedded` with its Synapse, the Docker Engine, the real CLI; the
Messages API is a stand-in that writes for some five seconds, with a tool in between. Each mode has
an installation of its own; the rounds of all of them alternate. The table goes to stdout, progress
to stderr. Needs root, as the orchestrator does. Takes about two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from bench.support.entrance import run_with_cli
from bench.support.figures import Figure, Section, median, render_table
from bench.support.installation import Bench, open_bench, say
from bench.support.machine import describe_machine, load
from bench.support.room import Watched
from orchestrator.embedded.messages_model import Stall, Text, ToolUse

MODES = ("edit", "messages", "final")
ROUNDS = 5
LIMIT_S = 600.0
_WORDS = "a long answer"
_PARAGRAPH = "Some words of an answer that takes its time. " * 12

NOTES = """\
First sign: the first message of the turn that the person's client has, from sending. A reaction to
the person's message comes before it, in all modes. The end: the message that ends the turn.
Events: messages and edits of a turn, of which only the first one notifies anybody."""


def main() -> None:
    """Run everything and print the table."""
    run_with_cli(run, limit_s=LIMIT_S)


async def run(image: str, claude: Path) -> None:
    """Measure, then print; whatever happens, nothing that was started stays."""
    load_before = load()
    seen: dict[str, list[Watched]] = {mode: [] for mode in MODES}
    async with asyncio.timeout(LIMIT_S), contextlib.AsyncExitStack() as stack:
        rooms: dict[str, tuple[Bench, str]] = {}
        for mode in MODES:
            opening = open_bench(image, claude, defaults={"stream": mode, "greet": False})
            bench = await stack.enter_async_context(opening)
            bench.api.when(
                _WORDS,
                [
                    *[part for _ in range(3) for part in (Text(text=_PARAGRAPH), Stall(seconds=1))],
                    ToolUse(name="Bash", input={"command": "sleep 2"}),
                ],
                [part for _ in range(3) for part in (Stall(seconds=1), Text(text=_PARAGRAPH))],
            )
            rooms[mode] = (bench, await bench.person.new_room(mode))
            await bench.person.watch(rooms[mode][1], "the container is made")
        for number in range(ROUNDS):
            for mode, (bench, room) in rooms.items():
                say(f"round {number + 1} of {ROUNDS}: {mode}")
                seen[mode].append(await bench.person.watch(room, f"{_WORDS} {number}"))
        head = describe_machine(rooms["edit"][0].client, load_before)
    print("\n".join([head, "", *render_table([_section(seen)]), "", *_events(seen), "", NOTES]))


def _section(seen: dict[str, list[Watched]]) -> Section:
    figures: list[Figure] = []
    for name, of in (("first sign", _first), ("the end", _last)):
        than = median([of(one) for one in seen["final"]])
        figures += [
            Figure(
                name=f"{name}, stream: {mode}",
                value=median([of(one) for one in seen[mode]]),
                than="stream: final",
                than_value=than,
            )
            for mode in MODES[:-1]
        ]
    return Section(title=f"Medians of {ROUNDS} turns of some five seconds", figures=tuple(figures))


def _first(one: Watched) -> float:
    return one.first_s


def _last(one: Watched) -> float:
    return one.last_s


def _events(seen: dict[str, list[Watched]]) -> list[str]:
    counts = {mode: median([one.events for one in seen[mode]]) for mode in MODES}
    return [f"events of a turn: {', '.join(f'{mode} {n:.0f}' for mode, n in counts.items())}"]


if __name__ == "__main__":
    main()
