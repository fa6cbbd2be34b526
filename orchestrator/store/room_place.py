"""Where on this host a room's files are: its name there, and the number that its uid comes of.

Rule: a number is one room's or one spare's. After a restore the files that are there count as well,
whether the copy knows their room or not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from orchestrator.core.naming import ROOMS_PER_INSTALLATION, room_slug
from orchestrator.errors import TooManyRoomsError
from orchestrator.model import RoomId, RoomSlug

_INDEXES_KEY = "reserved_indexes"
_SLUGS_KEY = "reserved_slugs"


def reserve_places(
    db: sqlite3.Connection, indexes: Mapping[str, int], slugs: Mapping[str, str]
) -> None:
    """After a restore: rooms that the copy does not know keep their files and the uid of these.

    `indexes`: of what has files here, by slug; `slugs`: by room, of rooms that took a spare's.
    """
    for key, value in ((_INDEXES_KEY, indexes), (_SLUGS_KEY, slugs)):
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))


def kept_place(db: sqlite3.Connection, room_id: RoomId) -> tuple[RoomSlug, int] | None:
    """Where a new room has files already, from before a restore."""
    slug = str(_read(db, _SLUGS_KEY).get(room_id, room_slug(room_id)))
    index = _read(db, _INDEXES_KEY).get(slug)
    taken = db.execute("SELECT 1 FROM rooms WHERE slug = ? OR idx = ?", (slug, index)).fetchone()
    return None if index is None or taken else (RoomSlug(slug), int(index))


def free_index(db: sqlite3.Connection) -> int:
    """One past all numbers that are in use.

    Raises:
        TooManyRoomsError: there is none left.
    """
    (last,) = db.execute(
        "SELECT coalesce(max(idx), -1) FROM (SELECT idx FROM rooms UNION SELECT idx FROM spares)"
    ).fetchone()
    index = max([int(last), *map(int, _read(db, _INDEXES_KEY).values())]) + 1
    if index >= ROOMS_PER_INSTALLATION:
        raise TooManyRoomsError
    return index


def _read(db: sqlite3.Connection, key: str) -> dict[str, str | int]:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    found: dict[str, str | int] = json.loads(row[0]) if row else {}
    return found
