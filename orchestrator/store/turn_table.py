"""The tables `turns` and `runners`, and the transactions that move a turn.

Every move goes through the table of `core.lifecycle`, in the transaction that stores what the move
makes visible: outbox rows, the acknowledged frame, the session.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator import meters
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
from orchestrator.store.acked import Acked as Acked
from orchestrator.store.acked import store_acked
from orchestrator.store.api import NewOutboxRow, RunnerRow, TurnRow
from orchestrator.store.approval_table import withdraw_of_turn
from orchestrator.store.database import Database
from orchestrator.store.new_turn import NewTurn as NewTurn
from orchestrator.store.new_turn import insert_turn as insert_turn
from orchestrator.store.new_turn import use_inbox
from orchestrator.store.outbox_table import insert_outbox
from orchestrator.store.session_table import note_seen
from orchestrator.store.steer_table import requeue_steers, take_over_steers

# What is worked on, then what is next.
OPEN_ORDER = "ORDER BY state = 'queued', position"
_COLUMNS = (
    "turn_id, room_id, session, state, prompt, sender, asked, epoch, parts, created_at, "
    "started_at, ended_at, outcome, reason, continues, resumes, not_before, cancelled_by, "
    "length(draft), session_id, taken"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a turn is not taken, and what the room is told of it now."""

    reason: str
    notices: Callable[[TurnRow], Sequence[NewOutboxRow]] | None
    """None: nothing is said; the turn is collected with others of the same reason in its room."""
    max_asked_chars: int = 20_000
    """A collecting turn takes no more once the events that it names (as JSON) are longer."""


class TurnTable:
    """Turns, and how far each runner's output has been taken in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ended: Counter[TurnOutcome] = Counter()
        """Turns that ended since this was made, by outcome; a cancelled caller's may be missing."""
        self.on_ended: Callable[[TurnRow], None] = lambda _: None
        """Called after the end of a turn that was taken, where no other takes its message up."""

    async def admit(
        self,
        turn: NewTurn,
        *,
        max_queued: int,
        refusal: Refusal | None = None,
        notices: Callable[[TurnRow, int], Sequence[NewOutboxRow]],
        now: float,
    ) -> TurnRow:
        """Store the turn and mark its inbox rows used, in one transaction. Idempotent.

        `notices` gets the stored row and how many turns are before it, and gives what the room is
        told about that. With `max_queued` turns waiting already it is refused, as `refuse` says;
        without a `refusal` it is `notices` that tells the room of it.
        """

        def work(db: sqlite3.Connection) -> tuple[TurnRow, bool]:
            known = _find(db, turn)
            if known is not None:
                return known, False
            ahead = count_open_turns(db, turn.room_id)
            if ahead > max_queued:
                default = Refusal(
                    reason="the queue is full", notices=lambda row: notices(row, ahead)
                )
                return _refuse(db, turn, refusal or default, now=now)
            insert_turn(db, turn, refused_for=None, now=now)
            row = select_turns(db, "WHERE turn_id = ?", turn.turn_id)[0]
            insert_outbox(db, notices(row, ahead), now=now)
            return row, False

        return self._counted(await self._database.run(work))

    async def refuse(
        self,
        turn: NewTurn,
        refusal: Refusal,
        *,
        effect: Callable[[sqlite3.Connection], None] | None = None,
        now: float,
    ) -> TurnRow:
        """Store the turn as ended, REFUSED, and mark its inbox rows used. Idempotent.

        What is refused without a notice is collected: one turn takes all of them, so that one mark
        can say of all that they have ended. It is that turn's row that is returned. `effect` takes
        place in the same transaction, so once, too.
        """

        def work(db: sqlite3.Connection) -> tuple[TurnRow, bool]:
            known = _find(db, turn)
            if known is not None:
                return known, False
            if effect is not None:
                effect(db)
            return _refuse(db, turn, refusal, now=now)

        return self._counted(await self._database.run(work))

    def _counted(self, stored: tuple[TurnRow, bool]) -> TurnRow:
        row, is_new_end = stored
        if is_new_end and row.outcome is not None:
            self.ended[row.outcome] += 1
        return row

    async def unmarked(self, *, until: float) -> Sequence[TurnRow]:
        """Collected refusals that no mark names yet, of before `until`: one a room, the oldest.

        Only of rooms for which nothing waits to be sent, so that marks never outgrow what the
        account may send.
        """

        def work(db: sqlite3.Connection) -> list[TurnRow]:
            oldest = (
                "SELECT min(rowid) FROM turns WHERE outcome = 'refused' AND parts = 0 "
                "AND created_at <= ? GROUP BY room_id"
            )
            idle = (
                "NOT EXISTS (SELECT 1 FROM outbox "
                "WHERE outbox.state = 'queued' AND outbox.room_id = turns.room_id)"
            )
            return select_turns(db, f"WHERE rowid IN ({oldest}) AND {idle}", until)

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
        keep: str = "",
        drop_draft: bool = False,
        go_on: GoOn | None = None,
        now: float,
    ) -> TurnRow:
        """Move a turn, and store what comes with the move; `event` None only stores.

        `keep` is text that no row is made of yet: it is added to the turn's draft, as a paragraph.
        `drop_draft`: `rows` have what was kept.
        `seen_by` is the session that has the turn's message: it can be resumed from now on, if it
        still is the conversation's session. `go_on` goes with an end: the turn that takes the
        message up again is queued in the same transaction, in the ended one's place.

        Raises:
            IllegalTransitionError: the turn is not in a state for `event`; nothing is stored.
            StoreError: an outcome without the end, or the end without one; nothing is stored.
        """

        def work(db: sqlite3.Connection) -> tuple[TurnRow, bool]:
            turn = select_turns(db, "WHERE turn_id = ?", turn_id)[0]
            if event is not None:
                _move(db, turn, event, epoch=epoch, outcome=outcome, reason=reason, now=now)
            if go_on is not None:
                _insert_continuation(db, turn_id, go_on, now=now)
            _change_draft(db, turn_id, keep, is_dropped=drop_draft)
            if rows:
                insert_outbox(db, rows, now=now)
                db.execute(
                    "UPDATE turns SET parts = parts + ? WHERE turn_id = ?", (len(rows), turn_id)
                )
            if acked is not None:
                store_acked(db, acked)
            if seen_by is not None:
                note_seen(db, turn, seen_by, now=now)
            return select_turns(db, "WHERE turn_id = ?", turn_id)[0], event is TurnEvent.ENDED

        row = self._counted(await self._database.run(work))
        if event is TurnEvent.ENDED:
            _measure(row)
        if event is TurnEvent.ENDED and go_on is None:
            self.on_ended(row)
        return row

    async def offer(
        self, turn_id: TurnId, *, session_id: SessionId, epoch: Epoch, taken: Seq, now: float
    ) -> TurnRow:
        """Store that a turn may leave this process, for this session; again where it changes.

        Frames up to `taken` are of no use to it.
        """

        def work(db: sqlite3.Connection) -> TurnRow:
            turn = select_turns(db, "WHERE turn_id = ?", turn_id)[0]
            if turn.state is TurnState.QUEUED:
                event = TurnEvent.OFFERED
                _move(db, turn, event, epoch=epoch, outcome=None, reason=None, now=now)
                db.execute("UPDATE turns SET taken = ? WHERE turn_id = ?", (taken, turn_id))
            db.execute("UPDATE turns SET session_id = ? WHERE turn_id = ?", (session_id, turn_id))
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

    async def latest(self, *, limit: int) -> Sequence[TurnRow]:
        """The ended ones among those that began last, in all rooms; who began last goes first."""

        def work(db: sqlite3.Connection) -> list[TurnRow]:
            began = f"WHERE started_at IS NOT NULL ORDER BY started_at DESC LIMIT {limit:d}"
            return [turn for turn in select_turns(db, began) if turn.state is TurnState.ENDED]

        return await self._database.run(work)

    async def get(self, turn_id: TurnId) -> TurnRow | None:
        """One turn, or None."""
        rows = await self._database.run(lambda db: select_turns(db, "WHERE turn_id = ?", turn_id))
        return rows[0] if rows else None

    async def draft(self, turn_id: TurnId) -> str:
        """The text that is kept with a turn; empty where there is none."""

        def work(db: sqlite3.Connection) -> str:
            row = db.execute("SELECT draft FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
            return row[0] if row else ""

        return await self._database.run(work)

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
        await self._database.run(lambda db: store_acked(db, acked))


def note_generation(db: sqlite3.Connection, room_id: RoomId, generation: int) -> None:
    """A new room's runner was made before; nothing of what it says was taken in."""
    db.execute("INSERT OR REPLACE INTO runners VALUES (?, ?, NULL, 0)", (room_id, generation))


def _measure(ended: TurnRow) -> None:
    if ended.started_at is None or ended.ended_at is None:
        return
    begin = max(ended.created_at, ended.not_before)
    meters.QUEUED.observe(max(0.0, ended.started_at - begin))
    meters.TURN.observe(max(0.0, ended.ended_at - ended.started_at))


def _change_draft(db: sqlite3.Connection, turn_id: TurnId, keep: str, *, is_dropped: bool) -> None:
    if is_dropped:
        db.execute("UPDATE turns SET draft = '' WHERE turn_id = ?", (turn_id,))
    if keep:
        db.execute(
            "UPDATE turns SET draft = CASE draft WHEN '' THEN ?1 "
            "ELSE draft || char(10, 10) || ?1 END WHERE turn_id = ?2",
            (keep, turn_id),
        )


def _find(db: sqlite3.Connection, turn: NewTurn) -> TurnRow | None:
    """The turn that these messages are part of already, under this id or collected by another."""
    return next(
        iter(
            select_turns(db, "WHERE turn_id = ?", turn.turn_id)
            or select_turns(
                db,
                "WHERE turn_id = (SELECT turn_id FROM inbox WHERE seq = ?)",
                min(turn.inbox),
            )
        ),
        None,
    )


def _refuse(
    db: sqlite3.Connection, turn: NewTurn, refusal: Refusal, *, now: float
) -> tuple[TurnRow, bool]:
    """The row that stands for the refusal, and whether it is a new one."""
    if refusal.notices is not None:
        insert_turn(db, turn, refused_for=refusal.reason, now=now)
        row = select_turns(db, "WHERE turn_id = ?", turn.turn_id)[0]
        rows = refusal.notices(row)
        insert_outbox(db, rows, now=now)
        db.execute("UPDATE turns SET parts = ? WHERE turn_id = ?", (len(rows), turn.turn_id))
        return row, True
    collecting = db.execute(
        "SELECT turn_id, asked FROM turns WHERE outcome = 'refused' AND parts = 0 "
        "AND room_id = ? AND reason = ? AND length(asked) <= ? ORDER BY rowid DESC LIMIT 1",
        (turn.room_id, refusal.reason, refusal.max_asked_chars),
    ).fetchone()
    turn_id = collecting[0] if collecting else turn.turn_id
    if collecting:
        asked = [*json.loads(collecting[1]), *turn.asked]
        db.execute("UPDATE turns SET asked = ? WHERE turn_id = ?", (json.dumps(asked), turn_id))
        use_inbox(db, turn, turn_id, reason=refusal.reason)
    else:
        insert_turn(db, replace(turn, prompt=""), refused_for=refusal.reason, now=now)
    return select_turns(db, "WHERE turn_id = ?", turn_id)[0], collecting is None


def select_turns(db: sqlite3.Connection, where: str, *values: str | float) -> list[TurnRow]:
    """The turns that the condition finds, in the caller's transaction."""
    cursor = db.execute(f"SELECT {_COLUMNS} FROM turns {where}", values)  # noqa: S608 - constants
    return [_row(values) for values in cursor.fetchall()]


def _row(values: tuple[object, ...]) -> TurnRow:
    (turn_id, room_id, session, state, prompt, sender, asked, epoch) = map(_text, values[:8])
    parts, created_at, started_at, ended_at, outcome, reason = values[8:14]
    continues, resumes, not_before, cancelled_by, draft_chars, session_id, taken = values[14:]
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
        draft_chars=int(_text(draft_chars)),
        session_id=None if session_id is None else SessionId(_text(session_id)),
        taken=int(_text(taken)),
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def count_open_turns(db: sqlite3.Connection, room_id: RoomId) -> int:
    """Turns of the room that have not ended, in the caller's transaction."""
    query = "SELECT count(*) FROM turns WHERE state <> 'ended' AND room_id = ?"
    return int(db.execute(query, (room_id,)).fetchone()[0])


def _insert_continuation(db: sqlite3.Connection, ended: TurnId, go_on: GoOn, *, now: float) -> None:
    """The same message again, in the same place of the queue; a cancel of it still counts."""
    db.execute(
        "INSERT INTO turns (turn_id, room_id, session, position, state, prompt, sender, asked, "
        "created_at, continues, resumes, not_before, cancelled_by, pieces, files) "
        "SELECT ?, room_id, session, position, ?, prompt, sender, asked, ?, turn_id, ?, ?, "
        "cancelled_by, pieces, files FROM turns WHERE turn_id = ?",
        (continuation_id(ended), TurnState.QUEUED, now, go_on.resumes, go_on.not_before, ended),
    )
    take_over_steers(db, ended, continuation_id(ended))


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
    if state is TurnState.ENDED:
        withdraw_of_turn(db, turn.turn_id, now=now)
        requeue_steers(db, turn.turn_id, now=now)
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
