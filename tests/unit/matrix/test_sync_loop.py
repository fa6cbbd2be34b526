"""The sync loop on a real store, in virtual time: outages, restarts, gaps, confused homeservers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.matrix.backoff import MAX_WAIT_S
from orchestrator.matrix.sync import SyncStatus, run_sync
from orchestrator.model import JsonObject, RoomId
from orchestrator.store.store import Store, open_store
from tests.support.matrix_server import eventually
from tests.support.memory_homeserver import MemoryHomeserver, unreachable
from tests.support.room_rig import Rig, open_rig, run_rooms
from tests.support.virtual_time import loop_clock

ROOM, OTHER = RoomId("!room:test"), RoomId("!other:test")


@asynccontextmanager
async def syncing(
    homeserver: MemoryHomeserver, store: Store, notify: Callable[[], None] = lambda: None
) -> AsyncIterator[list[SyncStatus]]:
    statuses: list[SyncStatus] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run_sync(
                homeserver,
                store.inbox,
                on_commit=notify,
                on_typing=lambda _room, _users: None,
                on_status=statuses.append,
                clock=loop_clock,
                jitter=random.Random(5).uniform,
            )
        )
        try:
            yield statuses
        finally:
            task.cancel()


def on_a_store(
    folder: Path, test: Callable[[MemoryHomeserver, Store], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        async with open_store(folder) as store:
            store.database._connection.execute("PRAGMA synchronous = OFF")
            for room in (ROOM, OTHER):
                await store.rooms.ensure(room, joined=True)
            await store.inbox.commit_sync([], "s0", now=0.0)
            await test(MemoryHomeserver(), store)

    run_rooms(main())


async def received(store: Store, room: RoomId = ROOM) -> list[str]:
    def work(db: Any) -> list[str]:
        rows = db.execute("SELECT raw FROM inbox WHERE room_id = ? ORDER BY seq", (room,))
        return [json.loads(raw)["content"]["body"] for (raw,) in rows.fetchall()]

    return await store.database.run(work)


def numbers(count: int, start: int = 0) -> list[str]:
    return [f"m{n}" for n in range(start, start + count)]


def test_ten_minutes_of_outage_are_asked_through_seldom_and_nothing_of_it_is_lost(
    tmp_path: Path,
) -> None:
    async def test(homeserver: MemoryHomeserver, store: Store) -> None:
        async with syncing(homeserver, store) as statuses:
            homeserver.say(ROOM, "m0")
            await asyncio.sleep(5)
            down_at = loop_clock()
            homeserver.fault = lambda _: unreachable()
            for text in numbers(1500, 1):
                homeserver.say(ROOM, text)
                homeserver.say(OTHER, f"{text}'")
            await asyncio.sleep(600)
            asked = [at - down_at for at in homeserver.asked_at if at > down_at]
            homeserver.fault = lambda _: None
            back_at = loop_clock()
            await eventually(lambda: statuses[-1].connected, within_s=300)
            caught_up_s = loop_clock() - back_at
        assert await received(store) == numbers(1501)
        assert await received(store, OTHER) == [f"{text}'" for text in numbers(1500, 1)]
        assert min(later - at for at, later in pairwise(asked)) >= 1
        assert min(later - at for at, later in pairwise(asked) if at > 60) >= 30
        assert caught_up_s <= MAX_WAIT_S + 1

    on_a_store(tmp_path, test)


def test_a_homeserver_that_restarts_twenty_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async def test(homeserver: MemoryHomeserver, store: Store) -> None:
        rng = random.Random(7)
        said: list[str] = []
        async with syncing(homeserver, store) as statuses:
            for _ in range(20):
                for fault in (unreachable(), None):
                    homeserver.fault = lambda _, fault=fault: fault  # type: ignore[misc] # a lambda with a default
                    for text in numbers(rng.randrange(150), len(said)):
                        homeserver.say(ROOM, text)
                        said.append(text)
                    await asyncio.sleep(rng.uniform(0, 40))
            await asyncio.sleep(120)
            assert statuses[-1].connected
        assert await received(store) == said

    on_a_store(tmp_path, test)


def test_a_gap_whose_pages_fail_and_that_spans_restarts_comes_whole_and_in_order(
    tmp_path: Path,
) -> None:
    async def test(homeserver: MemoryHomeserver, store: Store) -> None:
        rng = random.Random(3)
        for text in numbers(1000):
            homeserver.say(ROOM, text)
        homeserver.fault = lambda request: (
            unreachable() if request == "backfill" and rng.random() < 0.2 else None
        )
        for _ in range(60):  # lives of the orchestrator
            async with syncing(homeserver, store):
                await asyncio.sleep(rng.uniform(0, 3))
        homeserver.fault = lambda _: None
        async with syncing(homeserver, store):
            await asyncio.sleep(10)
        assert await received(store) == numbers(1000)

    on_a_store(tmp_path, test)


def answer(next_batch: str, *events: JsonObject) -> JsonObject:
    timeline: JsonObject = {"events": list(events), "limited": False, "prev_batch": "s0"}
    return {"next_batch": next_batch, "rooms": {"join": {ROOM: {"timeline": timeline}}}}


async def execute(rig: Rig, homeserver: MemoryHomeserver, seconds: float) -> None:
    """A whole life of the rooms on what the sync brings."""
    await rig.store.rooms.ensure(ROOM, joined=True)
    await rig.store.inbox.commit_sync([], "s0", now=0.0)
    async with rig.life() as life, syncing(homeserver, rig.store, life.notify):
        await asyncio.sleep(seconds)


ONE, TWO, THREE = (MemoryHomeserver().say(ROOM, text) for text in ("one", "two", "three"))
CONFUSED: dict[str, list[JsonObject]] = {
    "the same answer ten times": [answer("s1", ONE)] * 10 + [answer("s3", TWO, THREE)],
    "ten answers with the same token": [answer("s1", ONE, *more) for more in [[], [TWO], [THREE]]]
    + [answer("s1", ONE, TWO, THREE)] * 7,
    "a token that goes back": [
        answer("s2", ONE, TWO),
        answer("s1", ONE),
        answer("s2", ONE, TWO),
        answer("s3", TWO, THREE),
    ],
    "an event twice in one answer": [answer("s1", ONE, ONE, TWO, ONE), answer("s3", THREE, TWO)],
    "a limited answer whose gap repeats what is known": [
        answer("s2", ONE, TWO),
        {
            "next_batch": "s3",
            "rooms": {
                "join": {
                    ROOM: {"timeline": {"events": [THREE], "limited": True, "prev_batch": "s3"}}
                }
            },
        },
    ],
}


@pytest.mark.parametrize("answers", CONFUSED.values(), ids=CONFUSED)
def test_whatever_a_confused_homeserver_repeats_each_message_is_executed_once(
    tmp_path: Path, answers: list[JsonObject]
) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            homeserver = MemoryHomeserver()
            homeserver.answers = list(answers)
            homeserver.events = [(ROOM, ONE), (ROOM, TWO), (ROOM, THREE)]
            await execute(rig, homeserver, 60)
            assert "\n\n".join(rig.claude.asked) == "one\n\ntwo\n\nthree"
            states = await rig.inbox_states()
            assert [state for state, _ in states] == ["used"] * 3

    run_rooms(main())


def test_events_out_of_order_are_executed_once_each_in_the_order_of_their_arrival(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            homeserver = MemoryHomeserver()
            homeserver.answers = [answer("s1", TWO), answer("s2", THREE, ONE), answer("s3", TWO)]
            homeserver.events = [(ROOM, ONE), (ROOM, TWO), (ROOM, THREE)]
            await execute(rig, homeserver, 60)
            assert "\n\n".join(rig.claude.asked) == "two\n\nthree\n\none"

    run_rooms(main())
