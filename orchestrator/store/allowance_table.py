"""How many turns a room and a person had on a day, and whom was warned of a budget.

Turns are counted where they are stored, in `turns`: a crash counts none twice. A turn counts once
it was given to a runner; one that goes on by itself with another's message does not. For a person,
and for agents in a row, a message that went into a running turn (`steers`) counts as a turn.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.model import RoomId, UserId
from orchestrator.store.api import NewOutboxRow
from orchestrator.store.command_effect import ROOMS_OF_CONVERSATION
from orchestrator.store.database import Database
from orchestrator.store.outbox_table import insert_outbox
from orchestrator.store.steer_table import SENDER

_STEERED = (
    "SELECT count(*) FROM steers JOIN inbox ON inbox.seq = steers.position "  # noqa: S608 - constants
    f"WHERE inbox.received_at >= ? AND {SENDER} = ?"
)
_COUNTED = "resumes = 0 AND started_at IS NOT NULL AND started_at >= ?"


@dataclass(frozen=True, slots=True)
class AllowanceTable:
    """Reads `turns` and `steers`; writes `budget_warnings`."""

    database: Database

    async def turns_since(
        self, room_id: RoomId, person: UserId, *, midnight: float
    ) -> tuple[int, int]:
        """Of this conversation, and of this person in all rooms."""

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            where = f"SELECT count(*) FROM turns WHERE {_COUNTED}"  # noqa: S608 - constants
            (mine,) = db.execute(f"{where} AND sender = ?", (midnight, person)).fetchone()
            (of_room,) = db.execute(
                f"{where} AND room_id IN ({ROOMS_OF_CONVERSATION})", (midnight, room_id)
            ).fetchone()
            (steered,) = db.execute(_STEERED, (midnight, person)).fetchone()
            return int(of_room), int(mine) + int(steered)

        return await self.database.run(work)

    async def warn(
        self, day: str, room_id: RoomId, what: str, rows: Sequence[NewOutboxRow], *, now: float
    ) -> bool:
        """Say it, the first time on this day that it is to be said. Idempotent."""

        def work(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "INSERT OR IGNORE INTO budget_warnings VALUES (?, ?, ?)", (day, room_id, what)
            )
            if cursor.rowcount:
                insert_outbox(db, rows, now=now)
                # The day before yesterday's clock can't come back.
                db.execute("DELETE FROM budget_warnings WHERE day < date(?, '-2 days')", (day,))
            return bool(cursor.rowcount)

        return await self.database.run(work)
