"""A conversation goes on in the room that replaces its room: one transaction, all or nothing.

Rules: both rooms must say so (an allowed tombstone here, the creation there); a room that had turns
of its own takes over no other's; nothing of an encrypted room goes into one that is not.

What the old room was asked to allow, and allowed, ends there: whoever decided that did not know who
would be in the next one.

What was sent, or may have been, stays where it was sent: a message of which an attempt was made is
asked for in the old room again, with the same transaction id. The homeserver says that it has it,
or refuses it; then it moves, too (`outbox_table.mark_refused`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from orchestrator.core.naming import refused_txn_id
from orchestrator.core.thread import left_behind
from orchestrator.model import RoomId, TxnId
from orchestrator.store.api import NewOutboxRow, Replacement
from orchestrator.store.approval_table import end_room
from orchestrator.store.message_place import leave_threads
from orchestrator.store.outbox_table import (
    FORBIDDEN,
    NO_QUESTION,
    insert_outbox,
    take_back_outbox,
)

# An upgrade forbids the agent to write in the old room. What it was refused there since shortly
# before we read of the upgrade (a sync that was given up and asked again takes a minute or two)
# belongs into the new one.
_REFUSED_BEFORE_S = 300.0

_AGREED = """
    SELECT old.room_id, new.room_id FROM rooms AS old
    JOIN rooms AS new ON new.room_id = old.replaced_by AND new.replaces = old.room_id
    WHERE ? IN (old.room_id, new.room_id) AND old.room_id <> new.room_id
    AND old.moved_seq IS NULL AND new.moved_seq IS NULL
    AND new.joined AND new.encrypted >= old.encrypted
    AND NOT EXISTS (SELECT 1 FROM turns WHERE turns.room_id = new.room_id)
"""


def find_replacement(db: sqlite3.Connection, room_id: RoomId) -> Replacement | None:
    """The move that this room takes part in, if all conditions are met and it was not made yet."""
    row = db.execute(_AGREED, (room_id,)).fetchone()
    return Replacement(old=RoomId(row[0]), new=RoomId(row[1])) if row else None


def move_room(
    db: sqlite3.Connection, move: Replacement, notices: Sequence[NewOutboxRow], *, now: float
) -> bool:
    """Make the move within the caller's transaction; False: its conditions are not met by now."""
    if find_replacement(db, move.new) != move:
        return False
    (refused_since,) = db.execute(
        "SELECT replaced_at - ? FROM rooms WHERE room_id = ?", (_REFUSED_BEFORE_S, move.old)
    ).fetchone()
    end_room(db, move.old, now=now)
    _swap_places(db, move)
    _move_conversation(db, move)
    db.execute("UPDATE errands SET room_id = ? WHERE room_id = ?", (move.new, move.old))
    _move_outbox(db, move, refused_since=refused_since, now=now)
    insert_outbox(db, notices, now=now)
    return True


def _swap_places(db: sqlite3.Connection, move: Replacement) -> None:
    """Directories, uid and container are named after slug and number: these stay with the talk."""
    places = {
        room_id: db.execute("SELECT slug, idx FROM rooms WHERE room_id = ?", (room_id,)).fetchone()
        for room_id in (move.old, move.new)
    }
    # Both are unique: one of the rooms steps aside.
    db.execute("UPDATE rooms SET slug = '', idx = -1 WHERE room_id = ?", (move.old,))
    for room_id, place in ((move.new, places[move.old]), (move.old, places[move.new])):
        db.execute("UPDATE rooms SET slug = ?, idx = ? WHERE room_id = ?", (*place, room_id))


def _move_conversation(db: sqlite3.Connection, move: Replacement) -> None:
    db.execute(
        "UPDATE rooms SET moved_seq = (SELECT coalesce(max(seq), 0) FROM inbox) WHERE room_id = ?",
        (move.old,),
    )
    # Until the alias's own server says where it stands, the room keeps the profile that it had.
    db.execute(
        "UPDATE rooms SET alias = coalesce(alias, (SELECT alias FROM rooms WHERE room_id = ?)) "
        "WHERE room_id = ?",
        (move.old, move.new),
    )
    # What was raised, and whom agents last heard; a setting of the new room's own stays.
    db.execute(
        "INSERT OR IGNORE INTO settings SELECT ?, key, value, set_by, set_at FROM settings "
        "WHERE room_id = ? AND key <> 'restart'",
        (move.new, move.old),
    )
    db.execute("DELETE FROM errands WHERE room_id = ?", (move.old,))
    db.execute("UPDATE schedules SET room_id = ? WHERE room_id = ?", (move.new, move.old))
    for table in ("sessions", "past_sessions", "runners"):
        db.execute(f"DELETE FROM {table} WHERE room_id = ?", (move.new,))  # noqa: S608 - constants
        db.execute(
            f"UPDATE {table} SET room_id = ? WHERE room_id = ?",  # noqa: S608 - constants
            (move.new, move.old),
        )
    db.execute(
        "UPDATE turns SET room_id = ? WHERE room_id = ? AND state <> 'ended'", (move.new, move.old)
    )
    _leave_threads(db, move)


def _leave_threads(db: sqlite3.Connection, move: Replacement) -> None:
    """Threads hang on events of the old room: what was begun there goes on outside of one."""
    for table in ("sessions", "turns", "schedules"):
        found = db.execute(
            f"SELECT DISTINCT session FROM {table} WHERE room_id = ?",  # noqa: S608 - constants
            (move.new,),
        ).fetchall()
        for (name,) in found:
            db.execute(
                f"UPDATE {table} SET session = ? WHERE room_id = ? AND session = ?",  # noqa: S608 - constants
                (left_behind(name), move.new, name),
            )


def _move_outbox(
    db: sqlite3.Connection, move: Replacement, *, refused_since: float, now: float
) -> None:
    told = _forget_stand_ins(db, move.old, refused_since=refused_since)
    db.execute(
        "UPDATE outbox SET room_id = ? WHERE room_id = ? AND state = 'queued' AND attempts = 0 "  # noqa: S608 - constants
        f"AND {NO_QUESTION}",
        (move.new, move.old),
    )
    db.execute(
        "UPDATE outbox SET room_id = ?, state = 'queued', attempts = 0, not_before = ?, "  # noqa: S608 - constants
        "reason = NULL, ended_at = NULL "
        "WHERE room_id = ? AND state = 'refused' AND reason = ? AND ended_at >= ? "
        f"AND {NO_QUESTION} "
        "AND seq NOT IN (SELECT value FROM json_each(?)) "
        # A file that could not be uploaded is forgotten; its text is on its way instead.
        "AND NOT (json_extract(content, '$.msgtype') IS 'm.file' "
        "AND json_extract(content, '$.url') IS NULL AND json_extract(content, '$.file') IS NULL)",
        (move.new, now, move.old, FORBIDDEN, refused_since, json.dumps(told)),
    )
    leave_threads(db, move.new)


def _forget_stand_ins(db: sqlite3.Connection, old: RoomId, *, refused_since: float) -> list[int]:
    """What was to take the place of messages that move after all is not said.

    Returns the messages whose stand-in has, or may have, been sent: those don't move.
    """
    refused = db.execute(
        "SELECT seq, txn_id FROM outbox "
        "WHERE room_id = ? AND state = 'refused' AND reason = ? AND ended_at >= ?",
        (old, FORBIDDEN, refused_since),
    ).fetchall()
    told: list[int] = []
    for seq, txn_id in refused:
        stand_in = refused_txn_id(TxnId(txn_id))
        take_back_outbox(db, stand_in)
        if db.execute("SELECT 1 FROM outbox WHERE txn_id = ?", (stand_in,)).fetchone():
            told.append(seq)
    return told
