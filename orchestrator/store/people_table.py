"""The tables `room_power`, `members`, `last_people` and `greetings`: who is who in a room."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.role import RoomPower, parse_power
from orchestrator.model import RoomId, UserId
from orchestrator.store.api import NewOutboxRow
from orchestrator.store.command_effect import ROOMS_OF_CONVERSATION
from orchestrator.store.database import Database
from orchestrator.store.outbox_table import insert_outbox
from orchestrator.store.steer_table import SENDER

# Of one room; who is not among them goes by the user id alone.
_MAX_MEMBERS = 5000


@dataclass(frozen=True, slots=True)
class PeopleTable:
    """What a room's state says of people, and what was noted of them."""

    database: Database

    async def note_creation(
        self, room_id: RoomId, creator: str, content: Mapping[str, object]
    ) -> None:
        """Who made the room, and in which version. Idempotent; it happens once."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO room_power (room_id, creator, creation) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET creator = excluded.creator, "
                "creation = excluded.creation",
                (room_id, creator, json.dumps(content)),
            )

        await self.database.run(work)

    async def note_levels(self, room_id: RoomId, content: Mapping[str, object]) -> None:
        """The room's power levels; the last ones count. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO room_power (room_id, levels) VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET levels = excluded.levels",
                (room_id, json.dumps(content)),
            )

        await self.database.run(work)

    async def note_asked(
        self,
        room_id: RoomId,
        creator: str | None,
        creation: Mapping[str, object] | None,
        levels: Mapping[str, object] | None,
    ) -> None:
        """What the homeserver said when it was asked; what came of the room meanwhile stays."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR IGNORE INTO room_power VALUES (?, ?, ?, ?)",
                (
                    room_id,
                    creator,
                    None if creation is None else json.dumps(creation),
                    None if levels is None else json.dumps(levels),
                ),
            )

        await self.database.run(work)

    async def without_power(self) -> Sequence[RoomId]:
        """Rooms that the agent is in, whose state nobody has told."""

        def work(db: sqlite3.Connection) -> list[RoomId]:
            query = (
                "SELECT room_id FROM rooms WHERE joined "
                "AND room_id NOT IN (SELECT room_id FROM room_power)"
            )
            return [RoomId(room_id) for (room_id,) in db.execute(query)]

        return await self.database.run(work)

    async def power(self, room_id: RoomId) -> RoomPower | None:
        """The room's levels; None: its state was never received."""

        def work(db: sqlite3.Connection) -> RoomPower | None:
            query = "SELECT creator, creation, levels FROM room_power WHERE room_id = ?"
            row = db.execute(query, (room_id,)).fetchone()
            if row is None:
                return None
            creator, creation, levels = row
            return parse_power(_parse(creation), creator, _parse(levels))

        return await self.database.run(work)

    async def note_member(
        self, room_id: RoomId, user_id: UserId, name: str | None, *, is_there: bool
    ) -> None:
        """Somebody joined, left, or goes by another name. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO members SELECT ?1, ?2, ?3, ?4 WHERE "
                "(SELECT count(*) FROM members WHERE room_id = ?1) < ?5 OR "
                "EXISTS (SELECT 1 FROM members WHERE room_id = ?1 AND user_id = ?2) "
                "ON CONFLICT DO UPDATE SET name = excluded.name, joined = excluded.joined",
                (room_id, user_id, name, is_there, _MAX_MEMBERS),
            )

        await self.database.run(work)

    async def note_on_the_way(self, room_id: RoomId, user_id: UserId) -> None:
        """Somebody is invited, or asks to be: they have left only if they were there. Idempotent.

        Into the room that replaces another everybody is invited, and some come days later.
        """

        def work(db: sqlite3.Connection) -> None:
            query = "UPDATE members SET joined = 0 WHERE room_id = ? AND user_id = ?"
            db.execute(query, (room_id, user_id))

        await self.database.run(work)

    async def name(self, room_id: RoomId, user_id: UserId) -> str | None:
        """The name that somebody goes by in the room, as it was noted."""

        def work(db: sqlite3.Connection) -> str | None:
            query = "SELECT name FROM members WHERE room_id = ? AND user_id = ?"
            row = db.execute(query, (room_id, user_id)).fetchone()
            return row[0] if row else None

        return await self.database.run(work)

    async def is_member(self, room_id: RoomId, user_id: UserId) -> bool:
        """Whether somebody is known to be in the room."""

        def work(db: sqlite3.Connection) -> bool:
            query = "SELECT 1 FROM members WHERE room_id = ? AND user_id = ? AND joined"
            return db.execute(query, (room_id, user_id)).fetchone() is not None

        return await self.database.run(work)

    async def has_left(self, room_id: RoomId, user_id: UserId) -> bool:
        """Whether somebody is known to be in the room no more, or in the one that it continues."""

        def work(db: sqlite3.Connection) -> bool:
            query = (
                f"SELECT joined FROM members WHERE user_id = ? AND room_id IN "  # noqa: S608 - constants
                f"({ROOMS_OF_CONVERSATION}) ORDER BY room_id = ? DESC LIMIT 1"
            )
            row = db.execute(query, (user_id, room_id, room_id)).fetchone()
            return row is not None and not row[0]

        return await self.database.run(work)

    async def note_person(self, room_id: RoomId, seq: int) -> None:
        """A person wrote something, with this inbox row. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO last_people VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
                (room_id, seq),
            )

        await self.database.run(work)

    async def agent_run(self, room_id: RoomId, agents: Collection[str]) -> tuple[int, int]:
        """How many turns agents asked for and got since a person wrote, and since which row.

        A message of theirs that went into a running turn is one, too.
        """

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            query = "SELECT seq FROM last_people WHERE room_id = ?"
            row = db.execute(query, (room_id,)).fetchone()
            since = int(row[0]) if row else 0
            (count,) = db.execute(
                "SELECT count(*) FROM turns WHERE room_id = ? AND position > ? "
                "AND outcome IS NOT 'refused' AND started_at IS NOT NULL AND resumes = 0 "
                "AND sender IN (SELECT value FROM json_each(?))",
                (room_id, since, json.dumps(sorted(agents))),
            ).fetchone()
            (steered,) = db.execute(
                "SELECT count(*) FROM steers JOIN turns USING (turn_id) "  # noqa: S608 - constants
                "WHERE turns.room_id = ? AND steers.position > ? "
                f"AND {SENDER} IN (SELECT value FROM json_each(?))",
                (room_id, since, json.dumps(sorted(agents))),
            ).fetchone()
            return int(count) + int(steered), since

        return await self.database.run(work)

    async def plan_greeting(self, room_id: RoomId) -> None:
        """The invitation is about to be accepted. A room that was greeted before is not again."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR IGNORE INTO greetings VALUES (?, 1)", (room_id,))

        await self.database.run(work)

    async def due_greetings(self) -> Sequence[RoomId]:
        """Rooms that are to be greeted."""

        def work(db: sqlite3.Connection) -> list[RoomId]:
            return [RoomId(r[0]) for r in db.execute("SELECT room_id FROM greetings WHERE is_due")]

        return await self.database.run(work)

    async def greet(self, room_id: RoomId, rows: Sequence[NewOutboxRow], *, now: float) -> bool:
        """Say it once, as soon as the room's encryption is known. False: not yet.

        A room that takes the place of another is told something else, and not greeted.
        """

        def work(db: sqlite3.Connection) -> bool:
            room = db.execute(
                "SELECT joined, replaces FROM rooms WHERE room_id = ?", (room_id,)
            ).fetchone()
            if room is None or not room[0] or _has_encryption_to_come(db, room_id):
                return False
            cursor = db.execute(
                "UPDATE greetings SET is_due = 0 WHERE room_id = ? AND is_due", (room_id,)
            )
            if cursor.rowcount and room[1] is None:
                insert_outbox(db, rows, now=now)
            return True

        return await self.database.run(work)


def _has_encryption_to_come(db: sqlite3.Connection, room_id: RoomId) -> bool:
    """One answer of /sync is stored whole: what it says of the room is here by now."""
    query = "SELECT 1 FROM inbox WHERE room_id = ? AND state = 'new' AND raw LIKE ? LIMIT 1"
    return db.execute(query, (room_id, "%m.room.encryption%")).fetchone() is not None


def _parse(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)
