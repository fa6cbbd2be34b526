"""Courtesies past the outbox: after all that waits, tried once, and part of what is learnt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from orchestrator.core.pacing import BudgetState, SendBudget
from orchestrator.errors import (
    AiAgentChatError,
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.gateway import outbound
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.model import RoomId, TxnId
from orchestrator.store.api import OutboxRow
from tests.support.outbox import HangingHomeserver, MemoryHomeserver, MemoryOutbox
from tests.support.virtual_time import loop_clock, run_virtual

ROOM = RoomId("!r:x")


class _Answering(MemoryHomeserver):
    def __init__(self, error: Callable[[], AiAgentChatError]) -> None:
        super().__init__()
        self._error = error

    async def answer(self, *_: object) -> object:  # type: ignore[override]
        raise self._error()


async def _nobody_told(_: OutboxRow, __: RequestRefusedError) -> None:
    raise AssertionError


def sender_of(
    server: MemoryHomeserver, outbox: MemoryOutbox, budget: SendBudget | None = None
) -> OutboxSender:
    return OutboxSender(outbox, server, on_refused=_nobody_told, budget=budget, clock=loop_clock)


async def aside(sender: OutboxSender, txn: str = "t") -> bool:
    return await sender.send_aside(ROOM, "m.reaction", {"body": None}, TxnId(txn))


def test_nothing_is_sent_aside_while_a_row_waits_or_nothing_can_be_spared() -> None:
    async def test() -> None:
        server, outbox = MemoryHomeserver(), MemoryOutbox()
        # What an earlier life learnt: one message at hand, of which none is spare.
        tight = sender_of(server, outbox, SendBudget(BudgetState(interval_s=5, burst=10)))
        assert not await aside(tight)
        free = sender_of(server, outbox)
        rows = [outbox.add(ROOM, "an answer"), outbox.add("!other:x", "an answer")]
        assert not await aside(free)
        assert server.requests == []
        for row in rows:
            del outbox.rows[row.seq]
        assert await aside(free)
        assert len(server.requests) == 1

    run_virtual(test())


def test_what_is_kept_at_hand_for_answers_and_progress_is_left_alone() -> None:
    async def test() -> None:
        server = MemoryHomeserver()
        budget = SendBudget(BudgetState(interval_s=5, burst=10))
        sender = sender_of(server, MemoryOutbox(), budget)
        await aside(sender)
        await asyncio.sleep(100)  # the bucket is full: ten
        sent = [await aside(sender, f"t{i}") for i in range(10)]
        assert sent == [True] * 4 + [False] * 6, "five for answers, one for progress"

    run_virtual(test())


def test_a_limit_that_is_met_aside_is_learnt_and_the_courtesy_dropped() -> None:
    async def test() -> None:
        sender = sender_of(_Answering(lambda: RateLimitedError(7.0)), MemoryOutbox())
        assert await aside(sender)
        assert sender.limited == 1
        assert sender.budget.next_send_at(loop_clock()) >= loop_clock() + 7

    run_virtual(test())


@pytest.mark.parametrize(
    "error",
    [
        lambda: RequestRefusedError(errcode="M_DUPLICATE_ANNOTATION", status=400, what="sending"),
        HomeserverUnreachableError,
    ],
)
def test_a_courtesy_that_fails_is_over(error: Callable[[], AiAgentChatError]) -> None:
    async def test() -> None:
        server = _Answering(error)
        assert await aside(sender_of(server, MemoryOutbox()))
        assert len(server.requests) == 1

    run_virtual(test())


def test_a_homeserver_that_hangs_holds_a_courtesy_for_ten_seconds() -> None:
    async def test() -> None:
        server = HangingHomeserver(stuck=frozenset({ROOM}))
        began = loop_clock()
        assert await aside(sender_of(server, MemoryOutbox()))
        assert loop_clock() - began == pytest.approx(outbound.ASIDE_TIMEOUT_S)

    run_virtual(test())


def test_an_account_that_was_logged_out_is_not_kept_quiet() -> None:
    async def test() -> None:
        with pytest.raises(LoginRefusedError):
            await aside(sender_of(_Answering(lambda: LoginRefusedError("out")), MemoryOutbox()))

    run_virtual(test())


def test_what_is_stored_while_a_courtesy_is_on_its_way_arrives_after_it() -> None:
    async def test() -> None:
        server, outbox = MemoryHomeserver(latency_s=3.0), MemoryOutbox()
        sender = sender_of(server, outbox)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(sender.run())
            group.create_task(aside(sender))
            await asyncio.sleep(1)
            outbox.add(ROOM, "the answer")
            outbox.add("!other:x", "another room's")
            sender.notify()
            await asyncio.sleep(1)
            assert [room for _, room, _ in server.requests] == [ROOM, "!other:x"]
            await asyncio.sleep(8)
            running.cancel()
        assert server.bodies(ROOM) == [None, "the answer"]
        assert server.most_open == 2

    run_virtual(test())


def test_what_is_no_longer_wanted_at_the_last_moment_is_not_sent() -> None:
    async def test() -> None:
        server = MemoryHomeserver()
        sender = sender_of(server, MemoryOutbox())
        assert await sender.send_aside(
            ROOM, "m.room.message", {"body": "late"}, TxnId("t"), is_wanted=lambda: False
        )
        assert server.requests == []

    run_virtual(test())
