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
from orchestrator.core.piece import decode_pieces, encode_pieces
from orchestrator.core.thread import MAIN, left_behind, thread_of
from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, TurnState, UserId
from orchestrator.store.api import TurnRow
from orchestrator.store.steer_table import find_gone_in, find_steered, take_over_steers
from orchestrator.store.taken_back import find_taken_back
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
    TAKEN_BACK = "taken_back"
    """Everything that it was asked was taken back."""
    QUEUE_FULL = "queue_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`turn` is the new one where it was QUEUED, with `ahead` others before it."""

    verdict: RetryVerdict
    turn: TurnRow | None = None
    ahead: int = 0


def cancel_first(
    db: sqlite3.Connection,
    room_id: RoomId,
    *,
    before: int,
    command: EventId,
    conversation: str = MAIN,
) -> TurnRow | None:
    """Mark the turn that runs, or would run next, as cancelled; None when there is none.

    From a thread it is the thread's own; from the main timeline whichever the room is at.

    Only turns whose first message arrived `before` the command's inbox row: what came after it is
    not meant. The mark outlives a crash and goes over to the turn that continues this one. A turn
    that is being cancelled already stays the first until it has ended.
    """
    own = "" if thread_of(conversation) is None else "AND session = ?"
    where = f"WHERE state <> 'ended' AND room_id = ? AND position < ? {own} {OPEN_ORDER} LIMIT 1"
    found = select_turns(db, where, room_id, before, *([conversation] if own else []))
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


def number_turns(db: sqlite3.Connection, room_id: RoomId) -> dict[TurnId, int]:
    """The number of each open turn: how many the conversation has had up to it.

    No turn's row is deleted, and a room's upgrade takes all of them along: a number does not change
    and does not return.
    """
    own = f"FROM turns WHERE room_id IN ({ROOMS_OF_CONVERSATION})"
    (first,) = db.execute(
        "SELECT min(rowid) FROM turns WHERE room_id = ? AND state <> 'ended'", (room_id,)
    ).fetchone()
    if first is None:
        return {}
    (before,) = db.execute(f"SELECT count(*) {own} AND rowid < ?", (room_id, first)).fetchone()
    since = db.execute(f"SELECT turn_id {own} AND rowid >= ? ORDER BY rowid", (room_id, first))
    return {TurnId(turn): number for number, (turn,) in enumerate(since, before + 1)}


def withdraw_turn(db: sqlite3.Connection, turn_id: TurnId, *, command: EventId) -> None:
    """Mark one turn as cancelled, wherever it is; the first who did so is named."""
    db.execute(
        "UPDATE turns SET cancelled_by = coalesce(cancelled_by, ?) "
        "WHERE turn_id = ? AND state <> 'ended'",
        (command, turn_id),
    )


def retry_last(
    db: sqlite3.Connection,
    room_id: RoomId,
    conversation: str,
    *,
    position: int,
    command: EventId,
    by: UserId,
    max_queued: int,
    now: float,
) -> Retry:
    """Queue the message of the turn that was the last to end without an answer once more.

    The new turn's id comes from the command's event. It is asked by those who asked the first time
    and by the command, so that both find its answer; but it is the turn of whoever gave the
    command. What was taken back since is left out.
    """
    last, ahead = _last_unanswered(db, room_id, conversation), count_open_turns(db, room_id)
    if last is None:
        return Retry(verdict=RetryVerdict.NOTHING)
    verdict = _why_not(db, last) or (RetryVerdict.QUEUE_FULL if ahead > max_queued else None)
    if verdict is not None:
        return Retry(verdict=verdict)
    new = turn_id(room_id, command)
    # It may have ended before an upgrade, and its thread with it.
    session = last.session if last.room_id == room_id else left_behind(last.session)
    again = replace(last, room_id=room_id, session=session, sender=by)
    _insert_retry(db, again, new, position=position, command=command, now=now)
    turn = select_turns(db, "WHERE turn_id = ?", new)[0]
    return Retry(verdict=RetryVerdict.QUEUED, turn=turn, ahead=ahead)


def _last_unanswered(db: sqlite3.Connection, room_id: RoomId, conversation: str) -> TurnRow | None:
    """The last one; before it, one that nobody took up again, where the last one was answered.

    A turn whose `!retry` was taken back while it waited is as if it had never been.

    From a thread it is one of the thread's own; from the main timeline none of any thread.
    """
    outcomes = ", ".join(f"'{outcome}'" for outcome in _RETRYABLE)
    order = "ORDER BY ended_at DESC, rowid DESC LIMIT 1"
    # What was asked in a thread of an earlier room is of no thread here.
    is_main = "(session NOT LIKE '$%' OR room_id <> ?)"
    is_own = is_main if thread_of(conversation) is None else "session = ?"
    # Without words, and with a turn before it that has them still, or never will.
    is_own += " AND NOT (prompt = '' AND continues IS NOT NULL)"
    where = f"WHERE room_id IN ({ROOMS_OF_CONVERSATION}) AND outcome IN ({outcomes}) AND {is_own}"
    own = room_id if thread_of(conversation) is None else conversation
    last = select_turns(db, f"{where} {order}", room_id, own)
    if not last or _why_not(db, last[0]) is not RetryVerdict.DONE:
        return last[0] if last else None
    free = "AND NOT EXISTS (SELECT 1 FROM turns AS next WHERE next.continues = turns.turn_id)"
    return (select_turns(db, f"{where} {free} {order}", room_id, own) or last)[0]


def _why_not(db: sqlite3.Connection, last: TurnRow) -> RetryVerdict | None:
    others = select_turns(db, "WHERE continues = ?", last.turn_id)
    if any(other.state is not TurnState.ENDED for other in others):
        return RetryVerdict.RUNS
    if any(other.outcome is TurnOutcome.DONE for other in others):
        return RetryVerdict.DONE
    taken_back = find_taken_back(db, last.asked)
    if last.prompt and (_leave_out(db, last, taken_back)[0] or find_gone_in(db, last.turn_id)):
        return None
    is_gone = bool(last.prompt) or taken_back.issuperset(last.asked)
    return RetryVerdict.TAKEN_BACK if is_gone else RetryVerdict.TOO_OLD


def _leave_out(
    db: sqlite3.Connection, last: TurnRow, taken_back: frozenset[EventId]
) -> tuple[str, str]:
    """The turn's prompt and pieces without what was taken back."""
    (stored,) = db.execute("SELECT pieces FROM turns WHERE turn_id = ?", (last.turn_id,)).fetchone()
    pieces = decode_pieces(stored)
    if not pieces.messages:
        # Words that can't be told apart: a schedule's, or of a turn from before they were kept.
        is_whole = taken_back <= find_steered(db, last.turn_id)
        return (last.prompt if is_whole else "", stored)
    if not taken_back.intersection(m.event_id for m in pieces.messages):
        return last.prompt, stored
    left = pieces.without(*taken_back)
    return left.prompt, encode_pieces(left.messages, name_senders=left.name_senders)


def _insert_retry(
    db: sqlite3.Connection,
    last: TurnRow,
    new: TurnId,
    *,
    position: int,
    command: EventId,
    now: float,
) -> None:
    taken_back = find_taken_back(db, last.asked)
    prompt, pieces = _leave_out(db, last, taken_back)
    asked = [event_id for event_id in last.asked if event_id not in taken_back]
    db.execute(
        "INSERT INTO turns (turn_id, room_id, session, position, state, prompt, sender, asked, "
        "created_at, continues, pieces) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new,
            last.room_id,
            last.session,
            position,
            TurnState.QUEUED,
            prompt,
            last.sender,
            json.dumps((*asked, command)),
            now,
            last.turn_id,
            pieces,
        ),
    )
    db.execute(
        "UPDATE turns SET files = (SELECT files FROM turns WHERE turn_id = ?) WHERE turn_id = ?",
        (last.turn_id, new),
    )
    take_over_steers(db, last.turn_id, new)
    # As for a message: its end is the turn's.
    db.execute("UPDATE inbox SET turn_id = ? WHERE seq = ?", (new, position))
