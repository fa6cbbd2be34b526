"""Cold starts and warm turns: a room's beside what the CLI takes without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.support.cli_alone import (
    ask,
    time_new_process,
    time_plain_container,
    time_version_in_container,
)
from bench.support.figures import Figure, Section, median, percentile
from bench.support.installation import Bench, say
from bench.support.room import Stages, read_stages
from orchestrator.config import GatewayConfig
from tests.support.cli_process import CliProcess

# The first turns of a conversation are slower on both sides (a title, caches of the CLI).
_UNMEASURED_TURNS = 2
# The CLI works on for a moment after a result, which the next measurement would see.
_SETTLE_S = 1.0
_QUIET_S = GatewayConfig().quiet_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdSample:
    """Seconds of one round: the room's turn, and three ways to compare it."""

    room: float
    stages: Stages
    container: float
    process: float
    version: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSample:
    """Seconds of one round: the room's turn, and the CLI's alone."""

    room: float
    stages: Stages
    alone: float
    alone_to_api: float

    @property
    def alone_from_api(self) -> float:
        """From the API's being asked to the result."""
        return self.alone - self.alone_to_api


async def measure_cold_starts(bench: Bench, count: int) -> tuple[Section, list[str]]:
    """New rooms, one after the other; they stay, and are returned."""
    samples: list[ColdSample] = []
    rooms: list[str] = []
    for n in range(count):
        say(f"cold start {n + 1} of {count}")
        rooms.append(await bench.person.new_room(f"cold {n}"))
        samples.append(await _sample_cold(bench, rooms[-1], n))
    return _cold_section(samples), rooms


async def measure_warm_turns(bench: Bench, room: str, cli: CliProcess, count: int) -> Section:
    """The same messages to a room and to the CLI alone, in turns."""
    say(f"{count} warm turns")
    for n in range(_UNMEASURED_TURNS):
        await _sample_warm(bench, room, cli, f"before {n}")
    return _warm_section([await _sample_warm(bench, room, cli, f"{n:02}") for n in range(count)])


async def _sample_cold(bench: Bench, room: str, n: int) -> ColdSample:
    await asyncio.sleep(_SETTLE_S)
    turn = await bench.person.ask(room, f"first question to room {n}")
    await asyncio.sleep(_SETTLE_S)
    return ColdSample(
        room=turn.seconds,
        stages=read_stages(bench.state_dir, turn, bench.api),
        container=await time_plain_container(bench.client, bench.parts, f"in a container {n}"),
        process=await time_new_process(bench.parts, f"in a process {n}"),
        version=await time_version_in_container(bench.client, bench.parts),
    )


async def _sample_warm(bench: Bench, room: str, cli: CliProcess, name: str) -> WarmSample:
    turn = await bench.person.ask(room, f"question {name} to the room")
    text = f"question {name} to the CLI"
    start = time.time()
    await ask(cli, text)
    alone = time.time() - start
    return WarmSample(
        room=turn.seconds,
        stages=read_stages(bench.state_dir, turn, bench.api),
        alone=alone,
        alone_to_api=bench.api.asked_at[text] - start,
    )


def _cold_section(samples: Sequence[ColdSample]) -> Section:
    room = median([sample.room for sample in samples])
    others = {
        "a plain container, its CLI, one turn": [sample.container for sample in samples],
        "a new CLI on the host, one turn": [sample.process for sample in samples],
        "a container for `claude --version`": [sample.version for sample in samples],
    }
    compared = (
        Figure(
            name="the same" if n else "message sent to answer seen",
            value=room,
            than=than,
            than_value=median(values),
        )
        for n, (than, values) in enumerate(others.items())
    )
    at = _stage_medians([sample.stages for sample in samples])
    return Section(
        title=f"Cold start: a new room without a container, median of {len(samples)}",
        figures=(
            *compared,
            Figure(name="· to the orchestrator", value=at.arrive),
            _window(at),
            Figure(name="· container, CLI, to the API", value=at.to_api),
            Figure(name="· from the API to the turn's end", value=at.from_api),
            Figure(name="· to the person's client", value=at.leave),
        ),
    )


def _warm_section(samples: Sequence[WarmSample]) -> Section:
    room, alone = [s.room for s in samples], [s.alone for s in samples]
    at = _stage_medians([sample.stages for sample in samples])
    return Section(
        title=f"Warm turn: the room's CLI is live, {len(samples)} turns",
        figures=(
            Figure(
                name="message sent to answer seen, median",
                value=median(room),
                than="the CLI alone, live, same message",
                than_value=median(alone),
            ),
            Figure(
                name="the same, p95",
                value=percentile(room, 95),
                than="the same, p95",
                than_value=percentile(alone, 95),
            ),
            Figure(
                name="median without the quiet window",
                value=median(room) - _QUIET_S,
                than="the CLI alone, median",
                than_value=median(alone),
            ),
            Figure(name="· to the orchestrator", value=at.arrive),
            _window(at),
            Figure(
                name="· wire, shim, CLI, egress, to the API",
                value=at.to_api,
                than="the CLI alone, to the API",
                than_value=median([s.alone_to_api for s in samples]),
            ),
            Figure(
                name="· from the API to the turn's end",
                value=at.from_api,
                than="the CLI alone, from the API",
                than_value=median([s.alone_from_api for s in samples]),
            ),
            Figure(name="· to the person's client", value=at.leave),
        ),
    )


def _window(at: Stages) -> Figure:
    return Figure(
        name="· stored, quiet window, made a turn",
        value=at.window,
        than="the quiet window, by design",
        than_value=_QUIET_S,
    )


def _stage_medians(stages: Sequence[Stages]) -> Stages:
    return Stages(
        arrive=median([s.arrive for s in stages]),
        window=median([s.window for s in stages]),
        to_api=median([s.to_api for s in stages]),
        from_api=median([s.from_api for s in stages]),
        leave=median([s.leave for s in stages]),
    )
