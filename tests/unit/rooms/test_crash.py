"""A life of the orchestrator ends at each of its steps; the next one finishes what it began."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.model import TurnState
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver, RateLimitedHomeserver
from tests.support.rate_limit import LeakyBucket
from tests.support.room_rig import Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import hang, tell


async def tools(turn: Turn) -> None:
    turn.text("first")
    await asyncio.sleep(5)
    answer = await turn.ask("Bash", "r1")
    turn.text(answer["response"]["behavior"])
    await asyncio.sleep(5)
    turn.text("last")
    turn.result("last")


async def long(turn: Turn) -> None:
    for i in range(6):
        turn.text(f"block {i} " + "word " * 1500)
        await asyncio.sleep(0.9)
    turn.result("")


async def crashing(turn: Turn) -> None:
    turn.text("before the crash")
    await asyncio.sleep(3)
    turn.process.kill(9)
    await asyncio.sleep(1)


@dataclass(frozen=True)
class Case:
    """What happens in the turn that is interrupted, and before it."""

    name: str
    script: Callable[[Turn], Coroutine[Any, Any, None]] | None
    outcome: str = "done"
    loses_session: bool = False
    thread: str | None = None
    """It is asked for in a thread, after a turn of the room's."""
    stride: int = 1
    """Not each step, where most are the same as in another case."""
    shows: int = 1
    """The account can spare a message for each n-th that is asked for; 0: for none."""
    max_messages: int = 100


CASES = [
    Case("plain", None),
    Case("tools", tools),
    Case("long", long, stride=3),
    Case("long, with no message to spare", long, stride=2, shows=0),
    Case("long, with few messages to spare", long, stride=2, shows=3),
    Case("long, in a file", long, stride=2, shows=0, max_messages=2),
    Case("long, in files", long, stride=2, shows=2, max_messages=1),
    Case("crashing, with no message to spare", crashing, outcome="failed", stride=2, shows=0),
    Case("crashing", crashing, outcome="failed", stride=2),
    Case("session lost", None, loses_session=True),
    Case("in a thread", tools, thread="$root"),
]


async def prepare(rig: Rig, case: Case) -> None:
    """An earlier turn, whose conversation is lost, or goes on beside the thread's."""
    async with rig.life() as life:
        await tell(rig, life, "before")
        await rig.wait_ended(1)
        if not case.loses_session:
            return
        for process in rig.shim.sessions.values():
            process.kill(9)
        rig.claude.conversations.clear()
        await asyncio.sleep(1)


async def crash_and_go_on(folder: Path, case: Case, crash_at: int) -> tuple[int, str]:
    """A turn, a crash at that step, another life; the number of steps, and what the room read."""
    gateway = {"max_event_bytes": 8192, "max_answer_messages": case.max_messages}
    async with open_rig(folder, gateway=gateway) as rig:
        asked = itertools.count(1)
        rig.may_show = lambda _: case.shows > 0 and next(asked) % case.shows == 0
        earlier = int(case.loses_session or case.thread is not None)
        if earlier:
            await prepare(rig, case)
        if case.script is not None:
            rig.claude.scripts["work"] = case.script
        await rig.receive("work", thread=case.thread)
        async with rig.life(crash_at=crash_at) as life:
            await rig.wait_ended(earlier + 1, life=life)
            count = life.points.count
        async with rig.life() as life:
            await rig.wait_ended(earlier + 1, timeout_s=60)
            await tell(rig, life, "and now?")
            await rig.wait_ended(earlier + 2, timeout_s=60)
        read = await rig.read()
        outcomes = await rig.outcomes()
        assert outcomes[-2:] == [case.outcome, "done"], (crash_at, outcomes, read)
        assert rig.claude.asked[-2:] == ["work", "and now?"], crash_at
        assert rig.claude.asked.count("work") == 1, crash_at
        assert all(t.state is TurnState.ENDED for t in await rig.turns())
        assert len(rig.shims) == 1, crash_at
        return count, read


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_crash_at_any_step_of_a_turn_neither_loses_nor_doubles_anything(
    tmp_path: Path, case: Case
) -> None:
    steps, usual = run_rooms(crash_and_go_on(tmp_path / "none", case, 0))
    assert steps > 30
    assert case.script is not long or [w for w in usual.split() if w.isdigit()] == list("012345")
    for crash_at in range(1, steps + 1, case.stride):
        _, read = run_rooms(crash_and_go_on(tmp_path / str(crash_at), case, crash_at))
        assert read == usual, crash_at


async def crash_twice(folder: Path, first: int, second: int) -> None:
    async with open_rig(folder) as rig:
        rig.claude.scripts["work"] = tools
        await rig.receive("work")
        for crash_at in (first, second):
            async with rig.life(crash_at=crash_at) as life:
                crashed = life.points.crashed

                async def is_over(crashed: asyncio.Event = crashed) -> bool:
                    return crashed.is_set() or bool(await rig.outcomes())

                await rig.wait(is_over)
        async with rig.life():
            await rig.wait_ended(1, timeout_s=60)
        assert rig.claude.asked == ["work"]
        bodies = await rig.bodies()
        assert [b for b in bodies if "approval" not in b] == ["first", "deny", "last"], (
            first,
            second,
        )


def test_two_crashes_are_survived_as_one_is(tmp_path: Path) -> None:
    for first in range(14, 70, 7):
        for second in range(3, 40, 6):
            run_rooms(crash_twice(tmp_path / f"{first}-{second}", first, second))


async def crash_while_stopping(folder: Path, crash_at: int) -> int:
    async with open_rig(folder) as rig:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        await rig.receive("!cancel")
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                return life.points.crashed.is_set() or bool(await rig.outcomes())

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life() as life:
            # The command alone is enough, whichever life reads it.
            await rig.wait_ended(1, timeout_s=30)
            await tell(rig, life, "and now?")
            await rig.wait_ended(2, timeout_s=30)
        assert await rig.outcomes() == ["cancelled", "done"], crash_at
        bodies = await rig.bodies()
        assert (bodies.count("Cancelled."), bodies.count(texts.CANCEL_ASKED)) == (1, 1), crash_at
        return count


def test_a_cancel_counts_once_whatever_step_of_it_a_crash_meets(tmp_path: Path) -> None:
    steps = run_rooms(crash_while_stopping(tmp_path / "none", 0))
    for crash_at in range(1, steps + 1):
        run_rooms(crash_while_stopping(tmp_path / str(crash_at), crash_at))


def read_account(account: MemoryHomeserver) -> str:
    """All that the homeserver shows, files in place of their previews."""
    found: list[str] = []
    for content in account.contents:
        if "url" in content:
            number = int(str(content["url"]).rpartition("/")[2])
            found[-1] = account.uploads[number - 1][2].decode()
        elif "body" in content:
            found.append(str(content["body"]))
    return " ".join(" ".join(found).split())


async def crash_while_sending(folder: Path, crash_at: int, max_messages: int) -> tuple[int, str]:
    """A turn that streams, on a homeserver that limits messages; a crash of rooms and sender."""
    gateway = {"max_event_bytes": 8192, "max_answer_messages": max_messages}
    async with open_rig(folder, gateway=gateway) as rig:
        account = rig.account = RateLimitedHomeserver(limiter=LeakyBucket(rate_per_s=0.2, burst=2))
        rig.claude.scripts["work"] = long
        await rig.receive("work")

        async def is_sent() -> bool:
            return not await rig.store.outbox.waiting() and bool(await rig.outcomes())

        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                return life.points.crashed.is_set() or await is_sent()

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life():
            await rig.wait(is_sent, timeout_s=600)
        return count, read_account(account)


@pytest.mark.parametrize("max_messages", [1, 100])
def test_a_crash_at_any_step_between_a_turn_and_the_homeserver_loses_and_doubles_nothing(
    tmp_path: Path, max_messages: int
) -> None:
    steps, usual = run_rooms(crash_while_sending(tmp_path / "none", 0, max_messages))
    assert [word for word in usual.split() if word.isdigit()] == list("012345")
    for crash_at in range(1, steps + 1, 5):
        folder = tmp_path / str(crash_at)
        _, read = run_rooms(crash_while_sending(folder, crash_at, max_messages))
        assert read == usual, crash_at
