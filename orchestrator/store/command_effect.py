"""What a room's commands do to its turns, inside the transaction that stores the command's answer.

Rule: a command takes effect exactly when its inbox row is marked used. A crash before that repeats
all of it; after it, nothing of it.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.core.naming import turn_id
from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, TurnState
from orchestrator.store.api import TurnRow
from orchestrator.store.turn_table import OPEN_ORDER, count_open_turns, select_turns

_RETRYABLE = (
    TurnOutcome.INTERRUPTED,
    TurnOutcome.FAILED,
    TurnOutcome.TIMED_OUT,
    TurnOutcome.OUT_OF_MEMORY,
    TurnOutcome.CANCELLED,
)

ROOMS_OF_CONVERSATION = (
    "WITH RECURSIVE place (room_id) AS (SELECT ? UNION SELECT old.room_id FROM rooms AS old "
    "JOIN place ON old.replaced_by = place.room_id WHERE old.moved_seq IS NOT NULL) "
    "SELECT room_id FROM place"
)
"""The room, and those whose conversation goes on in it: what ended there stays there."""


class RetryVerdict(StrEnum):
    """What came of a `!retry`."""

    QUEUED = "queued"
    NOTHING = "nothing"
    """No turn of the room ended without an answer."""
    RUNS = "runs"
    """The message was taken up again before, and that turn has not ended."""
    DONE = "done"
    """The message was taken up again before, and answered."""
    TOO_OLD = "too_old"
    """The turn is known and its text isn't any more."""
    QUEUE_FULL = "queue_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`turn` is the new one where it was QUEUED, with `ahead` others before it."""

    verdict: RetryVerdict
    turn: TurnRow | None = None
    ahead: int = 0


def cancel_first(
    db: sqlite3.Connection, room_id: RoomId, *, before: int, command: EventId
) -> TurnRow | None:
    """Mark the turn that runs, or would run next, as cancelled; None when there is none.

    Only turns whose first message arrived `before` the command's inbox row: what came after it is
    not meant. The mark outlives a crash and goes over to the turn that continues this one. A turn
    that is being cancelled already stays the first until it has ended.
    """
    where = f"WHERE state <> 'ended' AND room_id = ? AND position < ? {OPEN_ORDER} LIMIT 1"
    found = select_turns(db, where, room_id, before)
    if not found:
        return None
    db.execute(
        "UPDATE turns SET cancelled_by = coalesce(cancelled_by, ?) WHERE turn_id = ?",
        (command, found[0].turn_id),
    )
    return select_turns(db, "WHERE turn_id = ?", found[0].turn_id)[0]


def waiting_turns(db: sqlite3.Connection, room_id: RoomId) -> list[TurnRow]:
    """The room's turns that have not begun, in their order."""
    return select_turns(db, f"WHERE state = 'queued' AND room_id = ? {OPEN_ORDER}", room_id)


def withdraw_turn(db: sqlite3.Connection, turn_id: TurnId, *, command: EventId) -> None:
    """Mark one turn as cancelled, wherever it is; the first who did so is named."""
    db.execute(
        "UPDATE turns SET cancelled_by = coalesce(cancelled_by, ?) "
        "WHERE turn_id = ? AND state <> 'ended'",
        (command, turn_id),
    )


def drop_session(db: sqlite3.Connection, room_id: RoomId, session: str) -> None:
    """Forget a conversation's session: the next turn starts a new one."""
    db.execute("DELETE FROM sessions WHERE room_id = ? AND session = ?", (room_id, session))


def retry_last(
    db: sqlite3.Connection,
    room_id: RoomId,
    *,
    position: int,
    command: EventId,
    max_queued: int,
    now: float,
) -> Retry:
    """Queue the message of the turn that was the last to end without an answer once more.

    The new turn's id comes from the command's event. It is asked by those who asked the first time
    and by the command, so that both find its answer.
    """
    last, ahead = _last_unanswered(db, room_id), count_open_turns(db, room_id)
    if last is None:
        return Retry(verdict=RetryVerdict.NOTHING)
    verdict = _why_not(db, last) or (RetryVerdict.QUEUE_FULL if ahead > max_queued else None)
    if verdict is not None:
        return Retry(verdict=verdict)
    new = turn_id(room_id, command)
    again = replace(last, room_id=room_id)  # it may have ended before an upgrade
    _insert_retry(db, again, new, position=position, command=command, now=now)
    turn = select_turns(db, "WHERE turn_id = ?", new)[0]
    return Retry(verdict=RetryVerdict.QUEUED, turn=turn, ahead=ahead)


def _last_unanswered(db: sqlite3.Connection, room_id: RoomId) -> TurnRow | None:
    """The last one; before it, one that nobody took up again, where the last one was answered."""
    outcomes = ", ".join(f"'{outcome}'" for outcome in _RETRYABLE)
    order = "ORDER BY ended_at DESC, rowid DESC LIMIT 1"
    where = f"WHERE room_id IN ({ROOMS_OF_CONVERSATION}) AND outcome IN ({outcomes})"
    last = select_turns(db, f"{where} {order}", room_id)
    if not last or _why_not(db, last[0]) is not RetryVerdict.DONE:
        return last[0] if last else None
    free = "AND NOT EXISTS (SELECT 1 FROM turns AS next WHERE next.continues = turns.turn_id)"
    return (select_turns(db, f"{where} {free} {order}", room_id) or last)[0]


def _why_not(db: sqlite3.Connection, last: TurnRow) -> RetryVerdict | None:
    others = select_turns(db, "WHERE continues = ?", last.turn_id)
    if any(other.state is not TurnState.ENDED for other in others):
        return RetryVerdict.RUNS
    if any(other.outcome is TurnOutcome.DONE for other in others):
        return RetryVerdict.DONE
    return None if last.prompt else RetryVerdict.TOO_OLD


def _insert_retry(
    db: sqlite3.Connection,
    last: TurnRow,
    new: TurnId,
    *,
    position: int,
    command: EventId,
    now: float,
) -> None:
    db.execute(
        "INSERT INTO turns (turn_id, room_id, session, position, state, prompt, sender, asked, "
        "created_at, continues) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new,
            last.room_id,
            last.session,
            position,
            TurnState.QUEUED,
            last.prompt,
            last.sender,
            json.dumps((*last.asked, command)),
            now,
            last.turn_id,
        ),
    )
    db.execute(
        "UPDATE turns SET (pieces, files) = (SELECT pieces, files FROM turns WHERE turn_id = ?) "
        "WHERE turn_id = ?",
        (last.turn_id, new),
    )
    # As for a message: its end is the turn's.
    db.execute("UPDATE inbox SET turn_id = ? WHERE seq = ?", (new, position))
