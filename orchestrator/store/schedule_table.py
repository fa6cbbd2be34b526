"""The table `schedules`: turns due at a time, and the transaction that makes them turns."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.core.schedule import MAX_PER_ROOM, Wish
from orchestrator.model import RoomId, UserId
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.database import Database
from orchestrator.store.outbox_table import insert_outbox
from orchestrator.store.turn_table import NewTurn, count_open_turns, insert_turn, select_turns

_COLUMNS = "schedule_id, room_id, text, due_at, cron, made_by, session, is_paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """One schedule; `due_at` is Unix time. `schedule_id` is never given again."""

    schedule_id: int
    room_id: RoomId
    text: str
    due_at: float
    cron: str | None
    made_by: UserId
    session: str
    """The conversation that it runs in (core.thread)."""
    is_paused: bool
    """Whether the room was told that it is not run for now."""


@dataclass(frozen=True, slots=True)
class ScheduleTable:
    """Schedules of all rooms."""

    database: Database

    async def of_room(self, room_id: RoomId) -> Sequence[ScheduleRow]:
        """In the order in which they were made."""
        return await self.database.run(lambda db: read_schedules(db, room_id))

    async def due(self, *, now: float) -> Sequence[ScheduleRow]:
        """Those whose time has come, the earliest first."""

        def work(db: sqlite3.Connection) -> list[ScheduleRow]:
            query = f"SELECT {_COLUMNS} FROM schedules WHERE due_at <= ? ORDER BY due_at LIMIT 100"  # noqa: S608 - constants
            return [_row(values) for values in db.execute(query, (now,))]

        return await self.database.run(work)

    async def next_due_at(self) -> float | None:
        """When the next one is due, of all."""

        def work(db: sqlite3.Connection) -> float | None:
            value: float | None = db.execute("SELECT min(due_at) FROM schedules").fetchone()[0]
            return value

        return await self.database.run(work)

    async def run(
        self,
        schedule: ScheduleRow,
        turn: NewTurn,
        *,
        following: float | None,
        max_queued: int,
        rows: Callable[[TurnRow], Sequence[NewOutboxRow]],
        full: Sequence[NewOutboxRow],
        now: float,
    ) -> TurnRow | None:
        """Queue its turn and put the schedule off, in one transaction; None: the queue is full.

        Once for each of its times: a schedule that has moved on since it was read, or went into
        the room that replaced its room, does nothing.
        """

        def work(db: sqlite3.Connection) -> TurnRow | None:
            if not _move_on(db, schedule, following):
                return None
            if count_open_turns(db, schedule.room_id) > max_queued:
                insert_outbox(db, full, now=now)
                return None
            insert_turn(db, turn, refused_for=None, now=now)
            row = select_turns(db, "WHERE turn_id = ?", turn.turn_id)[0]
            insert_outbox(db, rows(row), now=now)
            return row

        return await self.database.run(work)

    async def skip(
        self,
        schedule: ScheduleRow,
        *,
        following: float | None,
        rows: Sequence[NewOutboxRow],
        pauses: bool = False,
        now: float,
    ) -> None:
        """Say why it does not run, and put it off; with no time to follow it is removed.

        `pauses`: it is the same the next times; nothing more is said until it has run again.
        """

        def work(db: sqlite3.Connection) -> None:
            is_known = pauses and schedule.is_paused
            if _move_on(db, schedule, following, pauses=pauses) and not is_known:
                insert_outbox(db, rows, now=now)

        await self.database.run(work)


def read_schedules(db: sqlite3.Connection, room_id: RoomId) -> list[ScheduleRow]:
    """A room's, in the caller's transaction."""
    query = f"SELECT {_COLUMNS} FROM schedules WHERE room_id = ? ORDER BY schedule_id"  # noqa: S608 - constants
    return [_row(values) for values in db.execute(query, (room_id,))]


def add_schedule(
    db: sqlite3.Connection, room_id: RoomId, wish: Wish, *, session: str, by: UserId, now: float
) -> bool:
    """As a part of a command's effect; False where the room has as many as it may."""
    count = "SELECT count(*) FROM schedules WHERE room_id = ?"
    if db.execute(count, (room_id,)).fetchone()[0] >= MAX_PER_ROOM:
        return False
    db.execute(
        "INSERT INTO schedules (room_id, text, due_at, cron, made_by, made_at, session) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (room_id, wish.text, wish.due_at, wish.cron, by, now, session),
    )
    return True


def remove_schedule(db: sqlite3.Connection, schedule_id: int) -> None:
    """As a part of a command's effect. Idempotent."""
    db.execute("DELETE FROM schedules WHERE schedule_id = ?", (schedule_id,))


def _move_on(
    db: sqlite3.Connection,
    schedule: ScheduleRow,
    following: float | None,
    *,
    pauses: bool = False,
) -> bool:
    is_same = "WHERE schedule_id = ? AND due_at = ? AND room_id = ?"
    key = (schedule.schedule_id, schedule.due_at, schedule.room_id)
    if following is None:
        cursor = db.execute(f"DELETE FROM schedules {is_same}", key)  # noqa: S608 - constants
    else:
        cursor = db.execute(
            f"UPDATE schedules SET due_at = ?, is_paused = ? {is_same}",  # noqa: S608 - constants
            (following, pauses, *key),
        )
    return cursor.rowcount == 1


def _row(values: tuple[object, ...]) -> ScheduleRow:
    schedule_id, room_id, text, due_at, cron, made_by, session, is_paused = values
    return ScheduleRow(
        schedule_id=int(str(schedule_id)),
        room_id=RoomId(str(room_id)),
        text=str(text),
        due_at=float(str(due_at)),
        cron=None if cron is None else str(cron),
        made_by=UserId(str(made_by)),
        session=str(session),
        is_paused=bool(is_paused),
    )
