"""Kills an orchestrator at each place that a scenario passes, and sees whether that was noticed.

The places are found by running the scenario with a trace. Then, for each: the acts begin while the
orchestrator is down, it is started with that place armed, dies there, is started again unarmed, and
the acts must come to their end. At the end of it all everything that was ever sent is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.act import ACTS, Act, ask_for_text, prepare
from tests.chaos.judge import read_pending
from tests.chaos.site import Site, died_of_kill, open_site
from tests.support.synapse import SynapseServer

# Between the last thing that people see of an act and the last that the orchestrator does for it
# (marks, acknowledgements) lie milliseconds.
_AFTERMATH_S = 2.0
# An act passes most places once: its third time comes with the third act.
_ROUNDS = 3
_QUIET_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """Where it dies, at which time that it gets there, and what people do meanwhile."""

    point: str
    occurrence: int
    act: Act

    @property
    def fault(self) -> str:
        """As the environment has it."""
        return f"{self.point}:{self.occurrence}"


@dataclass(slots=True)
class SweepReport:
    """What was tried, and what went wrong."""

    died: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sent: int = 0
    answered: int = 0

    def __iadd__(self, other: SweepReport) -> SweepReport:
        self.died += other.died
        self.unreached += other.unreached
        self.failures += other.failures
        self.sent += other.sent
        self.answered += other.answered
        return self

    def summary(self) -> str:
        """One line."""
        return (
            f"deaths={len(self.died)} not_reached={len(self.unreached)} sent={self.sent} "
            f"answered={self.answered} failures={len(self.failures)}"
        )


async def discover(site: Site) -> tuple[dict[str, Act], list[str]]:
    """Each place that the acts pass, with the first act that passes it; the site is down after.

    And those that are passed only before: at the first start, and in the first rooms.
    """
    await site.spawn()
    await prepare(site)
    first = {name: None for _, name in await _trace_at_rest(site)}
    found: dict[str, Act] = {}
    for act in ACTS:
        before = len(await _trace_at_rest(site))
        await act(site)
        for _, name in (await _trace_at_rest(site))[before:]:
            found.setdefault(name, act)
    await site.orchestrator.kill()
    return found, [name for name in first if name not in found]


async def _trace_at_rest(site: Site) -> list[tuple[float, str]]:
    """The trace, once nothing is added to it any more."""
    trace = site.trace()
    while True:
        await asyncio.sleep(_QUIET_S)
        before, trace = trace, site.trace()
        if len(trace) == len(before):
            return trace


async def sweep(
    directory: Path,
    server: SynapseServer,
    strikes: Iterable[Strike],
    *,
    lanes: int,
    first: Site | None = None,
) -> SweepReport:
    """Try all of them, on so many installations at the same time."""
    report, queue = SweepReport(), deque(strikes)
    async with asyncio.TaskGroup() as group:
        if first is not None:
            group.create_task(_run_lane(first, queue, report))
        for number in range(lanes - (first is not None)):
            group.create_task(_open_lane(directory / f"lane{number}", server, queue, report))
    return report


async def _open_lane(
    directory: Path, server: SynapseServer, queue: deque[Strike], report: SweepReport
) -> None:
    async with open_site(directory, server) as site:
        await site.spawn()
        await prepare(site)
        await site.orchestrator.kill()
        await _run_lane(site, queue, report)


async def _run_lane(site: Site, queue: deque[Strike], report: SweepReport) -> None:
    while queue:
        strike = queue.popleft()
        try:
            await _try(site, strike, report)
        except* (AssertionError, TimeoutError) as errors:
            why = [str(e) or type(e).__name__ for e in errors.exceptions]
            report.failures.append(f"{strike.fault}: {why}; {_left(site)}")
        finally:
            await site.orchestrator.kill()
    await _judge(site, report)


async def strike_at_birth(
    directory: Path, server: SynapseServer, points: Sequence[str]
) -> SweepReport:
    """For each of these places an installation of its own, that dies there in its first life."""
    report = SweepReport()
    for number, point in enumerate(points):
        async with open_site(directory / f"birth{number}", server) as site:
            await site.spawn(f"{point}:1")
            async with asyncio.TaskGroup() as group:
                acts = [group.create_task(_as_value(prepare(site)))]
                if await _died(site, acts):
                    report.died.append(point)
                    await site.spawn()
                else:
                    report.unreached.append(point)
                await _finish(acts)
            await site.until_settled()
            await site.orchestrator.kill()
            await _judge(site, report)
    return report


def _left(site: Site) -> str:
    open_ = [
        m.name for m in site.sent if not site.is_answered(m) and m.event_id not in site.refused
    ]
    return f"open: {open_}, {read_pending(site.orchestrator.state_dir)}"


async def _judge(site: Site, report: SweepReport) -> None:
    await site.spawn()
    await site.orchestrator.wait_ready()
    with suppress(TimeoutError):
        await site.until_settled()
    code = await site.orchestrator.stop()
    verdict = await site.verdict()
    report.sent += verdict.sent
    report.answered += verdict.answered
    problems = verdict.describe()
    if problems:
        report.failures.append(problems)
    if set(verdict.outcomes) - {"done", "refused by the room"}:
        report.failures.append(f"ends: {dict(verdict.outcomes)}")
    report.failures += [f"audit: {finding}" for finding in await site.audit()]
    if code:
        report.failures.append(f"the last life ended with {code}")
    if any(read_pending(site.orchestrator.state_dir).values()):
        report.failures.append(f"left over: {read_pending(site.orchestrator.state_dir)}")


async def _try(site: Site, strike: Strike, report: SweepReport) -> None:
    for round_ in range(_ROUNDS):
        async with asyncio.TaskGroup() as group:
            acts = [group.create_task(_as_value(act(site))) for act in {strike.act, ask_for_text}]
            if round_ == 0:
                await site.spawn(strike.fault)
            if await _died(site, acts):
                assert site.trace()[-1][1] == strike.point, f"died at {site.trace()[-1]}"
                report.died.append(strike.fault)
                await site.spawn()
                await _finish(acts)
                await site.until_settled()
                return
            await _finish(acts)
    report.unreached.append(strike.fault)


async def _as_value(act: Awaitable[object]) -> Exception | None:
    """An act's failure as a value: its group has other work to finish."""
    try:
        await act
    except (AssertionError, TimeoutError) as e:
        return e
    return None


async def _died(site: Site, acts: Sequence[asyncio.Task[Exception | None]]) -> bool:
    """Whether the orchestrator ended before, or right after, the acts did."""
    async with asyncio.TaskGroup() as group:
        end = group.create_task(site.orchestrator.wait_dead())
        done = group.create_task(_finish(acts))
        await asyncio.wait({end, done}, return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            await asyncio.wait({end}, timeout=_AFTERMATH_S)
        done.cancel()
        if not end.done():
            end.cancel()
            return False
    code = end.result()
    assert died_of_kill(code), f"it ended with {code}: {site.orchestrator.log[-2000:]}"
    return True


async def _finish(acts: Sequence[asyncio.Task[Exception | None]]) -> None:
    """Wait for all of them; the first failure is raised."""
    await asyncio.wait(acts)
    for act in acts:
        if (error := act.result()) is not None:
            raise error


def plan(found: Mapping[str, Act], *, occurrences: int = 1) -> list[Strike]:
    """Each place, at each of its first so many times."""
    return [
        Strike(point=point, occurrence=number, act=act)
        for number in range(1, occurrences + 1)
        for point, act in found.items()
    ]
