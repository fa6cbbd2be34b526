"""The tables `turns`, `sessions` and `runners`, and the transactions that move a turn.

Every move goes through the table of `core.lifecycle`, in the transaction that stores what the move
makes visible: outbox rows, the acknowledged frame, the session.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.core.going_on import GoOn
from orchestrator.core.lifecycle import TurnEvent, next_turn_state
from orchestrator.core.naming import continuation_id
from orchestrator.errors import StoreError
from orchestrator.model import (
    Epoch,
    EventId,
    RoomId,
    Seq,
    SessionId,
    TurnId,
    TurnOutcome,
    TurnState,
    UserId,
)
from orchestrator.store.api import NewOutboxRow, RunnerRow, SessionRow, TurnRow
from orchestrator.store.database import Database
from orchestrator.store.outbox_table import insert_outbox

OPEN_ORDER = "ORDER BY state = 'queued', position"
"""What is worked on, then what is next."""
_COLUMNS = (
    "turn_id, room_id, session, state, prompt, sender, asked, epoch, parts, created_at, "
    "started_at, ended_at, outcome, reason, continues, resumes, not_before, cancelled_by"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A batch of messages that becomes a turn. `inbox` are the rows that it uses up."""

    turn_id: TurnId
    room_id: RoomId
    session: str
    prompt: str
    sender: UserId
    asked: tuple[EventId, ...]
    inbox: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """Frames up to `seq` of this epoch need not be replayed once the transaction is on disk."""

    room_id: RoomId
    epoch: Epoch
    seq: Seq


class TurnTable:
    """Turns, the sessions they run in, and how far each runner's output has been taken in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def admit(
        self,
        turn: NewTurn,
        *,
        max_queued: int,
        notices: Callable[[TurnRow, int], Sequence[NewOutboxRow]],
        now: float,
    ) -> TurnRow:
        """Store the turn and mark its inbox rows used, in one transaction. Idempotent by turn id.

        With `max_queued` turns waiting already it is stored as ended, REFUSED. `notices` gets the
        stored row and how many turns are before it, and gives what the room is told about that.
        """

        def work(db: sqlite3.Connection) -> TurnRow:
            known = select_turns(db, "WHERE turn_id = ?", turn.turn_id)
            if known:
                return known[0]
            ahead = count_open_turns(db, turn.room_id)
            refused = ahead > max_queued
            _insert_turn(db, turn, refused=refused, now=now)
            row = select_turns(db, "WHERE turn_id = ?", turn.turn_id)[0]
            insert_outbox(db, notices(row, ahead), now=now)
            return row

        return await self._database.run(work)

    async def advance(
        self,
        turn_id: TurnId,
        event: TurnEvent | None,
        *,
        rows: Sequence[NewOutboxRow] = (),
        acked: Acked | None = None,
        epoch: Epoch | None = None,
        outcome: TurnOutcome | None = None,
        reason: str | None = None,
        seen_by: SessionId | None = None,
        go_on: GoOn | None = None,
        now: float,
    ) -> TurnRow:
        """Move a turn, and store what comes with the move; `event` None only stores.

        `seen_by` is the session that has the turn's message: it can be resumed from now on, if it
        still is the conversation's session. `go_on` goes with an end: the turn that takes the
        message up again is queued in the same transaction, in the ended one's place.

        Raises:
            IllegalTransitionError: the turn is not in a state for `event`; nothing is stored.
            StoreError: an outcome without the end, or the end without one; nothing is stored.
        """

        def work(db: sqlite3.Connection) -> TurnRow:
            turn = select_turns(db, "WHERE turn_id = ?", turn_id)[0]
            if event is not None:
                _move(db, turn, event, epoch=epoch, outcome=outcome, reason=reason, now=now)
            if go_on is not None:
                _insert_continuation(db, turn_id, go_on, now=now)
            if rows:
                insert_outbox(db, rows, now=now)
                db.execute(
                    "UPDATE turns SET parts = parts + ? WHERE turn_id = ?", (len(rows), turn_id)
                )
            if acked is not None:
                _store_acked(db, acked)
            if seen_by is not None:
                db.execute(
                    "UPDATE sessions SET resumable = 1 WHERE room_id = ? AND session_id = ?",
                    (turn.room_id, seen_by),
                )
            return select_turns(db, "WHERE turn_id = ?", turn_id)[0]

        return await self._database.run(work)

    async def open_turns(self, room_id: RoomId | None = None) -> Sequence[TurnRow]:
        """Turns that have not ended, of one room or of all, in the order of their first message.

        One that has begun goes first: a message that arrived before it may have been decrypted
        after it.
        """

        def work(db: sqlite3.Connection) -> list[TurnRow]:
            if room_id is None:
                return select_turns(db, f"WHERE state <> 'ended' {OPEN_ORDER}")
            return select_turns(db, f"WHERE state <> 'ended' AND room_id = ? {OPEN_ORDER}", room_id)

        return await self._database.run(work)

    async def get(self, turn_id: TurnId) -> TurnRow | None:
        """One turn, or None."""
        rows = await self._database.run(lambda db: select_turns(db, "WHERE turn_id = ?", turn_id))
        return rows[0] if rows else None

    async def session(self, room_id: RoomId, session: str) -> SessionRow | None:
        """The CLI's session behind a conversation of a room, or None before its first turn."""

        def work(db: sqlite3.Connection) -> SessionRow | None:
            row = db.execute(
                "SELECT session_id, resumable, command FROM sessions "
                "WHERE room_id = ? AND session = ?",
                (room_id, session),
            ).fetchone()
            return row and SessionRow(
                room_id=room_id,
                session=session,
                session_id=SessionId(row[0]),
                resumable=bool(row[1]),
                command=row[2],
            )

        return await self._database.run(work)

    async def store_session(self, session: SessionRow) -> None:
        """Replace the session of a conversation."""
        await self._database.run(lambda db: _store_session(db, session))

    async def runner(self, room_id: RoomId) -> RunnerRow:
        """What is remembered of the room's runner; generation 0 before the first."""

        def work(db: sqlite3.Connection) -> RunnerRow:
            row = db.execute(
                "SELECT generation, epoch, acked FROM runners WHERE room_id = ?", (room_id,)
            ).fetchone()
            generation, epoch, acked = row or (0, None, 0)
            return RunnerRow(
                room_id=room_id,
                generation=generation,
                epoch=Epoch(epoch) if epoch is not None else None,
                acked=Seq(acked),
            )

        return await self._database.run(work)

    async def new_generation(self, room_id: RoomId) -> int:
        """Count a new container of the room, before it is made; returns its generation."""

        def work(db: sqlite3.Connection) -> int:
            db.execute(
                "INSERT INTO runners VALUES (?, 1, NULL, 0) ON CONFLICT (room_id) "
                "DO UPDATE SET generation = generation + 1, epoch = NULL, acked = 0",
                (room_id,),
            )
            generation: int = db.execute(
                "SELECT generation FROM runners WHERE room_id = ?", (room_id,)
            ).fetchone()[0]
            return generation

        return await self._database.run(work)

    async def store_acked(self, acked: Acked) -> None:
        """Remember how far a runner's output needs no replay, outside any turn."""
        await self._database.run(lambda db: _store_acked(db, acked))


def select_turns(db: sqlite3.Connection, where: str, *values: str | int) -> list[TurnRow]:
    """The turns that the condition finds, in the caller's transaction."""
    cursor = db.execute(f"SELECT {_COLUMNS} FROM turns {where}", values)  # noqa: S608 - constants
    return [_row(values) for values in cursor.fetchall()]


def _row(values: tuple[object, ...]) -> TurnRow:
    (turn_id, room_id, session, state, prompt, sender, asked, epoch) = map(_text, values[:8])
    parts, created_at, started_at, ended_at, outcome, reason = values[8:14]
    continues, resumes, not_before, cancelled_by = values[14:]
    return TurnRow(
        turn_id=TurnId(turn_id),
        room_id=RoomId(room_id),
        session=session,
        state=TurnState(state),
        prompt=prompt,
        sender=UserId(sender),
        asked=tuple(EventId(e) for e in json.loads(asked)),
        epoch=Epoch(epoch) if epoch else None,
        parts=int(_text(parts)),
        created_at=float(_text(created_at)),
        started_at=None if started_at is None else float(_text(started_at)),
        ended_at=None if ended_at is None else float(_text(ended_at)),
        outcome=None if outcome is None else TurnOutcome(_text(outcome)),
        reason=None if reason is None else _text(reason),
        continues=None if continues is None else TurnId(_text(continues)),
        resumes=int(_text(resumes)),
        not_before=float(_text(not_before)),
        cancelled_by=None if cancelled_by is None else EventId(_text(cancelled_by)),
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def count_open_turns(db: sqlite3.Connection, room_id: RoomId) -> int:
    """Turns of the room that have not ended, in the caller's transaction."""
    count: int = db.execute(
        "SELECT count(*) FROM turns WHERE state <> 'ended' AND room_id = ?", (room_id,)
    ).fetchone()[0]
    return count


def _insert_continuation(db: sqlite3.Connection, ended: TurnId, go_on: GoOn, *, now: float) -> None:
    """The same message again, in the same place of the queue; a cancel of it still counts."""
    db.execute(
        "INSERT INTO turns (turn_id, room_id, session, position, state, prompt, sender, asked, "
        "created_at, continues, resumes, not_before, cancelled_by) "
        "SELECT ?, room_id, session, position, ?, prompt, sender, asked, ?, turn_id, ?, ?, "
        "cancelled_by FROM turns WHERE turn_id = ?",
        (continuation_id(ended), TurnState.QUEUED, now, go_on.resumes, go_on.not_before, ended),
    )


def _insert_turn(db: sqlite3.Connection, turn: NewTurn, *, refused: bool, now: float) -> None:
    db.execute(
        "INSERT INTO turns (turn_id, room_id, session, position, state, prompt, sender, asked, "
        "created_at, ended_at, outcome, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            turn.turn_id,
            turn.room_id,
            turn.session,
            min(turn.inbox),
            TurnState.ENDED if refused else TurnState.QUEUED,
            turn.prompt,
            turn.sender,
            json.dumps(turn.asked),
            now,
            now if refused else None,
            TurnOutcome.REFUSED if refused else None,
            "the queue is full" if refused else None,
        ),
    )
    db.executemany(
        "UPDATE inbox SET state = 'used', turn_id = ?, raw = '' WHERE seq = ?",
        [(turn.turn_id, seq) for seq in turn.inbox],
    )


def _move(
    db: sqlite3.Connection,
    turn: TurnRow,
    event: TurnEvent,
    *,
    epoch: Epoch | None,
    outcome: TurnOutcome | None,
    reason: str | None,
    now: float,
) -> None:
    state = next_turn_state(turn.state, event)
    if (state is TurnState.ENDED) != (outcome is not None):
        msg = f"turn {turn.turn_id}: an outcome goes with the end, and only with it"
        raise StoreError(msg)
    db.execute(
        "UPDATE turns SET state = ?, epoch = coalesce(?, epoch), outcome = ?, reason = ?, "
        "started_at = CASE WHEN ? THEN coalesce(started_at, ?) ELSE started_at END, "
        "ended_at = ? WHERE turn_id = ?",
        (
            state,
            epoch,
            outcome,
            reason,
            event is TurnEvent.OFFERED,
            now,
            now if state is TurnState.ENDED else None,
            turn.turn_id,
        ),
    )


def _store_acked(db: sqlite3.Connection, acked: Acked) -> None:
    db.execute(
        "UPDATE runners SET acked = CASE WHEN epoch = ? THEN max(acked, ?) ELSE ? END, epoch = ? "
        "WHERE room_id = ?",
        (acked.epoch, acked.seq, acked.seq, acked.epoch, acked.room_id),
    )


def _store_session(db: sqlite3.Connection, session: SessionRow) -> None:
    db.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (room_id, session) "
        "DO UPDATE SET session_id = excluded.session_id, resumable = excluded.resumable, "
        "command = excluded.command",
        (
            session.room_id,
            session.session,
            session.session_id,
            session.resumable,
            session.command,
        ),
    )
