"""The table `outbox`: events to be sent, each with a payload frozen at its making.

A message that the homeserver refuses is sent without what it relates to, where that may be why.

A row that takes the place of an earlier one's message is sent as an edit of it. That is decided
when it is read to be sent: within a room the earlier one has left or was refused by then.

A row with a file is frozen in two steps: its content names the file from the transaction on that
forgets the file's bytes, which is before its event is sent.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from orchestrator.core.edit import build_edit
from orchestrator.core.naming import txn_id
from orchestrator.core.poll import POLL_END, POLL_START
from orchestrator.core.thread import loosen
from orchestrator.model import EventId, JsonObject, Priority, RoomId, TurnId, TxnId
from orchestrator.store.api import NewOutboxRow, OutboxRow
from orchestrator.store.database import Database
from orchestrator.store.message_place import (
    MESSAGE,
    Place,
    find_place,
    leave_thread,
    put_in_place,
)
from orchestrator.store.poll_end import forget_end, name_poll

_COLUMNS = (
    "seq, room_id, txn_id, event_type, content, priority, attempts, not_before, created_at, "
    "file IS NOT NULL, "
    "(SELECT event_id FROM outbox AS shown WHERE shown.txn_id = outbox.edits "
    "AND shown.room_id = outbox.room_id AND shown.state = 'sent')"
)
# After a minute a message counts as an answer, whatever it is, and is older than most of them:
# nothing waits for ever behind rooms that never stop answering.
_AGED_S = 60.0
# A head counts as much as the best row behind it: what waits for it is what the room waits for. Of
# equals, those go first that were ready first, which for answers is the order in which their turns
# ended. Rank and time are compared as one number: Unix time needs ten digits before the point, and
# the rest of a float's 53 bits tells times apart that differ by less than a millisecond.
_RANK = (
    "(SELECT min(created_at + 1e11 * CASE WHEN created_at < :aged OR priority = 'final' THEN 0 "
    "WHEN priority = 'notice' THEN 1 ELSE 2 END) "
    "FROM outbox AS behind WHERE behind.state = 'queued' AND behind.room_id = outbox.room_id)"
)
FORBIDDEN = "M_FORBIDDEN"
NO_QUESTION = (
    f"event_type NOT IN ('{POLL_START}', '{POLL_END}') "  # noqa: S608 - constants
    "AND txn_id NOT IN (SELECT approvals.txn_id FROM approvals)"
)
"""What a room was asked ends with it, and its number means another question in the next room."""
# What a replaced room still has to settle goes before what its conversation says in the new one.
_BEHIND_OLD_ROOM = (
    "EXISTS (SELECT 1 FROM rooms AS new JOIN rooms AS old "
    "ON old.room_id = new.replaces AND old.moved_seq IS NOT NULL "
    "JOIN outbox AS earlier ON earlier.room_id = old.room_id AND earlier.state = 'queued' "
    "WHERE new.room_id = outbox.room_id AND earlier.seq < outbox.seq)"
)
# The first unsent row of each room; the others wait behind it.
_HEADS = (
    f"SELECT {_COLUMNS} FROM outbox WHERE seq IN "  # noqa: S608 - constants
    "(SELECT min(seq) FROM outbox WHERE state = 'queued' GROUP BY room_id) "
    f"AND NOT {_BEHIND_OLD_ROOM}"
)
_WAITING_NOW = (
    "SELECT count(*) FROM outbox WHERE state = 'queued' AND (room_id = ? OR room_id IN "  # noqa: S608 - constants
    f"(SELECT room_id FROM ({_HEADS} AND not_before <= ?)))"
)


def insert_outbox(db: sqlite3.Connection, rows: Sequence[NewOutboxRow], *, now: float) -> None:
    """Add rows within the caller's transaction; a transaction id that is known adds nothing."""
    for row in rows:
        if row.edits is not None:
            take_back_outbox(db, row.edits)
        db.execute(
            "INSERT OR IGNORE INTO outbox (room_id, txn_id, event_type, content, priority, state, "
            "not_before, created_at, file, edits) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
            (
                row.room_id,
                row.txn_id,
                row.event_type,
                json.dumps(put_in_place(db, row)),
                row.priority,
                now,
                now,
                row.file,
                row.edits,
            ),
        )


def take_back_outbox(db: sqlite3.Connection, txn_id: TxnId) -> None:
    """Within the caller's transaction: don't send what has not left and is of no use any more."""
    db.execute(
        "DELETE FROM outbox WHERE txn_id = ? "
        "AND (state = 'refused' OR state = 'queued' AND attempts = 0)",
        (txn_id,),
    )


class OutboxTable:
    """What the sender needs: heads of rooms, and marks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[NewOutboxRow], *, now: float) -> None:
        """Add rows in a transaction of their own. Idempotent by transaction id."""
        await self._database.run(lambda db: insert_outbox(db, rows, now=now))

    async def add_for_open(self, turn_id: TurnId, row: NewOutboxRow, *, now: float) -> None:
        """Add a row of a turn, unless it has ended. Idempotent by transaction id."""

        def work(db: sqlite3.Connection) -> None:
            found = db.execute(
                "SELECT 1 FROM turns WHERE turn_id = ? AND state <> 'ended'", (turn_id,)
            ).fetchone()
            if found:
                insert_outbox(db, [row], now=now)

        await self._database.run(work)

    async def outbox_heads(self, *, now: float, limit: int) -> Sequence[OutboxRow]:
        """For each room its first unsent row, if it is due; the most urgent room first."""

        def work(db: sqlite3.Connection) -> list[OutboxRow]:
            cursor = db.execute(
                f"{_HEADS} AND not_before <= :now ORDER BY {_RANK}, seq LIMIT :limit",
                {"now": now, "aged": now - _AGED_S, "limit": limit},
            )
            return [_row(values) for values in cursor.fetchall()]

        return await self._database.run(work)

    async def next_outbox_at(self) -> float | None:
        """The earliest time at which a room's head is due, or None when nothing waits."""

        def work(db: sqlite3.Connection) -> float | None:
            query = f"SELECT min(not_before) FROM ({_HEADS})"  # noqa: S608 - constants
            value: float | None = db.execute(query).fetchone()[0]
            return value

        return await self._database.run(work)

    async def file(self, seq: int) -> bytes | None:
        """The file that is still to be uploaded for a row, or None."""

        def work(db: sqlite3.Connection) -> bytes | None:
            row: tuple[bytes | None] | None = db.execute(
                "SELECT file FROM outbox WHERE seq = ? AND state = 'queued'", (seq,)
            ).fetchone()
            return None if row is None else row[0]

        return await self._database.run(work)

    async def store_uploaded(
        self, seq: int, content: JsonObject, *, rest: bytes | None = None
    ) -> None:
        """From here on the payload is `content`, and the file is `rest`, or forgotten."""
        await self._update(seq, "content = ?, file = ?", json.dumps(content), rest)

    async def mark_attempt(self, seq: int, room_id: RoomId, *, now: float) -> bool:
        """Count an attempt, before the request leaves; False: the row goes to another room now."""

        def work(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "UPDATE outbox SET attempts = attempts + 1, not_before = ? "
                "WHERE seq = ? AND room_id = ? AND state = 'queued'",
                (now, seq, room_id),
            )
            return cursor.rowcount == 1

        return await self._database.run(work)

    async def mark_sent(self, seq: int, event_id: EventId, *, now: float) -> None:
        """The homeserver has it."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE outbox SET state = 'sent', event_id = ?, ended_at = ? "
                "WHERE seq = ? AND state = 'queued'",
                (event_id, now, seq),
            )
            name_poll(db, seq, event_id)

        await self._database.run(work)

    async def mark_retry(self, seq: int, *, not_before: float) -> None:
        """Leave it alone until then."""
        await self._update(seq, "not_before = ?", not_before)

    async def loosen(self, seq: int) -> bool:
        """Take out of a message what it relates to; False: it relates to nothing any more.

        One thing at a time: the message whose place it takes, then its thread, then the reply.
        """

        def work(db: sqlite3.Connection) -> bool:
            query = (
                f"SELECT {_COLUMNS} FROM outbox "  # noqa: S608 - constants
                "WHERE seq = ? AND state = 'queued' AND event_type = ?"
            )
            found = db.execute(query, (seq, MESSAGE)).fetchone()
            if found is None:
                return False
            if found[-1] is not None:
                db.execute("UPDATE outbox SET edits = NULL WHERE seq = ?", (seq,))
                return True
            content = loosen(_row(found).content)
            if content is not None:
                changed = json.dumps(content)
                db.execute("UPDATE outbox SET content = ? WHERE seq = ?", (changed, seq))
            return content is not None

        return await self._database.run(work)

    async def mark_refused(self, seq: int, *, reason: str, now: float) -> None:
        """It will never be accepted; the rows behind it go on.

        What a replaced room forbids goes into the room that replaced it, but for questions and
        polls: what they ask ended with the room.
        """

        def work(db: sqlite3.Connection) -> None:
            moved = db.execute(
                "UPDATE outbox SET attempts = 0, not_before = ?, "  # noqa: S608 - constants
                "room_id = (SELECT replaced_by FROM rooms WHERE rooms.room_id = outbox.room_id) "
                "WHERE seq = ? AND state = 'queued' AND ? = ? "
                f"AND file IS NULL AND {NO_QUESTION} "
                "AND room_id IN (SELECT room_id FROM rooms WHERE moved_seq IS NOT NULL)",
                (now, seq, reason, FORBIDDEN),
            )
            if moved.rowcount:
                leave_thread(db, seq)
            else:
                db.execute(
                    "UPDATE outbox SET state = 'refused', reason = ?, ended_at = ?, file = NULL "
                    "WHERE seq = ? AND state = 'queued'",
                    (reason, now, seq),
                )
                forget_end(db, seq)

        await self._database.run(work)

    async def drop_room(self, room_id: RoomId, *, reason: str, now: float) -> None:
        """Give up all that waits for a room that the agent is no longer in."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE outbox SET state = 'refused', reason = ?, ended_at = ?, file = NULL "
                "WHERE room_id = ? AND state = 'queued'",
                (reason, now, room_id),
            )

        await self._database.run(work)

    async def event_of(self, txn_id: TxnId, room_id: RoomId) -> EventId | None:
        """The event of a row of this room's, once the homeserver has it."""

        def work(db: sqlite3.Connection) -> EventId | None:
            row: tuple[str] | None = db.execute(
                "SELECT event_id FROM outbox WHERE txn_id = ? AND room_id = ? AND state = 'sent'",
                (txn_id, room_id),
            ).fetchone()
            return EventId(row[0]) if row else None

        return await self._database.run(work)

    async def content_of(self, event_id: EventId, room_id: RoomId) -> JsonObject | None:
        """What a message of ours says now: its own content, or what took its place."""

        def work(db: sqlite3.Connection) -> JsonObject | None:
            own = db.execute(
                "SELECT seq, txn_id, content FROM outbox WHERE event_id = ? AND room_id = ?",
                (event_id, room_id),
            ).fetchone()
            if own is None:
                return None
            seq, txn, content = own
            edit = db.execute(
                "SELECT content FROM outbox WHERE seq > ? AND edits = ? AND room_id = ? "
                "ORDER BY seq DESC LIMIT 1",
                (seq, txn, room_id),
            ).fetchone()
            said: JsonObject = json.loads(edit[0] if edit else content)
            return said

        return await self._database.run(work)

    async def txns_of(self, source: str) -> frozenset[TxnId]:
        """The ids of all rows that this source has caused (core.naming.txn_id)."""
        start = txn_id(source, 0).removesuffix("0")

        def work(db: sqlite3.Connection) -> frozenset[TxnId]:
            found = db.execute(
                "SELECT txn_id FROM outbox WHERE txn_id >= ? AND txn_id < ?", (start, f"{start}~")
            )
            return frozenset(TxnId(row[0]) for row in found)

        return await self._database.run(work)

    async def place_of(self, txn_id: TxnId, room_id: RoomId) -> Place | None:
        """Whether a row's message is the last that its room reads; None: it has no such row."""
        return await self._database.run(lambda db: find_place(db, txn_id, room_id))

    async def waiting(self) -> int:
        """How many rows are still to be sent."""

        def work(db: sqlite3.Connection) -> int:
            count: int = db.execute(
                "SELECT count(*) FROM outbox WHERE state = 'queued'"
            ).fetchone()[0]
            return count

        return await self._database.run(work)

    async def waiting_notices(self, room_id: RoomId) -> int:
        """How many of the room's rows that are no part of an answer wait to be sent."""

        def work(db: sqlite3.Connection) -> int:
            query = (
                "SELECT count(*) FROM outbox "
                "WHERE state = 'queued' AND room_id = ? AND priority = 'notice'"
            )
            count: int = db.execute(query, (room_id,)).fetchone()[0]
            return count

        return await self._database.run(work)

    async def oldest_waiting_at(self) -> float | None:
        """When the oldest of them was stored (Unix time), or None when nothing waits."""

        def work(db: sqlite3.Connection) -> float | None:
            query = "SELECT min(created_at) FROM outbox WHERE state = 'queued'"
            value: float | None = db.execute(query).fetchone()[0]
            return value

        return await self._database.run(work)

    async def waiting_now(self, room_id: RoomId, *, now: float) -> int:
        """How many rows would leave now if they could, and all of this room's.

        Those of other rooms whose head is put off are not among them.
        """

        def work(db: sqlite3.Connection) -> int:
            count: int = db.execute(_WAITING_NOW, (room_id, now)).fetchone()[0]
            return count

        return await self._database.run(work)

    async def _update(self, seq: int, assignments: str, *values: object) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute(
                f"UPDATE outbox SET {assignments} WHERE seq = ? AND state = 'queued'",  # noqa: S608 - constants
                (*values, seq),
            )

        await self._database.run(work)


def _row(values: tuple[object, ...]) -> OutboxRow:
    (seq, room_id, txn_id, event_type, content, priority) = values[:6]
    attempts, not_before, created_at, has_file, edited = values[6:]
    payload: JsonObject = json.loads(str(content))
    return OutboxRow(
        seq=int(str(seq)),
        room_id=RoomId(str(room_id)),
        txn_id=TxnId(str(txn_id)),
        event_type=str(event_type),
        content=payload if edited is None else build_edit(payload, EventId(str(edited))),
        priority=Priority(str(priority)),
        attempts=int(str(attempts)),
        not_before=float(str(not_before)),
        created_at=float(str(created_at)),
        has_file=bool(has_file),
    )
