"""The table `snapshots`: which turn has which copy of the workspace, from before it and after it.

By slug and not by room id: a room that was upgraded goes on with its files. A row is written when
its files are whole; files without a row are nobody's, and removed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.model import RoomSlug, SessionId, TurnId
from orchestrator.store.database import Database

_COLUMNS = "number, turn_id, session, session_id, manifest, missing, after, taken_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRow:
    """A turn that was offered, and what the workspace was before."""

    number: int
    """Counts up; the last turn has the highest."""
    turn_id: TurnId
    session: str
    session_id: SessionId | None
    """The CLI's session that it was offered to."""
    manifest: str | None
    missing: str | None
    """Why there is no copy, as a clause; None where there is one."""
    after: str | None
    """What the workspace was when the turn had ended, where that was looked at."""
    taken_at: float


class CopyTable:
    """Turns and their copies. One writer: this class, and `drop_copy` in a command's effect."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        slug: RoomSlug,
        turn_id: TurnId,
        *,
        session: str,
        session_id: SessionId | None,
        manifest: str | None,
        missing: str | None,
        now: float,
    ) -> None:
        """Note what was before a turn; again for the same turn, where it had not been offered."""

        def work(db: sqlite3.Connection) -> None:
            # What was before this turn is what was after the one before it, unless that is known.
            db.execute(
                "UPDATE snapshots SET after = ?1 WHERE slug = ?2 AND turn_id <> ?3 "
                "AND after IS NULL AND number = (SELECT max(number) FROM snapshots "
                "WHERE slug = ?2 AND turn_id <> ?3)",
                (manifest, slug, turn_id),
            )
            db.execute("DELETE FROM snapshots WHERE slug = ? AND turn_id = ?", (slug, turn_id))
            db.execute(
                "INSERT INTO snapshots (slug, turn_id, session, session_id, manifest, missing, "
                "taken_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (slug, turn_id, session, session_id, manifest, missing, now),
            )
            db.execute("DELETE FROM undone WHERE slug = ?", (slug,))

        await self._database.run(work)

    async def note_after(self, slug: RoomSlug, turn_id: TurnId, manifest: str) -> None:
        """What the workspace was when the turn had ended."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE snapshots SET after = ? WHERE slug = ? AND turn_id = ?",
                (manifest, slug, turn_id),
            )

        await self._database.run(work)

    async def of_room(self, slug: RoomSlug) -> Sequence[CopyRow]:
        """The room's, the last turn first."""

        def work(db: sqlite3.Connection) -> list[CopyRow]:
            query = f"SELECT {_COLUMNS} FROM snapshots WHERE slug = ? ORDER BY number DESC"  # noqa: S608 - constants
            return [_row(*values) for values in db.execute(query, (slug,)).fetchall()]

        return await self._database.run(work)

    async def keep_last(self, slug: RoomSlug, count: int) -> None:
        """Forget all but the copies of the last turns."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM snapshots WHERE slug = ?1 AND number NOT IN (SELECT number FROM "
                "snapshots WHERE slug = ?1 ORDER BY number DESC LIMIT ?2)",
                (slug, count),
            )

        await self._database.run(work)

    async def undone(self, slug: RoomSlug) -> str | None:
        """What the workspace was before the last `!undo`, until the next turn."""

        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT manifest FROM undone WHERE slug = ?", (slug,)).fetchone()
            return row[0] if row else None

        return await self._database.run(work)

    async def slugs(self) -> Sequence[str]:
        """Rooms that the table knows."""

        def work(db: sqlite3.Connection) -> list[str]:
            return [row[0] for row in db.execute("SELECT DISTINCT slug FROM snapshots").fetchall()]

        return await self._database.run(work)


def drop_copy(
    db: sqlite3.Connection, slug: RoomSlug, turn_id: TurnId, *, undone: str | None
) -> None:
    """The turn was undone: it is no last turn any more; a part of a command's effect."""
    db.execute("DELETE FROM snapshots WHERE slug = ? AND turn_id = ?", (slug, turn_id))
    note_undone(db, slug, undone)


def note_undone(db: sqlite3.Connection, slug: RoomSlug, manifest: str | None) -> None:
    """What `!undo back` leads to; None: to nothing. A part of a command's effect."""
    db.execute("DELETE FROM undone WHERE slug = ?", (slug,))
    if manifest is not None:
        db.execute("INSERT INTO undone VALUES (?, ?)", (slug, manifest))


def _row(
    number: int,
    turn_id: str,
    session: str,
    session_id: str | None,
    manifest: str | None,
    missing: str | None,
    after: str | None,
    taken_at: float,
) -> CopyRow:
    return CopyRow(
        number=number,
        turn_id=TurnId(turn_id),
        session=session,
        session_id=None if session_id is None else SessionId(session_id),
        manifest=manifest,
        missing=missing,
        after=after,
        taken_at=taken_at,
    )
