"""The sender, against an outbox in memory and homeservers with every fault, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    RequestRefusedError,
    StoreCorruptError,
)
from orchestrator.gateway.outbound import MAX_IN_FLIGHT, SEND_TIMEOUT_S, OutboxSender
from orchestrator.model import EventId, Priority, RoomId
from orchestrator.store.api import OutboxRow
from tests.support.outbox import (
    ChaoticHomeserver,
    FlakyHomeserver,
    HangingHomeserver,
    MemoryHomeserver,
    MemoryOutbox,
    RateLimitedHomeserver,
    RefusingHomeserver,
)
from tests.support.virtual_time import loop_clock, run_virtual

DAY_S = 86400.0


async def tell_nobody(_row: OutboxRow, _error: RequestRefusedError) -> None:
    """For homeservers that don't refuse."""


def make_sender(store: MemoryOutbox, homeserver: MemoryHomeserver, **more: Any) -> OutboxSender:
    more.setdefault("on_refused", tell_nobody)
    return OutboxSender(store, homeserver, clock=loop_clock, jitter=lambda: 1.0, **more)


@contextlib.asynccontextmanager
async def running(sender: OutboxSender) -> AsyncIterator[asyncio.Task[Any]]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sender.run())
        try:
            yield task
        finally:
            task.cancel()


def virtual(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Run an async test in virtual time."""

    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@virtual
async def test_a_rooms_messages_arrive_in_order_and_once() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver()
    for i in range(20):
        store.add("!a", str(i), priority=random.Random(i).choice(list(Priority)))
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
    assert homeserver.bodies("!a") == [str(i) for i in range(20)]
    assert len(homeserver.requests) == 20
    assert store.rows == {}
    assert set(store.sent) == set(range(1, 21))


@virtual
async def test_a_room_has_one_request_in_flight_and_the_account_a_few() -> None:
    store, homeserver = (
        MemoryOutbox(),
        HangingHomeserver(stuck=frozenset(f"!{i}" for i in range(20))),
    )
    for i in range(20):
        store.add(f"!{i}", "x")
        store.add(f"!{i}", "y")
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(30)
    assert homeserver.most_open == MAX_IN_FLIGHT
    assert len({room for _, room, _ in homeserver.requests}) == len(homeserver.requests)


@virtual
async def test_when_not_everything_may_leave_final_answers_go_first_across_rooms() -> None:
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
    for i in range(10):
        store.add("!warm", f"burst {i}")
    sender = make_sender(store, homeserver)
    async with running(sender):
        await asyncio.sleep(2)
        for room in ("!a", "!b"):
            store.add(room, "text")
        await asyncio.sleep(1)
        store.add("!c", "notice", priority=Priority.NOTICE)
        store.add("!d", "final", priority=Priority.FINAL)
        sender.notify()
        await asyncio.sleep(60)
    after_burst = [body for _, body in homeserver.timeline][10:]
    assert after_burst == ["final", "notice", "text", "text"]


@virtual
async def test_a_stuck_room_does_not_delay_another() -> None:
    store, homeserver = MemoryOutbox(), HangingHomeserver(stuck=frozenset({"!stuck"}))
    sender = make_sender(store, homeserver)
    async with running(sender):
        store.add("!stuck", "x")
        sender.notify()
        await asyncio.sleep(1)
        for i in range(5):
            store.add("!well", str(i))
        sender.notify()
        await asyncio.sleep(1)
    assert len(homeserver.bodies("!well")) == 5


@virtual
async def test_a_retry_of_another_room_is_on_time_while_a_room_hangs() -> None:
    """A due row that can't leave must not hide the next one in the future."""
    away_until = loop_clock() + 3.0
    store = MemoryOutbox()

    class OneHangsOneFails(HangingHomeserver):
        async def answer(self, room_id: RoomId, content: Any, txn_id: Any) -> EventId:
            if room_id == "!fails" and loop_clock() < away_until:
                raise HomeserverUnreachableError
            return await super().answer(room_id, content, txn_id)

    homeserver = OneHangsOneFails(stuck=frozenset({"!stuck"}))
    store.add("!stuck", "x")
    store.add("!fails", "y")
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(9)
    assert homeserver.bodies("!fails") == ["y"]


@virtual
async def test_a_hang_of_the_homeserver_ends_and_the_row_is_sent_again() -> None:
    store, homeserver = MemoryOutbox(), HangingHomeserver(stuck=frozenset({"!a"}))
    store.add("!a", "x")
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(SEND_TIMEOUT_S - 1)
        homeserver.stuck = frozenset()
        await asyncio.sleep(5)
    assert homeserver.bodies("!a") == ["x"]
    assert len(homeserver.requests) == 2


@virtual
async def test_a_lost_answer_does_not_double_the_event() -> None:
    store, homeserver = MemoryOutbox(), FlakyHomeserver(accepts=True)
    store.add("!a", "x")
    store.add("!a", "y")
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(5)
        homeserver.is_away = lambda _: False
        await asyncio.sleep(60)
    assert homeserver.bodies("!a") == ["x", "y"]
    assert len({txn for _, _, txn in homeserver.requests}) == 2
    assert store.rows == {}


@virtual
async def test_after_a_429_no_request_leaves_before_the_wait_is_over() -> None:
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
    for i in range(30):
        store.add(f"!{i % 5}", str(i))
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(250)
    assert store.rows == {}
    assert len(homeserver.timeline) == 30
    limiter = homeserver.limiter
    for refused_at in limiter.refused[:-1]:
        later = [at for at, _, _ in homeserver.requests if at > refused_at + 0.5]
        assert min(later) >= refused_at + 0.5
    assert len(limiter.refused) <= MAX_IN_FLIGHT + 3


@virtual
async def test_rows_of_a_limited_account_keep_the_order_of_their_rooms() -> None:
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
    for i in range(24):
        store.add(f"!{i % 3}", str(i))
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(200)
    for room in range(3):
        assert homeserver.bodies(f"!{room}") == [str(i) for i in range(24) if i % 3 == room]


@virtual
async def test_an_unreachable_homeserver_is_not_hammered_and_found_soon_after_its_return() -> None:
    store, homeserver = MemoryOutbox(), FlakyHomeserver()
    for i in range(20):
        store.add(f"!{i}", str(i))
    async with running(make_sender(store, homeserver)):
        await asyncio.sleep(60)
        first_minute = len(homeserver.requests)
        await asyncio.sleep(540)
        later = len(homeserver.requests) - first_minute
        homeserver.is_away = lambda _: False
        await asyncio.sleep(75)
    assert first_minute <= 60
    assert later <= 540 / 30
    assert len(homeserver.timeline) == 20


@virtual
async def test_a_room_that_always_fails_does_not_delay_the_others() -> None:
    store = MemoryOutbox()
    homeserver = FlakyHomeserver(is_away=lambda room: room == "!bad")
    store.add("!bad", "x")
    sender = make_sender(store, homeserver)
    async with running(sender):
        for i in range(100):
            await asyncio.sleep(10)
            store.add("!good", str(i))
            sender.notify()
            await asyncio.sleep(1)
            assert len(homeserver.bodies("!good")) == i + 1
    assert len([1 for _, room, _ in homeserver.requests if room == "!bad"]) <= 30


@virtual
async def test_during_an_outage_a_room_that_has_not_failed_is_tried_at_once() -> None:
    store = MemoryOutbox()
    homeserver = FlakyHomeserver(is_away=lambda room: room != "!new")
    store.add("!a", "x")
    store.add("!b", "x")
    sender = make_sender(store, homeserver)
    async with running(sender):
        await asyncio.sleep(300)
        store.add("!new", "y")
        sender.notify()
        await asyncio.sleep(1)
        assert homeserver.bodies("!new") == ["y"]


@virtual
async def test_a_refused_row_is_reported_and_the_next_one_goes_on() -> None:
    store, homeserver = MemoryOutbox(), RefusingHomeserver()
    told: list[tuple[int, str, bool]] = []

    async def on_refused(row: OutboxRow, error: RequestRefusedError) -> None:
        told.append((row.seq, error.errcode, row.seq in store.refused))
        store.add(row.room_id, "that was too long", priority=Priority.NOTICE)

    store.add("!a", "poison")
    store.add("!a", "good")
    async with running(make_sender(store, homeserver, on_refused=on_refused)):
        await asyncio.sleep(5)
    assert homeserver.bodies("!a") == ["good", "that was too long"]
    assert store.refused == {1: "M_TOO_LARGE"}
    assert told == [(1, "M_TOO_LARGE", False)], "told before it is marked: a crash repeats it"


@virtual
async def test_an_account_that_was_logged_out_ends_the_sender() -> None:
    store, homeserver = MemoryOutbox(), RefusingHomeserver(error=LoginRefusedError)
    store.add("!a", "poison")
    with pytest.raises(ExceptionGroup) as caught:
        await make_sender(store, homeserver).run()
    assert caught.group_contains(LoginRefusedError)
    assert set(store.rows) == {1}


@virtual
async def test_a_bug_or_a_damaged_database_ends_the_sender() -> None:
    class DamagedOutbox(MemoryOutbox):
        async def mark_sent(self, seq: int, event_id: EventId, *, now: float) -> None:
            raise StoreCorruptError

    store = DamagedOutbox()
    store.add("!a", "x")
    with pytest.raises(ExceptionGroup) as caught:
        await make_sender(store, MemoryHomeserver()).run()
    assert caught.group_contains(StoreCorruptError)


@virtual
async def test_a_full_disk_stops_sending_and_nothing_is_doubled_when_it_is_cleared() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver(latency_s=1.0)
    store.add("!a", "x")
    store.add("!b", "y")
    sender = make_sender(store, homeserver)
    async with running(sender):
        await asyncio.sleep(0.5)
        store.is_full = True
        store.add("!c", "z")
        sender.notify()
        await asyncio.sleep(600)
        assert len(homeserver.requests) == 2
        assert set(store.rows) == {1, 2, 3}
        store.is_full = False
        await asyncio.sleep(3)
    # At once: a disk that took its time is no sign that the homeserver is away.
    assert sorted(str(body) for _, body in homeserver.timeline) == ["x", "y", "z"]
    assert store.rows == {}
    assert len(homeserver.requests) == 3


@virtual
async def test_an_attempt_is_recorded_before_its_request_leaves() -> None:
    store = MemoryOutbox()

    class Watching(MemoryHomeserver):
        async def answer(self, room_id: RoomId, content: Any, txn_id: Any) -> EventId:
            assert store.rows[1].attempts == 1
            return await super().answer(room_id, content, txn_id)

    store.add("!a", "x")
    async with running(make_sender(store, Watching())):
        await asyncio.sleep(1)
    assert set(store.sent) == {1}


@pytest.mark.parametrize(
    ("age_s", "attempts", "found", "requests"),
    [
        (2 * DAY_S, 1, EventId("$old"), 0),
        (2 * DAY_S, 1, None, 1),
        (2 * DAY_S, 0, EventId("$never asked"), 1),
        (60.0, 1, EventId("$never asked"), 1),
    ],
)
def test_a_row_whose_transaction_id_may_be_forgotten_is_looked_for_before_it_is_sent(
    age_s: float, attempts: int, found: EventId | None, requests: int
) -> None:
    async def test() -> None:
        store, homeserver = MemoryOutbox(), MemoryHomeserver()
        store.add("!a", "x", attempts=attempts)
        await asyncio.sleep(age_s)

        async def find_sent(_row: OutboxRow) -> EventId | None:
            return found

        async with running(make_sender(store, homeserver, find_sent=find_sent)):
            await asyncio.sleep(1)
        assert len(homeserver.requests) == requests
        assert store.sent[1] == (found if requests == 0 else EventId("$0"))

    run_virtual(test())


@virtual
async def test_a_notify_during_a_slow_look_is_not_lost() -> None:
    store, homeserver = MemoryOutbox(delay_s=0.5), MemoryHomeserver()
    sender = make_sender(store, homeserver)
    async with running(sender):
        for i in range(40):
            await asyncio.sleep(random.Random(i).uniform(0.0, 3.0))
            store.add("!a", str(i))
            sender.notify()
        await asyncio.sleep(59)
    assert homeserver.bodies("!a") == [str(i) for i in range(40)]


@virtual
async def test_a_row_that_was_sent_during_a_slow_look_is_not_sent_again() -> None:
    """The look begins at 6.1 s and ends at 8.1 s; the row's request ends at 7 s."""
    store, homeserver = MemoryOutbox(look_delay_s=2.0), MemoryHomeserver(latency_s=3.0)
    store.add("!a", "x")
    sender = make_sender(store, homeserver)
    async with running(sender):
        await asyncio.sleep(4.1)
        sender.notify()
        await asyncio.sleep(20)
    assert len(homeserver.requests) == 1


@virtual
async def test_with_nothing_to_do_the_outbox_is_hardly_looked_at() -> None:
    store = MemoryOutbox()
    async with running(make_sender(store, MemoryHomeserver())):
        await asyncio.sleep(600)
    assert store.looks <= 12


@virtual
async def test_a_drain_sends_everything_and_says_so() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver()
    for i in range(20):
        store.add(f"!{i % 4}", str(i))
    assert await make_sender(store, homeserver).drain(loop_clock() + 10) == 0
    assert len(homeserver.timeline) == 20


@virtual
async def test_a_drain_beside_the_running_sender_doubles_nothing() -> None:
    store, homeserver = MemoryOutbox(delay_s=0.01), MemoryHomeserver()
    sender = make_sender(store, homeserver)
    async with running(sender):
        for i in range(40):
            store.add(f"!{i % 4}", str(i))
        sender.notify()
        await asyncio.sleep(0.1)
        assert await sender.drain(loop_clock() + 30) == 0
    assert len(homeserver.requests) == 40


@virtual
async def test_a_drain_after_the_sender_was_cancelled_sends_its_last_words() -> None:
    store, homeserver = MemoryOutbox(), MemoryHomeserver(latency_s=1.0)
    store.add("!a", "x")
    store.add("!a", "y")
    sender = make_sender(store, homeserver)
    async with running(sender):
        await asyncio.sleep(0.5)
    assert await sender.drain(loop_clock() + 10) == 0
    assert homeserver.bodies("!a") == ["x", "y"]


@virtual
async def test_a_drain_ends_at_its_deadline_and_counts_the_rooms_left() -> None:
    store, homeserver = MemoryOutbox(), HangingHomeserver(stuck=frozenset({"!a"}))
    store.add("!a", "x")
    store.add("!b", "y")
    began = loop_clock()
    assert await make_sender(store, homeserver).drain(began + 10) == 1
    assert loop_clock() - began == pytest.approx(10, abs=0.01)
    assert homeserver.bodies("!b") == ["y"]
    assert set(store.rows) == {1}


@virtual
async def test_a_drain_does_not_wait_for_what_cannot_leave_in_time() -> None:
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
    for i in range(30):
        store.add("!a", str(i))
    began = loop_clock()
    assert await make_sender(store, homeserver).drain(began + 3) == 1
    assert loop_clock() - began < 2.9


@virtual
async def test_a_drain_of_an_account_that_was_logged_out_ends_quietly() -> None:
    store, homeserver = MemoryOutbox(), RefusingHomeserver(error=LoginRefusedError)
    store.add("!a", "poison")
    assert await make_sender(store, homeserver).drain(loop_clock() + 10) == 1


@virtual
async def test_a_bug_during_a_drain_is_not_hidden() -> None:
    store, homeserver = MemoryOutbox(), RefusingHomeserver()
    store.add("!a", "poison")

    async def on_refused(_row: OutboxRow, _error: RequestRefusedError) -> None:
        raise KeyError

    with pytest.raises(ExceptionGroup):
        await make_sender(store, homeserver, on_refused=on_refused).drain(loop_clock() + 10)


@virtual
async def test_the_repr_shows_the_state() -> None:
    sender = make_sender(MemoryOutbox(), MemoryHomeserver())
    assert repr(sender).startswith("OutboxSender(0 in flight, Outage(off")


@given(
    rooms=st.lists(st.integers(0, 4), min_size=1, max_size=25),
    seed=st.integers(0, 10_000),
    crash_after_s=st.lists(st.floats(0.01, 40.0), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_whatever_fails_and_whenever_it_restarts_each_event_appears_once_and_in_order(
    rooms: list[int], seed: int, crash_after_s: list[float]
) -> None:
    async def test() -> None:
        store = MemoryOutbox()
        homeserver = ChaoticHomeserver(rng=random.Random(seed))
        for i, room in enumerate(rooms):
            store.add(f"!{room}", str(i))
        for lives_s in crash_after_s:
            async with running(make_sender(store, homeserver)):
                await asyncio.sleep(lives_s)
        async with running(make_sender(store, homeserver)):
            await asyncio.sleep(3 * 3600)
        assert store.rows == {}
        for room in range(5):
            expected = [str(i) for i, r in enumerate(rooms) if r == room]
            assert homeserver.bodies(f"!{room}") == expected

    run_virtual(test())
