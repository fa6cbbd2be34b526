"""The table `errands`: commands that take their time, and are answered when they are done.

Rule: such a command's inbox row is marked used in the transaction that stores its errand, and the
errand goes in the transaction that stores its answer. So a crash repeats the errand, which must
bear that, and never its answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model import EventId, RoomId, TurnId, UserId
from orchestrator.store.api import NewOutboxRow
from orchestrator.store.database import Database
from orchestrator.store.outbox_table import insert_outbox

MOST_OPEN = 5
"""In one room; more are refused."""


class ErrandKind(StrEnum):
    """The commands that are errands."""

    DIFF = "diff"
    UNDO = "undo"
    EXPORT = "export"
    CLONE = "clone"
    LS = "ls"
    GET = "get"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One command. `seq` is its inbox row: what came before it is done first."""

    event_id: EventId
    room_id: RoomId
    seq: int
    kind: ErrandKind
    argument: str
    sender: UserId
    progress: str = ""
    """What was done of it already, in the errand's own words."""


class ErrandTable:
    """Errands that are not answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_in(self, room_id: RoomId) -> Sequence[Errand]:
        """The room's, in the order in which they were given."""

        def work(db: sqlite3.Connection) -> list[Errand]:
            found = db.execute(
                "SELECT event_id, room_id, seq, kind, argument, sender, progress FROM errands "
                "WHERE room_id = ? ORDER BY seq",
                (room_id,),
            ).fetchall()
            return [_errand(*values) for values in found]

        return await self._database.run(work)

    async def rooms(self) -> Sequence[RoomId]:
        """Rooms in which one is open."""

        def work(db: sqlite3.Connection) -> list[RoomId]:
            found = db.execute("SELECT DISTINCT room_id FROM errands").fetchall()
            return [RoomId(row[0]) for row in found]

        return await self._database.run(work)

    async def is_preceded(self, errand: Errand) -> bool:
        """Whether a turn that was asked for before it has not ended."""

        def work(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "SELECT 1 FROM turns WHERE room_id = ? AND state <> 'ended' AND position < ?",
                (errand.room_id, errand.seq),
            )
            return found.fetchone() is not None

        return await self._database.run(work)

    async def is_before(self, turn_id: TurnId, kinds: Collection[ErrandKind]) -> bool:
        """Whether one of these kinds, that was asked for before a turn, is open in its room."""
        marks = ", ".join("?" * len(kinds))

        def work(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "SELECT 1 FROM errands JOIN turns ON turns.room_id = errands.room_id "  # noqa: S608 - constants
                f"WHERE turn_id = ? AND seq < position AND kind IN ({marks}) LIMIT 1",
                (turn_id, *kinds),
            )
            return found.fetchone() is not None

        return await self._database.run(work)

    async def note_progress(self, event_id: EventId, progress: str) -> None:
        """What need not, or must not, be done again."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE errands SET progress = ? WHERE event_id = ?", (progress, event_id))

        await self._database.run(work)

    async def drop(self, room_id: RoomId) -> None:
        """The room was left: nothing can be answered there."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM errands WHERE room_id = ?", (room_id,))

        await self._database.run(work)


def add_errand(db: sqlite3.Connection, errand: Errand) -> bool:
    """Store it, in a command's effect; False: too many are open in the room."""
    (count,) = db.execute(
        "SELECT count(*) FROM errands WHERE room_id = ?", (errand.room_id,)
    ).fetchone()
    if count >= MOST_OPEN:
        return False
    db.execute(
        "INSERT OR IGNORE INTO errands (event_id, room_id, seq, kind, argument, sender) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            errand.event_id,
            errand.room_id,
            errand.seq,
            errand.kind,
            errand.argument,
            errand.sender,
        ),
    )
    return True


def end_errand(
    db: sqlite3.Connection, event_id: EventId, rows: Sequence[NewOutboxRow], *, now: float
) -> None:
    """Store its answer, and that it is done. Idempotent: a second answer is not stored."""
    gone = db.execute("DELETE FROM errands WHERE event_id = ?", (event_id,))
    if gone.rowcount:
        insert_outbox(db, rows, now=now)


def _errand(
    event_id: str, room_id: str, seq: int, kind: str, argument: str, sender: str, progress: str
) -> Errand:
    return Errand(
        event_id=EventId(event_id),
        room_id=RoomId(room_id),
        seq=seq,
        kind=ErrandKind(kind),
        argument=argument,
        sender=UserId(sender),
        progress=progress,
    )
