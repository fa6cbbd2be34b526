"""The table `spares`: places on this host that are made before it is known for which room.

Rules: a place is one spare's or one room's, never both: a room takes it in the transaction that
makes the room's row, and it never comes back. Only one that is ready can be taken; whoever works on
one takes that away first.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence

from orchestrator.core.naming import spare_slug
from orchestrator.model import RoomSlug
from orchestrator.store.api import SpareRow
from orchestrator.store.database import Database
from orchestrator.store.room_place import free_index


class SpareTable:
    """Written by the pool; `take_spare` is the rooms' way to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self) -> SpareRow:
        """Record one before anything of it is made.

        Raises:
            TooManyRoomsError: the installation has no uid left.
        """

        def work(db: sqlite3.Connection) -> SpareRow:
            slug = spare_slug(secrets.token_hex(8))
            db.execute("INSERT INTO spares VALUES (?, ?, 0, 0)", (slug, free_index(db)))
            return next(row for row in read_spares(db) if row.slug == slug)

        return await self._database.run(work)

    async def all(self) -> Sequence[SpareRow]:
        """Those that no room has taken, in the order in which they came."""
        return await self._database.run(read_spares)

    async def begin(self, slug: RoomSlug) -> SpareRow | None:
        """From now on no room takes it, and its container is another one; None: a room has it."""

        def work(db: sqlite3.Connection) -> SpareRow | None:
            db.execute(
                "UPDATE spares SET is_ready = 0, generation = generation + 1 WHERE slug = ?",
                (slug,),
            )
            return next((row for row in read_spares(db) if row.slug == slug), None)

        return await self._database.run(work)

    async def note_ready(self, slug: RoomSlug) -> None:
        """Its container runs: a room may take it."""
        await self._database.run(
            lambda db: db.execute("UPDATE spares SET is_ready = 1 WHERE slug = ?", (slug,))
        )

    async def drop(self, slug: RoomSlug) -> None:
        """There is nothing of it any more. Only after `begin`. Idempotent."""
        await self._database.run(
            lambda db: db.execute("DELETE FROM spares WHERE slug = ? AND NOT is_ready", (slug,))
        )


def take_spare(db: sqlite3.Connection) -> SpareRow | None:
    """The oldest that is ready, which is a room's from here on; None: there is none."""
    found = next((row for row in read_spares(db) if row.is_ready), None)
    if found is not None:
        db.execute("DELETE FROM spares WHERE slug = ?", (found.slug,))
    return found


def forget_spares(db: sqlite3.Connection) -> None:
    """In a copy that is restored: a room that it does not know may have taken any of them."""
    db.execute("DELETE FROM spares")


def read_spares(db: sqlite3.Connection) -> Sequence[SpareRow]:
    """All of them, for who only reads: also a database that no start has brought to this form."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'spares'").fetchone():
        return ()
    rows = db.execute("SELECT slug, idx, generation, is_ready FROM spares ORDER BY idx").fetchall()
    return [
        SpareRow(slug=RoomSlug(slug), index=index, generation=generation, is_ready=bool(is_ready))
        for slug, index, generation, is_ready in rows
    ]
