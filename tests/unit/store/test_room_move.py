"""What a room still has to say when it is replaced: each message appears once, in order."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.model import EventId, Priority, RoomId, TxnId, UserId
from orchestrator.store.api import NewOutboxRow, OutboxRow, Replacement
from orchestrator.store.setting_table import store_setting
from orchestrator.store.store import Store, open_store

OLD, NEW = RoomId("!old:x"), RoomId("!new:x")
MOVE = Replacement(old=OLD, new=NEW)
FORBIDDEN = "M_FORBIDDEN"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        for room in (OLD, NEW):
            await store.rooms.ensure(room, joined=True)
        await store.rooms.note_replaced_by(OLD, NEW, now=1000.0)
        await store.rooms.note_replaces(NEW, OLD)
        yield store


def message(name: str, room: RoomId = OLD) -> NewOutboxRow:
    return NewOutboxRow(
        room_id=room,
        txn_id=TxnId(name),
        event_type="m.room.message",
        content={"body": name},
        priority=Priority.TEXT,
    )


async def heads(store: Store) -> list[tuple[str, RoomId]]:
    found = await store.outbox.outbox_heads(now=math.inf, limit=10)
    return [(row.txn_id, row.room_id) for row in found]


async def attempt(store: Store, name: str) -> OutboxRow:
    found = await store.outbox.outbox_heads(now=math.inf, limit=10)
    row = next(row for row in found if row.txn_id == name)
    assert await store.outbox.mark_attempt(row.seq, row.room_id, now=1.0)
    return row


async def test_what_was_not_tried_yet_goes_into_the_new_room_in_order(store: Store) -> None:
    await store.outbox.add([message("a"), message("b")], now=1.0)
    assert await store.move_room(MOVE, [message("notice", NEW)], now=1001.0)
    order = []
    while found := await store.outbox.outbox_heads(now=math.inf, limit=10):
        (row,) = found
        assert row.room_id == NEW
        order.append(row.txn_id)
        await store.outbox.mark_sent(row.seq, EventId("$e"), now=1002.0)
    assert order == ["a", "b", "notice"]


async def test_what_was_forbidden_since_the_upgrade_is_sent_after_all_and_nothing_older(
    store: Store,
) -> None:
    await store.outbox.add([message("long ago"), message("muted"), message("other")], now=1.0)
    for name, at, reason in (
        ("long ago", 10.0, FORBIDDEN),
        ("muted", 990.0, FORBIDDEN),
        ("other", 1000.0, "M_TOO_LARGE"),
    ):
        row = await attempt(store, name)
        await store.outbox.mark_refused(row.seq, reason=reason, now=at)
    assert await store.move_room(MOVE, [], now=1001.0)
    assert await heads(store) == [("muted", NEW)]


async def test_what_may_have_been_sent_is_settled_in_the_old_room_before_the_rest_goes_on(
    store: Store,
) -> None:
    await store.outbox.add([message("maybe"), message("later")], now=1.0)
    row = await attempt(store, "maybe")
    assert await store.move_room(MOVE, [message("notice", NEW)], now=1001.0)
    assert await heads(store) == [("maybe", OLD)]
    # The homeserver knows the transaction id: the event is in the old room, and only there.
    await store.outbox.mark_sent(row.seq, EventId("$there"), now=1002.0)
    assert await heads(store) == [("later", NEW)]


async def test_what_the_old_room_forbids_after_the_move_goes_into_the_new_room_in_its_place(
    store: Store,
) -> None:
    await store.outbox.add([message("maybe"), message("later")], now=1.0)
    row = await attempt(store, "maybe")
    assert await store.move_room(MOVE, [], now=1001.0)
    await store.outbox.mark_refused(row.seq, reason=FORBIDDEN, now=1002.0)
    assert await heads(store) == [("maybe", NEW)]
    row = await attempt(store, "maybe")
    await store.outbox.mark_refused(row.seq, reason=FORBIDDEN, now=1003.0)
    assert await heads(store) == [("later", NEW)]


async def test_an_attempt_that_a_move_overtook_is_not_made(store: Store) -> None:
    await store.outbox.add([message("a")], now=1.0)
    (row,) = await store.outbox.outbox_heads(now=math.inf, limit=10)
    assert await store.move_room(MOVE, [], now=1001.0)
    assert not await store.outbox.mark_attempt(row.seq, row.room_id, now=1002.0)
    (row,) = await store.outbox.outbox_heads(now=math.inf, limit=10)
    assert (row.room_id, row.attempts) == (NEW, 0)


async def test_a_move_is_made_once(store: Store) -> None:
    assert await store.find_replacement(OLD) == MOVE
    assert await store.move_room(MOVE, [], now=1001.0)
    assert await store.find_replacement(OLD) is None
    assert not await store.move_room(MOVE, [message("again", NEW)], now=1002.0)
    assert await heads(store) == []


async def test_a_room_that_the_agent_is_not_in_takes_over_nothing(store: Store) -> None:
    await store.rooms.ensure(NEW, joined=False)
    assert await store.find_replacement(NEW) is None
    await store.rooms.ensure(NEW, joined=True)
    assert await store.find_replacement(NEW) == MOVE


async def test_what_a_budget_was_raised_to_goes_along(store: Store) -> None:
    def set_both(db: sqlite3.Connection) -> None:
        for room, value in ((OLD, "20"), (NEW, "5")):
            store_setting(db, room, "budget.turns", value, by=UserId("@a:x"), now=1.0)
        store_setting(db, OLD, "budget.usd", "9", by=UserId("@a:x"), now=1.0)

    await store.database.run(set_both)
    assert await store.move_room(MOVE, [], now=1000.0)
    assert await store.settings.of_room(NEW) == {"budget.turns": "5", "budget.usd": "9"}
