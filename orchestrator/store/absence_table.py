"""The table `absences`: people who have left a room.

The homeserver lets nobody react in a room who is not in it. But what was sent before may come
after: late, or kept back by another server. Who is known to have left decides nothing more.
"""

from __future__ import annotations

import sqlite3

from orchestrator.model import RoomId, UserId
from orchestrator.store.database import Database


class AbsenceTable:
    """Who left which room, and is not back."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, room_id: RoomId, user_id: UserId, *, is_there: bool) -> None:
        """Somebody joined the room, or left it. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            change = "DELETE FROM absences WHERE room_id = ? AND user_id = ?"
            if not is_there:
                change = "INSERT OR IGNORE INTO absences VALUES (?, ?)"
            db.execute(change, (room_id, user_id))

        await self._database.run(work)

    async def is_absent(self, room_id: RoomId, user_id: UserId) -> bool:
        """Whether this person is known to have left the room."""

        def work(db: sqlite3.Connection) -> bool:
            query = "SELECT 1 FROM absences WHERE room_id = ? AND user_id = ?"
            return db.execute(query, (room_id, user_id)).fetchone() is not None

        return await self._database.run(work)
