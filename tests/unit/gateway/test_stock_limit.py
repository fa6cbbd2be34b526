"""The sender at Synapse's stock limit, and in storms of 429s; in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from orchestrator.errors import RateLimitedError
from orchestrator.gateway.outbound import MAX_IN_FLIGHT, OutboxSender
from orchestrator.model import EventId, JsonValue, Priority, RoomId, TxnId
from tests.support.outbox import (
    FlakyHomeserver,
    MemoryHomeserver,
    MemoryOutbox,
    RateLimitedHomeserver,
)
from tests.support.rate_limit import LeakyBucket
from tests.support.virtual_time import loop_clock
from tests.unit.gateway.test_outbound import make_sender, running, virtual

WINDOW_S = 2.0


@dataclass(slots=True)
class Rooms:
    """Rooms as the sender sees them: turns that ask whether they may show something, and end."""

    store: MemoryOutbox
    sender: OutboxSender
    shown: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)

    async def stream(self, room: str, seconds: float) -> None:
        """A turn that says something all the time."""
        ends = loop_clock() + seconds
        while loop_clock() < ends:
            await asyncio.sleep(WINDOW_S)
            if await self.sender.may_show_progress(RoomId(room)):
                self.shown.append(room)
                self.store.add(room, "progress")
                self.sender.notify()
        await self.answer(room)

    async def answer(self, room: str) -> None:
        """A turn's end; until the room has it."""
        began = loop_clock()
        self.ended.append(f"answer {room}")
        row = self.store.add(room, f"answer {room}", priority=Priority.FINAL)
        self.sender.notify()
        while row.seq not in self.store.sent:  # noqa: ASYNC110 - virtual time, a store in memory
            await asyncio.sleep(0.05)
        self.waited_s.append(loop_clock() - began)


@virtual
async def test_a_stream_of_ten_minutes_delays_no_other_rooms_answer_by_more_than_ten_seconds() -> (
    None
):
    for every_s in (11.0, 17.0, 30.0, 61.0):
        store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
        rooms = Rooms(store, make_sender(store, homeserver))
        async with running(rooms.sender), asyncio.TaskGroup() as group:
            stream = group.create_task(rooms.stream("!stream", 600))
            while not stream.done():
                await asyncio.sleep(every_s)
                await rooms.answer("!other")
        assert max(rooms.waited_s) < 10, every_s
        assert len(rooms.shown) <= 120, every_s
        assert len(rooms.shown) > 20, "it is shown, though"
        assert store.rows == {}
        assert len(homeserver.limiter.refused) <= 3, every_s


@virtual
async def test_twenty_streams_at_once_show_a_little_each_and_their_answers_come_at_the_limit() -> (
    None
):
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
    rooms = Rooms(store, make_sender(store, homeserver))
    async with running(rooms.sender), asyncio.TaskGroup() as group:
        for i in range(20):
            group.create_task(rooms.stream(f"!{i}", 300))
            await asyncio.sleep(0.07)
    assert store.rows == {}
    # The bucket's burst, and what leaks out in the time.
    assert len(rooms.shown) <= 10 + 300 * 0.2
    counts = [rooms.shown.count(f"!{i}") for i in range(20)]
    assert max(counts) - min(counts) <= 1, "the rooms take turns"
    # Five answers leave from the reserve, the others at one in 5 s, with the margin of 5 %.
    assert max(rooms.waited_s) < 15 * 5 * 1.1 + 5
    ends = [str(body) for _, body in homeserver.timeline if str(body).startswith("answer")]
    assert ends == rooms.ended, "in the order in which the turns ended"
    refused = homeserver.limiter.refused
    learnt_at = min(refused)
    assert len([at for at in refused if at > learnt_at + 1]) <= 3
    assert len(refused) <= 8


@virtual
async def test_a_homeserver_without_bursts_is_not_met_again_and_again() -> None:
    limiter = LeakyBucket(rate_per_s=0.5, burst=1)
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver(limiter=limiter)
    rooms = Rooms(store, make_sender(store, homeserver))
    began = loop_clock()
    async with running(rooms.sender), asyncio.TaskGroup() as group:
        for i in range(3):
            group.create_task(rooms.stream(f"!{i}", 600))
            await asyncio.sleep(0.03)
    assert len(rooms.shown) > 60
    assert len([at for at in limiter.refused if at > began + 120]) <= 3


@virtual
async def test_nothing_is_shown_where_what_is_there_already_has_yet_to_leave() -> None:
    store, homeserver = MemoryOutbox(), RateLimitedHomeserver()
    rooms = Rooms(store, make_sender(store, homeserver))
    for _ in range(4):
        store.add("!mine", "waits")
    assert not await rooms.sender.may_show_progress(RoomId("!mine"))
    assert await rooms.sender.may_show_progress(RoomId("!other")) is False, "what waits goes first"


@virtual
async def test_nothing_is_shown_while_the_homeserver_is_away() -> None:
    store, homeserver = MemoryOutbox(), FlakyHomeserver()
    rooms = Rooms(store, make_sender(store, homeserver))
    for room in ("!one", "!two"):
        store.add(room, "waits")
    async with running(rooms.sender):
        await asyncio.sleep(3)
        assert not await rooms.sender.may_show_progress(RoomId("!other"))
        homeserver.is_away = lambda _: False
        await asyncio.sleep(120)
        assert await rooms.sender.may_show_progress(RoomId("!other"))


@dataclass(slots=True)
class StormyHomeserver(MemoryHomeserver):
    """Every second send is refused for 1 to 30 s, until `calm_at`; notes what leaves too early."""

    calm_at: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    waits: list[tuple[float, float]] = field(default_factory=list)
    """From the arrival of each refusal to the end of its wait."""
    early: list[float] = field(default_factory=list)
    refused: int = 0
    count: int = 0
    rounds: bool = False

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        now = loop_clock() - self.latency_s
        # What was under way when a refusal arrived is not early.
        if any(since < now < until for since, until in self.waits):
            self.early.append(now)
        self.count += 1
        if self.count % 2 and now < self.calm_at:
            wait_s = self.rng.uniform(1, 30)
            wait_s = float(int(wait_s)) if self.rounds else wait_s
            self.refused += 1
            self.waits.append((loop_clock(), loop_clock() + wait_s))
            raise RateLimitedError(wait_s)
        return self.accept(room_id, content, txn_id)


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("in_flight", [1, MAX_IN_FLIGHT])
def test_in_a_storm_of_429s_nothing_leaves_early_and_nothing_is_lost_or_doubled(
    rounds: bool, in_flight: int
) -> None:
    @virtual
    async def test() -> None:
        store = MemoryOutbox()
        homeserver = StormyHomeserver(calm_at=loop_clock() + 300, rounds=rounds)
        sender = make_sender(store, homeserver, max_in_flight=in_flight)
        expected: dict[str, list[str]] = {f"!{i}": [] for i in range(5)}
        async with running(sender):
            for step in range(100):
                room = f"!{step % 5}"
                store.add(room, str(step))
                expected[room].append(str(step))
                sender.notify()
                await asyncio.sleep(3)
            await asyncio.sleep(3600)
        assert homeserver.refused > 5
        assert homeserver.early == []
        assert store.rows == {}
        assert {room: homeserver.bodies(room) for room in expected} == expected

    test()
