"""The table `rooms`, and the installation's identity in `meta`."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence

from orchestrator.core.naming import room_slug
from orchestrator.model import InstallationId, RoomId, RoomSlug
from orchestrator.store.api import RoomRow
from orchestrator.store.database import Database
from orchestrator.store.room_place import free_index, kept_place
from orchestrator.store.spare_table import take_spare
from orchestrator.store.turn_table import note_generation

_COLUMNS = (
    "room_id, slug, idx, joined, encrypted, name, alias, joined_members, moved_seq, replaced_by, "
    "replaces"
)
# A conversation that moved more often than this was moved by somebody who plays with it.
_MAX_MOVES = 100


class RoomTable:
    """Rooms that the agent is or was in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.on_spare_taken: Callable[[], None] = lambda: None
        """Called after a room has taken a spare."""

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

        A new one takes a spare, where there is one that is ready.

        Raises:
            TooManyRoomsError: the installation has as many rooms as it has uids for.
        """

        def work(db: sqlite3.Connection) -> tuple[RoomRow, bool]:
            took_spare = False
            known = db.execute("SELECT 1 FROM rooms WHERE room_id = ?", (room_id,)).fetchone()
            if known is None:
                slug, index, took_spare = _find_place(db, room_id)
                db.execute(
                    "INSERT INTO rooms (room_id, slug, idx, joined) VALUES (?, ?, ?, ?)",
                    (room_id, slug, index, joined),
                )
            db.execute("UPDATE rooms SET joined = ? WHERE room_id = ?", (joined, room_id))
            return _select(db, "WHERE room_id = ?", room_id)[0], took_spare

        room, took_spare = await self._database.run(work)
        if took_spare:
            self.on_spare_taken()
        return room

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

    async def by_slug(self, slug: RoomSlug) -> RoomRow | None:
        """The room that has this name on the host now, or None."""
        rows = await self._database.run(lambda db: _select(db, "WHERE slug = ?", slug))
        return rows[0] if rows else None

    async def current(self, room_id: RoomId) -> RoomRow | None:
        """The room in which this one's conversation goes on: itself, unless it was replaced."""

        def work(db: sqlite3.Connection) -> RoomRow | None:
            current = room_id
            for _ in range(_MAX_MOVES):
                row = db.execute(
                    "SELECT replaced_by FROM rooms WHERE room_id = ? AND moved_seq IS NOT NULL",
                    (current,),
                ).fetchone()
                if row is None:
                    break
                current = row[0]
            rooms = _select(db, "WHERE room_id = ?", current)
            return rooms[0] if rooms else None

        return await self._database.run(work)

    async def note_replaced_by(self, room_id: RoomId, new: RoomId, *, now: float) -> None:
        """An allowed tombstone names the room that replaces this one; the last counts, if any."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE rooms SET replaced_at = CASE WHEN replaced_by = ?1 THEN replaced_at "
                "ELSE ?2 END, replaced_by = ?1 WHERE room_id = ?3 AND moved_seq IS NULL",
                (new, now, room_id),
            )

        await self._database.run(work)

    async def note_replaces(self, room_id: RoomId, old: RoomId) -> None:
        """The room's creation names the room that it replaces; it happened once, and stays so."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE rooms SET replaces = coalesce(replaces, ?) WHERE room_id = ?",
                (old, room_id),
            )

        await self._database.run(work)

    async def all(self) -> Sequence[RoomRow]:
        """Every room, in the order in which they came."""
        return await self._database.run(lambda db: _select(db, "ORDER BY idx"))


def read_rooms(db: sqlite3.Connection) -> tuple[InstallationId | None, Sequence[RoomRow]]:
    """The installation (None: never started) and every room, for who only reads."""
    row = db.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
    return (InstallationId(row[0]) if row else None), _select(db, "ORDER BY idx")


def _find_place(db: sqlite3.Connection, room_id: RoomId) -> tuple[RoomSlug, int, bool]:
    """A new room's slug and number; whether they were a spare's, whose runner is the room's now."""
    if (kept := kept_place(db, room_id)) is not None:
        return *kept, False
    if (spare := take_spare(db)) is not None:
        note_generation(db, room_id, spare.generation)
        return spare.slug, spare.index, True
    return room_slug(room_id), free_index(db), False


def _select(db: sqlite3.Connection, where: str, *values: str) -> list[RoomRow]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM rooms {where}", values).fetchall()  # noqa: S608 - constants
    return [_row(db, *row) for row in rows]


def _row(
    db: sqlite3.Connection,
    room_id: str,
    slug: str,
    index: int,
    joined: int,
    encrypted: int,
    name: str | None,
    alias: str | None,
    members: int | None,
    moved_seq: int | None,
    replaced_by: str | None,
    replaces: str | None,
) -> RoomRow:
    return RoomRow(
        room_id=RoomId(room_id),
        slug=RoomSlug(slug),
        index=index,
        joined=bool(joined),
        encrypted=bool(encrypted),
        name=name,
        alias=alias,
        joined_members=members,
        moved_seq=moved_seq,
        replaced_by=None if replaced_by is None else RoomId(replaced_by),
        former=() if replaces is None else _former(db, room_id),
    )


def _former(db: sqlite3.Connection, room_id: str) -> tuple[RoomId, ...]:
    """The rooms that were moved into this one: a chain, since a room replaces one at most."""
    found: list[RoomId] = []
    current = room_id
    while len(found) < _MAX_MOVES:
        row = db.execute(
            "SELECT old.room_id FROM rooms AS new JOIN rooms AS old ON old.room_id = new.replaces "
            "WHERE new.room_id = ? AND old.replaced_by = new.room_id AND old.moved_seq IS NOT NULL",
            (current,),
        ).fetchone()
        if row is None:
            break
        current = row[0]
        found.append(RoomId(current))
    return tuple(found)
