"""The store as a whole: its tables, and the transactions that touch more than one of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.api import InboxState, NewOutboxRow
from orchestrator.store.database import Database, open_database
from orchestrator.store.inbox_table import InboxTable
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.outbox_table import OutboxTable, insert_outbox
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

    async def begin_life(self, *, now: float) -> None:
        """What an earlier life put off is due again, whatever the clock was then. Idempotent.

        Times of its future (the clock was set back since) become now.
        """

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE outbox SET not_before = ? WHERE state = 'queued'", (now,))
            db.execute(
                "UPDATE inbox SET received_at = ?1 WHERE state = 'pending_keys' "
                "AND received_at > ?1",
                (now,),
            )

        await self.database.run(work)

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


def build_store(database: Database) -> Store:
    """The tables of an open database."""
    return Store(
        database=database,
        rooms=RoomTable(database),
        inbox=InboxTable(database),
        turns=TurnTable(database),
        outbox=OutboxTable(database),
    )


@asynccontextmanager
async def open_store(state_dir: Path) -> AsyncIterator[Store]:
    """Open STATE_DIR/state.sqlite3; the caller holds the directory's lock.

    Raises:
        StoreError: and its children, as `open_database` says.
    """
    async with open_database(state_dir / DATABASE_NAME) as database:
        yield build_store(database)
