"""What rooms have moved through the proxy, by UTC day, in the table `egress_days`.

By slug and not by room id: a room that was upgraded goes on with what its day has left.
"""

from __future__ import annotations

import sqlite3

from orchestrator.model import RoomSlug
from orchestrator.store.database import Database

# The rows of a room that are kept, newest first: for whoever asks where the bytes went.
_KEPT_DAYS = 31


class EgressDayTable:
    """Bytes of rooms and days."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, slug: RoomSlug, day: str, size: int) -> int:
        """Add to a day's bytes (or take from them: `size` may be negative); the new sum.

        A sum is never below zero.
        """

        def work(db: sqlite3.Connection) -> int:
            db.execute(
                "INSERT INTO egress_days VALUES (?1, ?2, max(0, ?3)) "
                "ON CONFLICT (slug, day) DO UPDATE SET bytes = max(0, bytes + ?3)",
                (slug, day, size),
            )
            db.execute(
                "DELETE FROM egress_days WHERE slug = ?1 AND day NOT IN "
                "(SELECT day FROM egress_days WHERE slug = ?1 ORDER BY day DESC LIMIT ?2)",
                (slug, _KEPT_DAYS),
            )
            query = "SELECT bytes FROM egress_days WHERE slug = ? AND day = ?"
            row = db.execute(query, (slug, day)).fetchone()
            # A clock that was set back by a month: such a day counts as spent.
            return int(row[0]) if row else 1 << 62

        return await self._database.run(work)
