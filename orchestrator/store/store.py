"""The store as a whole: its tables, and the transactions that touch more than one of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.core.going_on import MAX_WAIT_S, WAIT_MARGIN_S
from orchestrator.core.reason import COMMAND
from orchestrator.model import EventId, RoomId, TurnId, UserId
from orchestrator.store.absence_table import AbsenceTable
from orchestrator.store.allowance_table import AllowanceTable
from orchestrator.store.api import InboxState, NewOutboxRow, Replacement, TurnRow
from orchestrator.store.approval_table import ApprovalTable
from orchestrator.store.command_effect import Retry, cancel_first, retry_last
from orchestrator.store.copy_table import CopyTable
from orchestrator.store.database import Database, open_database
from orchestrator.store.egress_effect import EgressChange
from orchestrator.store.errand_table import ErrandTable
from orchestrator.store.file_table import FileTable
from orchestrator.store.grant_table import GrantTable
from orchestrator.store.inbox_table import InboxTable
from orchestrator.store.meta_table import MetaTable
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.outbox_table import OutboxTable, insert_outbox
from orchestrator.store.people_table import PeopleTable
from orchestrator.store.room_move import find_replacement, move_room
from orchestrator.store.room_table import RoomTable
from orchestrator.store.schedule_table import ScheduleTable
from orchestrator.store.session_table import SessionTable, drop_session
from orchestrator.store.setting_table import SettingTable
from orchestrator.store.spare_table import SpareTable
from orchestrator.store.steer_table import SteerTable
from orchestrator.store.turn_table import NewTurn, Refusal, TurnTable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What somebody is told a single time in a room."""

    room_id: RoomId
    user_id: UserId
    what: str


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that survives; each table has one writer, the class of its name (`told`: this)."""

    database: Database
    rooms: RoomTable
    spares: SpareTable
    inbox: InboxTable
    turns: TurnTable
    sessions: SessionTable
    steers: SteerTable
    outbox: OutboxTable
    meta: MetaTable
    approvals: ApprovalTable
    grants: GrantTable
    absences: AbsenceTable
    settings: SettingTable
    schedules: ScheduleTable
    files: FileTable
    people: PeopleTable
    allowances: AllowanceTable
    copies: CopyTable
    errands: ErrandTable

    async def begin_life(self, *, now: float) -> None:
        """What an earlier life put off is due again, whatever the clock was then. Idempotent.

        Times of its future (the clock was set back since) become now; a wait is no longer than one
        that begins now can be.
        """

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE outbox SET not_before = ? WHERE state = 'queued'", (now,))
            db.execute(
                "UPDATE inbox SET received_at = ?1 WHERE state = 'pending_keys' "
                "AND received_at > ?1",
                (now,),
            )
            db.execute(
                "UPDATE turns SET not_before = ?1 WHERE state = 'queued' AND not_before > ?1",
                (now + MAX_WAIT_S + WAIT_MARGIN_S,),
            )
            db.execute(
                "UPDATE turns SET created_at = ?1 WHERE outcome = 'refused' AND parts = 0 "
                "AND created_at > ?1",
                (now,),
            )

        await self.database.run(work)

    async def answer(
        self,
        seq: int,
        rows: Sequence[NewOutboxRow],
        *,
        reason: str,
        now: float,
        once: Once | None = None,
    ) -> None:
        """Mark an inbox row used and store the answer to it, in one transaction. Idempotent.

        With `once` the answer is stored the first time alone that this was to be told.
        """

        def effect(db: sqlite3.Connection) -> bool:
            return once is None or _is_first(db, once)

        await self.answer_with(
            seq, effect, lambda is_due: rows if is_due else (), reason=reason, now=now
        )

    async def cancel(
        self,
        seq: int,
        room_id: RoomId,
        conversation: str,
        command: EventId,
        rows: Callable[[TurnRow | None], Sequence[NewOutboxRow]],
        *,
        now: float,
    ) -> TurnRow | None:
        """Mark a turn as cancelled, with the answer to the command; see `cancel_first`."""

        def effect(db: sqlite3.Connection) -> TurnRow | None:
            return cancel_first(db, room_id, before=seq, command=command, conversation=conversation)

        return await self.answer_with(seq, effect, rows, reason=COMMAND, now=now)

    async def interrupt(self, turn_id: TurnId, *, by: EventId) -> bool:
        """Mark a turn as stopped by a later message; False: it was stopped or has ended before."""

        def work(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "UPDATE turns SET cancelled_by = ? "
                "WHERE turn_id = ? AND state <> 'ended' AND cancelled_by IS NULL",
                (by, turn_id),
            )
            return cursor.rowcount == 1

        return await self.database.run(work)

    async def refuse_cancel(self, turn: NewTurn, refusal: Refusal, *, now: float) -> TurnId | None:
        """Refuse the words of a `!cancel`, which has its effect; the turn that it marked."""
        cancelled: list[TurnRow | None] = []

        def effect(db: sqlite3.Connection) -> None:
            before, command = min(turn.inbox), turn.asked[0]
            first = cancel_first(
                db, turn.room_id, before=before, command=command, conversation=turn.session
            )
            cancelled[:] = [first]

        await self.turns.refuse(turn, refusal, effect=effect, now=now)
        found = cancelled[0] if cancelled else None
        return None if found is None else found.turn_id

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

        await self.answer_with(seq, effect, lambda _: rows, reason=COMMAND, now=now)

    async def retry(
        self,
        seq: int,
        room_id: RoomId,
        conversation: str,
        command: EventId,
        rows: Callable[[Retry], Sequence[NewOutboxRow]],
        *,
        by: UserId,
        max_queued: int,
        now: float,
    ) -> Retry:
        """Queue the last message without an answer again, with the answer to the command."""

        def effect(db: sqlite3.Connection) -> Retry:
            return retry_last(
                db,
                room_id,
                conversation,
                position=seq,
                command=command,
                by=by,
                max_queued=max_queued,
                now=now,
            )

        return await self.answer_with(seq, effect, rows, reason=COMMAND, now=now)

    async def change_egress(
        self,
        seq: int,
        effect: Callable[[sqlite3.Connection], EgressChange],
        rows: Callable[[EgressChange], Sequence[NewOutboxRow]],
        *,
        now: float,
    ) -> EgressChange:
        """Grant, refuse or revoke (`egress_effect`), with the answer to the command."""
        return await self.answer_with(seq, effect, rows, reason=COMMAND, now=now)

    async def answer_with(
        self,
        seq: int,
        effect: Callable[[sqlite3.Connection], T],
        rows: Callable[[T], Sequence[NewOutboxRow]],
        *,
        reason: str = COMMAND,
        now: float,
    ) -> T:
        """Mark an inbox row used, with an effect and the answer that comes of it. Idempotent.

        All of it in one transaction: `effect` runs in the database's thread, and touches the
        database alone.
        """

        def work(db: sqlite3.Connection) -> T:
            result = effect(db)
            insert_outbox(db, rows(result), now=now)
            db.execute(
                "UPDATE inbox SET state = ?, reason = ?, raw = '' WHERE seq = ?",
                (InboxState.USED, reason, seq),
            )
            return result

        return await self.database.run(work)

    async def fail(
        self, seq: int, rows: Sequence[NewOutboxRow], *, reason: str, now: float
    ) -> None:
        """Mark an inbox row failed and store what is said about it, in one transaction. Idempotent.

        Of a row that something came of meanwhile (an answer, a turn) nothing is said any more.
        """

        def work(db: sqlite3.Connection) -> None:
            cursor = db.execute(
                "UPDATE inbox SET state = ?, reason = ? "
                "WHERE seq = ? AND state IN ('new', 'pending_keys')",
                (InboxState.FAILED, reason, seq),
            )
            if cursor.rowcount:
                insert_outbox(db, rows, now=now)

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


def _is_first(db: sqlite3.Connection, once: Once) -> bool:
    cursor = db.execute(
        "INSERT OR IGNORE INTO told VALUES (?, ?, ?)", (once.room_id, once.user_id, once.what)
    )
    return cursor.rowcount == 1


def build_store(database: Database) -> Store:
    """The tables of an open database."""
    return Store(
        database=database,
        rooms=RoomTable(database),
        spares=SpareTable(database),
        inbox=InboxTable(database),
        turns=TurnTable(database),
        sessions=SessionTable(database),
        steers=SteerTable(database),
        outbox=OutboxTable(database),
        meta=MetaTable(database),
        approvals=ApprovalTable(database),
        grants=GrantTable(database),
        absences=AbsenceTable(database),
        settings=SettingTable(database),
        schedules=ScheduleTable(database),
        files=FileTable(database),
        people=PeopleTable(database),
        allowances=AllowanceTable(database),
        copies=CopyTable(database),
        errands=ErrandTable(database),
    )


@asynccontextmanager
async def open_store(state_dir: Path) -> AsyncIterator[Store]:
    """Open STATE_DIR/state.sqlite3; the caller holds the directory's lock.

    Raises:
        StoreError: and its children, as `open_database` says.
    """
    async with open_database(state_dir / DATABASE_NAME) as database:
        yield build_store(database)
