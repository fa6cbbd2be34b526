"""The store as a whole: its tables, and the transactions that touch more than one of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model import RoomId
from orchestrator.store.api import InboxState, NewOutboxRow, Replacement
from orchestrator.store.database import Database, open_database
from orchestrator.store.inbox_table import InboxTable
from orchestrator.store.outbox_table import OutboxTable, insert_outbox
from orchestrator.store.room_move import find_replacement, move_room
from orchestrator.store.room_table import RoomTable
from orchestrator.store.turn_table import TurnTable


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that survives; each table has one writer, the class of its name."""

    database: Database
    rooms: RoomTable
    inbox: InboxTable
    turns: TurnTable
    outbox: OutboxTable

    async def answer(
        self, seq: int, rows: Sequence[NewOutboxRow], *, reason: str, now: float
    ) -> None:
        """Mark an inbox row used and store the answer to it, in one transaction. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            insert_outbox(db, rows, now=now)
            db.execute(
                "UPDATE inbox SET state = ?, reason = ?, raw = '' WHERE seq = ?",
                (InboxState.USED, reason, seq),
            )

        await self.database.run(work)

    async def find_replacement(self, room_id: RoomId) -> Replacement | None:
        """The move that this room takes part in, if both rooms agree and it was not made yet."""
        return await self.database.run(lambda db: find_replacement(db, room_id))

    async def move_room(
        self, move: Replacement, notices: Sequence[NewOutboxRow], *, now: float
    ) -> bool:
        """The conversation goes on in the new room; False: not (any more). Idempotent.

        Nothing may be working on the old room's turns: whoever does would go on under its old id.
        """
        return await self.database.run(lambda db: move_room(db, move, notices, now=now))


@asynccontextmanager
async def open_store(state_dir: Path) -> AsyncIterator[Store]:
    """Open STATE_DIR/state.sqlite3; the caller holds the directory's lock.

    Raises:
        StoreError: and its children, as `open_database` says.
    """
    async with open_database(state_dir / "state.sqlite3") as database:
        yield Store(
            database=database,
            rooms=RoomTable(database),
            inbox=InboxTable(database),
            turns=TurnTable(database),
            outbox=OutboxTable(database),
        )
