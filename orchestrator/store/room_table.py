"""The tables `rooms` and `told`, and the installation's identity in `meta`."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence

from orchestrator.core.naming import ROOMS_PER_INSTALLATION, room_slug
from orchestrator.errors import TooManyRoomsError
from orchestrator.model import InstallationId, RoomId, RoomSlug, UserId
from orchestrator.store.api import RoomRow
from orchestrator.store.database import Database

_RESERVED_KEY = "reserved_indexes"
_COLUMNS = "room_id, slug, idx, joined, encrypted, name, alias, joined_members"


class RoomTable:
    """Rooms that the agent is or was in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def installation(self) -> InstallationId:
        """This state directory's identity, made at the first call."""

        def work(db: sqlite3.Connection) -> InstallationId:
            db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('installation', ?)", (secrets.token_hex(8),)
            )
            row = db.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
            return InstallationId(row[0])

        return await self._database.run(work)

    async def ensure(self, room_id: RoomId, *, joined: bool) -> RoomRow:
        """The room's row, made if it is new; `joined` is stored either way. Idempotent.

        Raises:
            TooManyRoomsError: the installation has as many rooms as it has uids for.
        """

        def work(db: sqlite3.Connection) -> RoomRow:
            slug = room_slug(room_id)
            known = db.execute("SELECT idx FROM rooms WHERE room_id = ?", (room_id,)).fetchone()
            index = known[0] if known else _free_index(db, slug)
            db.execute(
                "INSERT INTO rooms (room_id, slug, idx, joined) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (room_id) DO UPDATE SET joined = excluded.joined",
                (room_id, slug, index, joined),
            )
            return _select(db, "WHERE room_id = ?", room_id)[0]

        return await self._database.run(work)

    async def update(
        self,
        room_id: RoomId,
        *,
        encrypted: bool | None = None,
        name: str | None = None,
        alias: str | None = None,
        joined_members: int | None = None,
    ) -> None:
        """Store what is given. A room that was encrypted once stays so."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE rooms SET encrypted = max(encrypted, coalesce(?, 0)), "
                "name = coalesce(?, name), alias = coalesce(?, alias), "
                "joined_members = coalesce(?, joined_members) WHERE room_id = ?",
                (encrypted, name, alias, joined_members, room_id),
            )

        await self._database.run(work)

    async def get(self, room_id: RoomId) -> RoomRow | None:
        """One room, or None."""
        rows = await self._database.run(lambda db: _select(db, "WHERE room_id = ?", room_id))
        return rows[0] if rows else None

    async def all(self) -> Sequence[RoomRow]:
        """Every room, in the order in which they came."""
        return await self._database.run(lambda db: _select(db, "ORDER BY idx"))

    async def tell_once(self, room_id: RoomId, user_id: UserId, what: str) -> bool:
        """True the first time that this is asked for this room, user and topic."""

        def work(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "INSERT OR IGNORE INTO told VALUES (?, ?, ?)", (room_id, user_id, what)
            )
            return cursor.rowcount == 1

        return await self._database.run(work)


def reserve_indexes(db: sqlite3.Connection, indexes: Mapping[str, int]) -> None:
    """After a restore: rooms (by slug) that the copy does not know keep the uid of their files."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_RESERVED_KEY, json.dumps(indexes)))


def _free_index(db: sqlite3.Connection, slug: RoomSlug) -> int:
    """The new room's number: the one that its files are of, or one past all that are in use."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_RESERVED_KEY,)).fetchone()
    reserved: dict[str, int] = json.loads(row[0]) if row else {}
    (last,) = db.execute("SELECT coalesce(max(idx), -1) FROM rooms").fetchone()
    index = reserved.get(slug, max([int(last), *reserved.values()]) + 1)
    if index >= ROOMS_PER_INSTALLATION:
        raise TooManyRoomsError
    return index


def _select(db: sqlite3.Connection, where: str, *values: str) -> list[RoomRow]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM rooms {where}", values).fetchall()  # noqa: S608 - constants
    return [
        RoomRow(
            room_id=RoomId(room_id),
            slug=RoomSlug(slug),
            index=index,
            joined=bool(joined),
            encrypted=bool(encrypted),
            name=name,
            alias=alias,
            joined_members=members,
        )
        for room_id, slug, index, joined, encrypted, name, alias, members in rows
    ]
