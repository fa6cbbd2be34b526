"""Kills the orchestrator at random moments under load, then counts what became of every message.

    python -m tests.chaos.kills --kills 100 [--rooms 6] [--seed N] [--keep DIRECTORY]

Real parts: a Synapse, the Docker Engine, the CLI; the Messages API is scripted. People write in all
rooms at once: questions, commands that are to be run, bursts, long answers that are streamed. The
orchestrator is killed by SIGKILL up to three seconds after it is up, at times while it starts, and
started again at once. The last line is the verdict; the exit code is 1 unless its last three
numbers are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# Read when testcontainers is imported: its clean-up container would be pulled from a registry.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

import docker
from loguru import logger

from tests.chaos.judge import Sent, Verdict, read_pending
from tests.chaos.site import Site, open_site
from tests.support.containers import find_runners, remove_containers
from tests.support.synapse import SynapseServer, run_synapse

# Of ten kills so many come while it still starts: before it is in step with the homeserver.
_EARLY = 0.15
_STARTS_IN_S = 1.2
_LIVES_S = 3.0
# Open questions of a room; more wait in the person.
_MOST_OPEN = 4
# The CLI asks the API again for about 100 s before it gives up, and turns of a room wait in a row.
_SETTLE_S = 600.0
_POLL_S = 0.02
_KINDS = {
    "tool": 40,
    "text": 25,
    "burst": 12,
    "long 25": 10,
    "long 60": 5,
    "huge 3500": 3,
    "!status": 5,
    "!new": 3,
}

Say = Callable[[str], None]


@dataclass(slots=True)
class KillReport:
    """What happened: the deaths, how long each start took, the verdict."""

    deaths: int = 0
    early: int = 0
    in_step_s: list[float] = field(default_factory=list)
    attached: list[int] = field(default_factory=list)
    attached_s: list[float] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    left: dict[str, int] = field(default_factory=dict)
    audit: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, run twice, left over, or found by the audit."""
        return self.verdict.is_clean and not any(self.left.values()) and not self.audit

    def figures(self) -> list[str]:
        """How the starts were, in words."""
        lines = [f"{self.deaths} kills, {self.early} of them before it was in step"]
        if self.in_step_s:
            lines.append(
                f"start to in step with the homeserver: median "
                f"{statistics.median(self.in_step_s):.2f} s, max {max(self.in_step_s):.2f} s "
                f"({len(self.in_step_s)} starts)"
            )
        if self.attached_s:
            lines.append(
                f"start to attached to the last runner that ran: median "
                f"{statistics.median(self.attached_s):.2f} s, max {max(self.attached_s):.2f} s; "
                f"{sum(self.attached)} rooms attached again in all, {self.attached[-1]} at the end"
            )
        return lines

    def lines(self) -> list[str]:
        """The whole report; the verdict is the last line."""
        ends = ", ".join(f"{name}: {n}" for name, n in sorted(self.verdict.outcomes.items()))
        problems = self.verdict.describe()
        left = [f"left over: {self.left}"] if any(self.left.values()) else []
        return [
            *self.figures(),
            f"how turns ended, by message: {ends}",
            *(f"  {count} × {text!r}" for text, count in self.verdict.sentences.items()),
            *([problems] if problems else []),
            *left,
            f"orchestrator audit messages --settled: {len(self.audit)} amiss",
            *self.audit,
            self.verdict.summary(),
        ]


class Load:
    """People who write, each in a room. Invariant: at most _MOST_OPEN questions of a room wait."""

    def __init__(self, site: Site, random_: random.Random) -> None:
        self._site = site
        self._random = random_
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Load {self._site!r} over={self._is_over}>"

    def end(self) -> None:
        """Nothing more is sent."""
        self._is_over = True

    async def talk(self, room: str) -> None:
        """Write in this room until the end."""
        mine: list[Sent] = []
        while not self._is_over:
            mine += await self._write(room)
            await asyncio.sleep(self._random.uniform(0.0, 0.6))
            await self._site.until(partial(self._may_write, mine), timeout_s=_SETTLE_S)

    def _may_write(self, mine: list[Sent]) -> bool:
        mine[:] = [m for m in mine if not self._site.is_answered(m)]
        return self._is_over or len(mine) < _MOST_OPEN

    async def _write(self, room: str) -> list[Sent]:
        (kind,) = self._random.choices(list(_KINDS), weights=list(_KINDS.values()))
        if kind.startswith("!"):
            return [await self._site.send(room, kind)]
        if kind == "burst":
            return [await self._site.ask(room, k) for k in ("text", "tool", "text")]
        return [await self._site.ask(room, kind)]


async def run_kills(
    directory: Path, server: SynapseServer, *, kills: int, rooms: int, seed: int, say: Say
) -> KillReport:
    """Everything from the first start to the verdict."""
    report, random_ = KillReport(), random.Random(seed)
    async with open_site(directory, server) as site:
        await _begin(site, rooms)
        load = Load(site, random_)
        async with asyncio.TaskGroup() as group:
            for room in site.rooms:
                group.create_task(load.talk(room))
            try:
                for number in range(1, kills + 1):
                    await _live_and_die(site, random_, report)
                    if number % 10 == 0:
                        say(f"{number} kills, {len(site.sent)} messages sent")
            finally:
                load.end()
            started_at = time.monotonic()
            await site.spawn()
        await _settle(site, report, started_at)
    return report


async def _begin(site: Site, rooms: int) -> None:
    await site.spawn()
    for _ in range(rooms):
        await site.new_room()
    await asyncio.gather(*(site.until_joined(room) for room in site.rooms))
    warm = await asyncio.gather(*(site.ask(room, "text") for room in site.rooms))
    await site.until_answered(*warm)
    await site.orchestrator.kill()


async def _live_and_die(site: Site, random_: random.Random, report: KillReport) -> None:
    started_at = time.monotonic()
    await site.spawn()
    if random_.random() < _EARLY:
        await asyncio.sleep(random_.uniform(0.0, _STARTS_IN_S))
        report.early += 1
    else:
        await _until_in_step(site)
        await asyncio.sleep(random_.uniform(0.0, _LIVES_S))
    await site.orchestrator.kill()
    report.deaths += 1
    _note_start(site, started_at, report)


async def _until_in_step(site: Site) -> None:
    """Wait for the first answer of /sync that is stored, or say why there is none."""
    async with asyncio.TaskGroup() as group:
        end = group.create_task(site.orchestrator.wait_dead())
        while not any(name == "sync:committed" for _, name in site.trace()):
            assert not end.done(), f"it ended by itself:\n{site.orchestrator.log[-4000:]}"
            await asyncio.sleep(_POLL_S)
        end.cancel()


def _note_start(site: Site, started_at: float, report: KillReport) -> None:
    trace = site.trace()
    in_step = next((at for at, name in trace if name == "sync:committed"), None)
    attached = [at for at, name in trace if name == "runner:attached"]
    if in_step is not None:
        report.in_step_s.append(in_step - started_at)
    if attached:
        report.attached.append(len(attached))
        report.attached_s.append(attached[-1] - started_at)


async def _settle(site: Site, report: KillReport, started_at: float) -> None:
    """Wait until everything has its end, and count."""
    await site.orchestrator.wait_ready()
    try:
        await site.until_answered(*site.sent, timeout_s=_SETTLE_S)
        await site.until_settled()
    except TimeoutError:
        report.left = read_pending(site.orchestrator.state_dir)
    _note_start(site, started_at, report)
    code = await site.orchestrator.stop()
    assert code == 0, f"the last life ended with {code}:\n{site.orchestrator.log[-4000:]}"
    report.audit = await site.audit()
    report.verdict = await site.verdict()


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--keep", type=Path, help="a new directory for state and log, that stays")
    options = parser.parse_args()
    logger.remove()  # what the scripted API logs; the orchestrator's log is a file
    say(f"{options.kills} kills, {options.rooms} rooms, --seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="aiagentchat-kills-") as temporary:
        directory = options.keep or Path(temporary)
        try:
            with run_synapse(stock_limits=False) as server:
                report = asyncio.run(
                    run_kills(
                        directory.absolute(),
                        server,
                        kills=options.kills,
                        rooms=options.rooms,
                        seed=options.seed,
                        say=say,
                    )
                )
        finally:
            _remove_runners(directory.absolute())
    for line in report.lines():
        say(line)
    return 0 if report.is_clean else 1


def say(text: str) -> None:
    """For people, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _remove_runners(directory: Path) -> None:
    client = docker.from_env()
    try:
        remove_containers(find_runners(client, directory))
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
