"""What a room's people set by command, over what the configuration says. One writer: this class."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.model import RoomId, UserId
from orchestrator.store.database import Database


@dataclass(frozen=True, slots=True)
class SettingTable:
    """Key and value per room, as text; who reads one knows its form."""

    database: Database

    async def of_room(self, room_id: RoomId) -> Mapping[str, str]:
        """All settings of a room, by key."""
        return await self.database.run(lambda db: read_settings(db, room_id))

    async def forget(self, room_id: RoomId, key: str, *, value: str) -> None:
        """Take a setting back, if it still has this value."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM settings WHERE room_id = ? AND key = ? AND value = ?",
                (room_id, key, value),
            )

        await self.database.run(work)

    async def setters(self, room_id: RoomId) -> Mapping[str, UserId]:
        """Who set what is set, by key."""

        def work(db: sqlite3.Connection) -> dict[str, UserId]:
            found = db.execute("SELECT key, set_by FROM settings WHERE room_id = ?", (room_id,))
            return {str(key): UserId(str(by)) for key, by in found}

        return await self.database.run(work)


def read_settings(db: sqlite3.Connection, room_id: RoomId) -> Mapping[str, str]:
    """The same, in the caller's transaction."""
    found = db.execute("SELECT key, value FROM settings WHERE room_id = ?", (room_id,))
    return {str(key): str(value) for key, value in found}


def store_setting(
    db: sqlite3.Connection,
    room_id: RoomId,
    key: str,
    value: str | None,
    *,
    by: UserId,
    now: float,
) -> None:
    """Set it, or with None take it back to what is configured; a part of a command's effect."""
    if value is None:
        db.execute("DELETE FROM settings WHERE room_id = ? AND key = ?", (room_id, key))
        return
    db.execute(
        "INSERT INTO settings (room_id, key, value, set_by, set_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = excluded.value, set_by = excluded.set_by, "
        "set_at = excluded.set_at",
        (room_id, key, value, by, now),
    )
