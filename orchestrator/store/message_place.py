"""Where a message of ours belongs, and where it stands among what is read there."""

from __future__ import annotations

import json
import sqlite3
from enum import StrEnum

from orchestrator.core.poll import POLL_START
from orchestrator.core.thread import (
    MAIN,
    conversation_in,
    parse_thread,
    put_in_thread,
    take_out_of_thread,
    thread_of,
)
from orchestrator.core.turn_mark import parse_mark, parse_reply
from orchestrator.model import EventId, JsonObject, RoomId, TxnId
from orchestrator.store.api import NewOutboxRow

MESSAGE = "m.room.message"
# Of events that nothing follows from, these are seen in the room all the same.
_SEEN_REASONS = ("not addressed", "sender not allowed", "notice")
_THREAD_OF_ROW = (
    "CASE WHEN json_extract(content, '$.\"m.relates_to\".rel_type') = 'm.thread' "
    "THEN json_extract(content, '$.\"m.relates_to\".event_id') ELSE 'main' END"
)


class Place(StrEnum):
    """Of a message that was sent, or is to be."""

    LAST = "last"
    ABOVE = "above"
    """Something was said since."""


def put_in_place(db: sqlite3.Connection, row: NewOutboxRow) -> JsonObject:
    """The content of a row that is being added: what is about a thread is said in it.

    That is what its turn was asked in, or what it is a reply to.
    """
    if row.event_type not in (MESSAGE, POLL_START):
        return row.content
    thread = _find_thread(db, row)
    return row.content if thread is None else put_in_thread(row.content, thread)


def _find_thread(db: sqlite3.Connection, row: NewOutboxRow) -> EventId | None:
    mark, reply_to = parse_mark(row.content), parse_reply(row.content)
    if mark is not None:
        turn = db.execute(
            "SELECT session FROM turns WHERE turn_id = ? AND room_id = ?",
            (mark.turn_id, row.room_id),
        ).fetchone()
        return thread_of(turn[0]) if turn else None
    if reply_to is None:
        return None
    heard = db.execute(
        "SELECT thread FROM inbox WHERE event_id = ? AND room_id = ?", (reply_to, row.room_id)
    ).fetchone()
    if heard is not None:
        return None if heard[0] is None else EventId(heard[0])
    said = db.execute(
        "SELECT content FROM outbox WHERE event_id = ? AND room_id = ?", (reply_to, row.room_id)
    ).fetchone()
    return parse_thread(json.loads(said[0])) if said else None


def leave_threads(db: sqlite3.Connection, room_id: RoomId) -> None:
    """What waits to be sent in a room is of no thread: it was to be sent in another room."""
    waiting = db.execute(
        "SELECT seq FROM outbox WHERE room_id = ? AND state = 'queued' "
        "AND content LIKE '%m.thread%'",
        (room_id,),
    ).fetchall()
    for (seq,) in waiting:
        leave_thread(db, seq)


def leave_thread(db: sqlite3.Connection, seq: int) -> None:
    """The same of one row."""
    (content,) = db.execute("SELECT content FROM outbox WHERE seq = ?", (seq,)).fetchone()
    changed = json.dumps(take_out_of_thread(json.loads(content)))
    db.execute("UPDATE outbox SET content = ? WHERE seq = ?", (changed, seq))


def find_place(db: sqlite3.Connection, txn_id: TxnId, room_id: RoomId) -> Place | None:
    """Within the caller's transaction; None where the room has no such row."""
    row = db.execute(
        "SELECT seq, ended_at, content FROM outbox "
        "WHERE txn_id = ? AND room_id = ? AND state <> 'refused'",
        (txn_id, room_id),
    ).fetchone()
    if row is None:
        return None
    seq, sent_at, content = row
    conversation = conversation_in(parse_thread(json.loads(content)))
    is_above = db.execute(
        "SELECT EXISTS (SELECT 1 FROM outbox WHERE room_id = ? AND seq > ? "  # noqa: S608 - constants
        "AND event_type = 'm.room.message' AND edits IS NULL AND state <> 'refused' "
        f"AND {_THREAD_OF_ROW} = ?)",
        (room_id, seq, conversation),
    ).fetchone()[0]
    if not is_above and sent_at is not None:
        marks = ", ".join("?" * len(_SEEN_REASONS))
        is_above = db.execute(
            "SELECT EXISTS (SELECT 1 FROM inbox WHERE room_id = ? AND received_at > ? "  # noqa: S608 - constants
            f"AND kind = 'timeline' AND (turn_id IS NOT NULL OR reason IN ({marks})) "
            "AND coalesce(thread, ?) = ?)",
            (room_id, sent_at, *_SEEN_REASONS, MAIN, conversation),
        ).fetchone()[0]
    return Place.ABOVE if is_above else Place.LAST
