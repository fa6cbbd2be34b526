"""The store as a whole: its tables, and the transactions that touch more than one of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.model import EventId, RoomId
from orchestrator.store.api import InboxState, NewOutboxRow, TurnRow
from orchestrator.store.command_effect import Retry, cancel_first, drop_session, retry_last
from orchestrator.store.database import Database, open_database
from orchestrator.store.inbox_table import InboxTable
from orchestrator.store.outbox_table import OutboxTable, insert_outbox
from orchestrator.store.room_table import RoomTable
from orchestrator.store.turn_table import TurnTable

T = TypeVar("T")


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
        await self._answer_with(seq, lambda _: None, lambda _: rows, reason=reason, now=now)

    async def cancel(
        self,
        seq: int,
        room_id: RoomId,
        command: EventId,
        rows: Callable[[TurnRow | None], Sequence[NewOutboxRow]],
        *,
        now: float,
    ) -> TurnRow | None:
        """Mark a turn as cancelled, with the answer to the command; see `cancel_first`."""

        def effect(db: sqlite3.Connection) -> TurnRow | None:
            return cancel_first(db, room_id, before=seq, command=command)

        return await self._answer_with(seq, effect, rows, reason="command", now=now)

    async def begin_anew(
        self,
        seq: int,
        room_id: RoomId,
        session: str,
        rows: Sequence[NewOutboxRow],
        *,
        now: float,
    ) -> None:
        """Forget a conversation's session, with the answer to the command."""

        def effect(db: sqlite3.Connection) -> None:
            drop_session(db, room_id, session)

        await self._answer_with(seq, effect, lambda _: rows, reason="command", now=now)

    async def retry(
        self,
        seq: int,
        room_id: RoomId,
        command: EventId,
        rows: Callable[[Retry], Sequence[NewOutboxRow]],
        *,
        max_queued: int,
        now: float,
    ) -> Retry:
        """Queue the last message without an answer again, with the answer to the command."""

        def effect(db: sqlite3.Connection) -> Retry:
            return retry_last(
                db, room_id, position=seq, command=command, max_queued=max_queued, now=now
            )

        return await self._answer_with(seq, effect, rows, reason="command", now=now)

    async def _answer_with(
        self,
        seq: int,
        effect: Callable[[sqlite3.Connection], T],
        rows: Callable[[T], Sequence[NewOutboxRow]],
        *,
        reason: str,
        now: float,
    ) -> T:
        def work(db: sqlite3.Connection) -> T:
            result = effect(db)
            insert_outbox(db, rows(result), now=now)
            db.execute(
                "UPDATE inbox SET state = ?, reason = ?, raw = '' WHERE seq = ?",
                (InboxState.USED, reason, seq),
            )
            return result

        return await self.database.run(work)


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
