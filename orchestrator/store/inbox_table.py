"""The table `inbox` and the sync token: what arrived, before anything interprets it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from orchestrator.core.reason import HISTORY
from orchestrator.core.thread import find_thread
from orchestrator.model import EventId, RoomId
from orchestrator.store.api import InboxKind, InboxRow, InboxState, NewInboxRow, Restored
from orchestrator.store.database import Database

_COLUMNS = "seq, kind, room_id, event_id, raw, state, received_at, thread"
# Rows of other kinds are of no use once they have been looked at; these stay, for their ids.
_KEPT_KINDS = (InboxKind.TIMELINE, InboxKind.PAGE)
_RESTORED_KEY = "restored"


class InboxTable:
    """Events in the order in which they arrived."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sync_token(self) -> str | None:
        """`next_batch` of the last answer that was committed, or None before the first."""

        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT value FROM meta WHERE key = 'sync_token'").fetchone()
            return row[0] if row else None

        return await self._database.run(work)

    async def known_rooms(self) -> Mapping[RoomId, bool]:
        """Room id to whether the agent is in it now, for the sync loop."""

        def work(db: sqlite3.Connection) -> dict[RoomId, bool]:
            rows = db.execute("SELECT room_id, joined FROM rooms").fetchall()
            return {RoomId(room_id): bool(joined) for room_id, joined in rows}

        return await self._database.run(work)

    async def restored(self) -> Restored | None:
        """That the database was restored, until the first answer after that is committed."""
        return await self._database.run(_read_restored)

    async def commit_sync(self, rows: Sequence[NewInboxRow], next_batch: str, *, now: float) -> int:
        """Store one answer's items and its token in one transaction; returns how many were new.

        Items whose event id is stored already are skipped, so an answer may come twice.
        """

        def work(db: sqlite3.Connection) -> int:
            new = 0
            for row in rows:
                state = InboxState.IGNORED if row.history else InboxState.NEW
                cursor = db.execute(
                    "INSERT OR IGNORE INTO inbox "
                    "(event_id, kind, room_id, raw, state, reason, received_at, thread) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        row.event_id,
                        row.kind,
                        row.room_id,
                        "" if row.history else row.raw,
                        state,
                        HISTORY if row.history else None,
                        now,
                        find_thread(row.raw) if row.kind is InboxKind.TIMELINE else None,
                    ),
                )
                new += cursor.rowcount
            db.execute(
                "INSERT INTO meta VALUES ('sync_token', ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (next_batch,),
            )
            db.execute("DELETE FROM meta WHERE key = ?", (_RESTORED_KEY,))
            return new

        return await self._database.run(work)

    async def add(self, row: NewInboxRow, *, now: float) -> bool:
        """Store one that no sync brought; False: its id is stored already, and nothing is added."""

        def work(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "INSERT OR IGNORE INTO inbox (event_id, kind, room_id, raw, state, received_at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (row.event_id, row.kind, row.room_id, row.raw, InboxState.NEW, now),
            )
            return cursor.rowcount == 1

        return await self._database.run(work)

    async def new_seqs(self, *, after: int, limit: int) -> Sequence[tuple[int, RoomId | None]]:
        """Number and room of rows in state NEW past the number `after`, in order of arrival."""

        def work(db: sqlite3.Connection) -> list[tuple[int, RoomId | None]]:
            query = "SELECT seq, room_id FROM inbox WHERE state = 'new' AND seq > ? "
            rows = db.execute(f"{query} ORDER BY seq LIMIT ?", (after, limit)).fetchall()
            return [(seq, None if room is None else RoomId(room)) for seq, room in rows]

        return await self._database.run(work)

    async def still_new(self, seqs: Sequence[int]) -> Sequence[InboxRow]:
        """Those of these rows that are still NEW, in the order asked for."""

        def work(db: sqlite3.Connection) -> list[InboxRow]:
            query = f"SELECT {_COLUMNS} FROM inbox WHERE seq = ? AND state = 'new'"  # noqa: S608 - constants
            return [row for seq in seqs for row in _rows(db.execute(query, (seq,)))]

        return await self._database.run(work)

    async def new_count(self) -> int:
        """How many rows nobody has looked at, or wait for what follows from them."""

        def work(db: sqlite3.Connection) -> int:
            query = "SELECT count(*) FROM inbox WHERE state = 'new'"
            count: int = db.execute(query).fetchone()[0]
            return count

        return await self._database.run(work)

    async def new_tombstones(self, room_id: RoomId) -> Sequence[InboxRow]:
        """Rows of the room in state NEW that may be a tombstone, in order of arrival."""

        def work(db: sqlite3.Connection) -> list[InboxRow]:
            return _rows(
                db.execute(
                    f"SELECT {_COLUMNS} FROM inbox WHERE state = 'new' AND room_id = ? "  # noqa: S608 - constants
                    "AND kind IN ('timeline', 'state') AND raw LIKE '%m.room.tombstone%' "
                    "ORDER BY seq",
                    (room_id,),
                )
            )

        return await self._database.run(work)

    async def pending_keys(self) -> Sequence[InboxRow]:
        """Encrypted events whose key has not arrived."""

        def work(db: sqlite3.Connection) -> list[InboxRow]:
            return _rows(
                db.execute(
                    f"SELECT {_COLUMNS} FROM inbox WHERE state = 'pending_keys' ORDER BY seq"  # noqa: S608 - constants
                )
            )

        return await self._database.run(work)

    async def reopen(self, room_id: RoomId) -> Sequence[int]:
        """What waits for keys in a room is NEW again; the rows' numbers, in order of arrival."""

        def work(db: sqlite3.Connection) -> list[int]:
            where = "WHERE state = 'pending_keys' AND room_id = ?"
            query = f"SELECT seq FROM inbox {where} ORDER BY seq"  # noqa: S608 - constants
            seqs = [seq for (seq,) in db.execute(query, (room_id,)).fetchall()]
            db.execute(f"UPDATE inbox SET state = 'new', reason = NULL {where}", (room_id,))  # noqa: S608 - constants
            return seqs

        return await self._database.run(work)

    async def thread_of(self, event_id: EventId, room_id: RoomId) -> EventId | None:
        """The thread in which something was said in this room; None in the main timeline."""

        def work(db: sqlite3.Connection) -> EventId | None:
            found = db.execute(
                "SELECT thread FROM inbox WHERE event_id = ? AND room_id = ?", (event_id, room_id)
            ).fetchone()
            return EventId(found[0]) if found and found[0] is not None else None

        return await self._database.run(work)

    async def mark(self, seq: int, state: InboxState, *, reason: str | None = None) -> None:
        """Move a row on.

        Of a handled event only the id stays; handled rows without one worth keeping are deleted.
        What FAILED keeps its text, for whoever looks into it.
        """

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE inbox SET state = ?1, reason = ?2, "
                "raw = CASE WHEN ?1 IN ('used', 'ignored') THEN '' ELSE raw END WHERE seq = ?3",
                (state, reason, seq),
            )
            if state is not InboxState.PENDING_KEYS:
                kept = ", ".join(f"'{kind}'" for kind in _KEPT_KINDS)
                db.execute(
                    f"DELETE FROM inbox WHERE seq = ? AND kind NOT IN ({kept}) "  # noqa: S608 - constants
                    "AND state IN ('used', 'ignored')",
                    (seq,),
                )

        await self._database.run(work)


def write_restored(db: sqlite3.Connection, restored: Restored) -> None:
    """Remember that this database was restored, within the caller's transaction."""
    text = json.dumps([restored.copied_at, restored.restored_at])
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_RESTORED_KEY, text))


def _read_restored(db: sqlite3.Connection) -> Restored | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_RESTORED_KEY,)).fetchone()
    if row is None:
        return None
    copied_at, restored_at = json.loads(row[0])
    return Restored(copied_at=copied_at, restored_at=restored_at)


def _rows(cursor: sqlite3.Cursor) -> list[InboxRow]:
    return [
        InboxRow(
            seq=seq,
            kind=InboxKind(kind),
            room_id=RoomId(room_id) if room_id is not None else None,
            event_id=EventId(event_id) if event_id is not None else None,
            raw=raw,
            state=InboxState(state),
            received_at=received_at,
            thread=EventId(thread) if thread is not None else None,
        )
        for seq, kind, room_id, event_id, raw, state, received_at, thread in cursor.fetchall()
    ]
