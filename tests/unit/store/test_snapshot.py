"""The database as an audit reads it: beside its writer, after it, and when it can't be read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.core.evidence import Delivery, Progress, build_digest
from orchestrator.core.lifecycle import TurnEvent
from orchestrator.errors import StoreCorruptError, StoreError, StoreTooNewError
from orchestrator.model import (
    Epoch,
    EventId,
    JsonObject,
    Priority,
    RoomId,
    TurnId,
    TurnOutcome,
    TxnId,
    UserId,
)
from orchestrator.store.api import InboxKind, InboxState, NewInboxRow, NewOutboxRow
from orchestrator.store.errand_table import Errand, ErrandKind, add_errand
from orchestrator.store.snapshot import read_snapshot
from orchestrator.store.store import Once, Store, open_store
from orchestrator.store.turn_table import NewTurn

ROOM, ALICE, TURN = RoomId("!room:test"), UserId("@alice:test"), TurnId("t1")
CONTENT: JsonObject = {
    "body": "hello",
    "org.aiagentchat.turn": {"turn": "t1", "asked": ["$1"], "part": 0, "final": True},
}


def timeline(name: str, *, kind: InboxKind = InboxKind.TIMELINE) -> NewInboxRow:
    raw = json.dumps({"type": "m.room.message", "sender": ALICE, "event_id": name})
    return NewInboxRow(kind=kind, room_id=ROOM, event_id=EventId(name), raw=raw)


def message(txn: str, content: JsonObject) -> NewOutboxRow:
    return NewOutboxRow(
        room_id=ROOM,
        txn_id=TxnId(txn),
        event_type="m.room.message",
        content=content,
        priority=Priority.FINAL,
    )


async def fill(store: Store) -> None:
    """A message and its turn, a failed one, one that waits; an answer sent and one that waits."""
    await store.rooms.ensure(ROOM, joined=True)
    rows = [timeline("$1"), timeline("$2"), timeline("$3"), timeline("$4", kind=InboxKind.STATE)]
    await store.inbox.commit_sync(rows, "s1", now=1)
    turn = NewTurn(
        turn_id=TURN,
        room_id=ROOM,
        session="main",
        prompt="hi",
        sender=ALICE,
        asked=(EventId("$1"),),
        inbox=(1,),
    )
    await store.turns.admit(turn, max_queued=5, notices=lambda *_, **__: (), now=2)
    await store.turns.advance(TURN, TurnEvent.OFFERED, epoch=Epoch("e"), now=3)
    await store.turns.advance(
        TURN, TurnEvent.ENDED, rows=[message("x1", CONTENT)], outcome=TurnOutcome.DONE, now=4
    )
    await store.inbox.mark(2, InboxState.FAILED, reason="KeyError")
    reply: JsonObject = {"body": "no", "m.relates_to": {"m.in_reply_to": {"event_id": "$3"}}}
    await store.outbox.add([message("x2", reply)], now=5)
    await store.outbox.mark_sent(1, EventId("$answer"), now=6)
    errand = Errand(
        event_id=EventId("$5"),
        room_id=ROOM,
        seq=5,
        kind=ErrandKind.CLONE,
        argument="",
        sender=ALICE,
    )
    await store.database.run(lambda db: add_errand(db, errand))
    once = Once(room_id=ROOM, user_id=ALICE, what="w")
    await store.answer(99, [message("x3", {})], reason="w", now=7, once=once)


async def test_what_was_committed_is_read_beside_the_writer_and_after_it(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with open_store(tmp_path) as store:
        await fill(store)
        beside = read_snapshot(path)
        await store.inbox.commit_sync([], "s2", now=8)
    after = read_snapshot(path)
    assert (beside.sync_token, after.sync_token) == ("s1", "s2")
    assert beside.evidence == after.evidence

    found = after.evidence
    assert found.joined == {ROOM}
    assert found.errands == {"$5"}
    assert found.told == {(ROOM, ALICE, "w")}
    assert [(e.event_id, e.progress, e.turn_id, e.reason, e.sender) for e in found.inbox] == [
        ("$1", Progress.USED, TURN, None, None),
        ("$2", Progress.FAILED, None, "KeyError", ALICE),
        ("$3", Progress.NEW, None, None, ALICE),
    ]
    (turn,) = found.turns
    assert (turn.turn_id, turn.has_ended, turn.outcome) == (TURN, True, TurnOutcome.DONE)
    assert (turn.asked, turn.created_at, turn.started_at) == (("$1",), 2, 3)
    first, second, third = found.outbox
    assert (first.delivery, first.event_id) == (Delivery.SENT, "$answer")
    assert first.digest == build_digest(CONTENT)
    assert first.mark is not None
    assert first.mark.is_final
    assert (second.delivery, second.reply_to, second.mark) == (Delivery.QUEUED, "$3", None)
    assert third.txn_id == "x3"


async def test_what_is_said_once_is_stored_once_with_its_mark(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        once = Once(room_id=ROOM, user_id=ALICE, what="w")
        await store.inbox.commit_sync([timeline("$1"), timeline("$2")], "s1", now=1)
        for seq in (1, 2, 1):
            await store.answer(seq, [message(f"x{seq}", {})], reason="w", now=2, once=once)
        await store.inbox.commit_sync([timeline("$3")], "s2", now=3)
        for _ in range(2):
            await store.fail(3, [message("f", {})], reason="KeyError", now=4)
            await store.fail(1, [message("g", {})], reason="KeyError", now=4)
    found = read_snapshot(tmp_path / "state.sqlite3").evidence
    assert [row.txn_id for row in found.outbox] == ["x1", "f"]
    assert [(e.progress, e.reason) for e in found.inbox] == [
        (Progress.USED, "w"),
        (Progress.USED, "w"),
        (Progress.FAILED, "KeyError"),
    ]


async def test_reading_a_snapshot_changes_nothing_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with open_store(tmp_path) as store:
        await fill(store)
    before = path.read_bytes()
    read_snapshot(path)
    assert path.read_bytes() == before


async def test_what_a_killed_writer_left_in_its_log_is_read(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    async with open_store(tmp_path) as store:
        await fill(store)
        for name in ("state.sqlite3", "state.sqlite3-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    assert len(read_snapshot(copy / "state.sqlite3").evidence.outbox) == 3


async def test_another_version_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with open_store(tmp_path):
        pass
    for version, error, word in ((999, StoreTooNewError, "newer"), (1, StoreError, "older")):
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(error, match=word):
            read_snapshot(path)


def test_what_is_not_there_or_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="start the orchestrator first"):
        read_snapshot(tmp_path / "state.sqlite3")
    (tmp_path / "state.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreCorruptError):
        read_snapshot(tmp_path / "state.sqlite3")
