"""What one turn hears of a connection: its own in order, the rest as how far it has come."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import WireClosedError
from orchestrator.model import Seq
from orchestrator.rooms.line import MAILBOX_FRAMES, Line, LinkLost, PassedOver
from orchestrator.runners.event import Applied, CliLine, SessionExited

OWN, OTHER = "own", "other"


def line_of(q: int, session: str = OWN) -> CliLine:
    return CliLine(q=Seq(q), session=session, line="{}")


def new_line() -> Line:
    return Line(OWN, start=Seq(0))


async def test_it_is_for_its_sessions_frames_and_for_news_of_commands() -> None:
    line = new_line()
    assert line.is_for(line_of(1))
    assert not line.is_for(line_of(1, OTHER))
    assert not line.is_for(SessionExited(q=Seq(1), session=OTHER, code=0, signal=None))
    assert line.is_for(Applied(q=Seq(1), command_id="any", duplicate=False))


async def test_what_is_passed_over_is_one_mark_between_its_own() -> None:
    line = new_line()
    for q in (1, 2):
        line.pass_over(Seq(q))
    await line.put(line_of(3))
    for q in range(4, 100_000):
        line.pass_over(Seq(q))
    got = [await line.receive(None) for _ in range(3)]
    assert got == [PassedOver(Seq(2)), line_of(3), PassedOver(Seq(99_999))]
    assert await line.receive(asyncio.get_running_loop().time()) is None


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_full_one_holds_up_the_stream_until_it_is_read_or_closed(*, is_read: bool) -> None:
    line = new_line()
    for q in range(1, MAILBOX_FRAMES + 1):
        await line.put(line_of(q))
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        putting = group.create_task(line.put(line_of(1000)))
        await asyncio.sleep(0.01)
        assert not putting.done()
        if is_read:
            assert await line.receive(None) == line_of(1)
        else:
            line.close()


async def test_a_nudge_ends_a_wait_and_loses_nothing() -> None:
    line = new_line()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(line.receive(None))
        await asyncio.sleep(0.01)
        line.nudge()
    assert waiting.result() is None
    line.nudge()
    await line.put(line_of(1))
    assert await line.receive(None) == line_of(1)


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    line = new_line()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(line.receive(None))
        await asyncio.sleep(0.01)
        waiting.cancel()
    line.put_now(LinkLost(WireClosedError()))
    assert isinstance(await line.receive(None), LinkLost)
