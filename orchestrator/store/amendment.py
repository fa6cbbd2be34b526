"""A message that somebody changes or takes back after it became part of a turn.

Within the transaction that marks the row of the change: so it counts once, whatever ends when.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.core.naming import turn_id
from orchestrator.core.piece import Pieces, decode_pieces, encode_pieces
from orchestrator.model import EventId, RoomId, TurnId, TurnState, UserId
from orchestrator.store.api import InboxState, TurnRow
from orchestrator.store.approval_table import drop_vote
from orchestrator.store.command_effect import withdraw_turn
from orchestrator.store.steer_table import withdraw_steer
from orchestrator.store.taken_back import note_taken_back
from orchestrator.store.turn_table import select_turns


class Amended(StrEnum):
    """What came of it."""

    NOTHING = "nothing"
    """It is part of no turn, of one that has ended, or of one that has begun (an edit)."""
    CHANGED = "changed"
    WITHDRAWN = "withdrawn"
    """Nothing is left of the waiting turn; it ends without a word."""
    STOPPED = "stopped"
    """The turn runs, and is to be stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """With the turn that it is about, if any."""

    outcome: Amended
    turn_id: TurnId | None = None


def edit_message(
    db: sqlite3.Connection, event_id: EventId, text: str, *, room_id: RoomId, by: UserId
) -> Amendment:
    """Somebody put other words into a message of theirs: what waits is asked in these.

    `room_id`: where they did that. Of another room's message nothing follows from it.
    """
    turn = _turn_of(db, event_id, room_id)
    if turn is None or turn.state is not TurnState.QUEUED or turn.cancelled_by is not None:
        return Amendment(outcome=Amended.NOTHING)
    pieces = _pieces_of(db, turn).with_text(event_id, text, by=by)
    if pieces is None:
        return Amendment(outcome=Amended.NOTHING)
    _store(db, turn, pieces)
    return Amendment(outcome=Amended.CHANGED, turn_id=turn.turn_id)


def redact_message(
    db: sqlite3.Connection, event_id: EventId, *, room_id: RoomId, redaction: EventId
) -> Amendment:
    """A message was taken back: of what waits it is left out, what runs because of it stops.

    Nothing asks it again, whatever became of its turn. A `!retry` is taken back with the whole turn
    that it made; the messages that it asked again are as they were before it.

    `room_id`: where it was. Of another room's message nothing follows from it.
    """
    _forget_unread(db, event_id, room_id)
    drop_vote(db, room_id, event_id)
    turn = _turn_of(db, event_id, room_id)
    if turn is None:
        return Amendment(outcome=Amended.NOTHING)
    note_taken_back(db, event_id)
    if turn.state is TurnState.ENDED:
        return Amendment(outcome=Amended.NOTHING)
    if withdraw_steer(db, turn.turn_id, event_id):
        return Amendment(outcome=Amended.CHANGED, turn_id=turn.turn_id)
    retried = _retried_by(db, event_id, room_id)
    if retried is not None and not _goes_on_from(db, turn, retried):
        # Somebody had another go since: that one stands by their own command.
        return Amendment(outcome=Amended.NOTHING)
    if turn.state is not TurnState.QUEUED:
        withdraw_turn(db, turn.turn_id, command=redaction)
        return Amendment(outcome=Amended.STOPPED, turn_id=turn.turn_id)
    pieces = _pieces_of(db, turn)
    pieces = pieces.without(event_id) if retried is None else replace(pieces, messages=())
    _store(db, turn, pieces)
    if pieces.messages:
        return Amendment(outcome=Amended.CHANGED, turn_id=turn.turn_id)
    withdraw_turn(db, turn.turn_id, command=redaction)
    return Amendment(outcome=Amended.WITHDRAWN, turn_id=turn.turn_id)


def _forget_unread(db: sqlite3.Connection, event_id: EventId, room_id: RoomId) -> None:
    """What waits to be looked at (for its key, or for what it answers) is left alone from now."""
    db.execute(
        "UPDATE inbox SET state = ?, reason = 'redacted', raw = '' "
        "WHERE event_id = ? AND room_id = ? AND state IN (?, ?)",
        (InboxState.IGNORED, event_id, room_id, InboxState.NEW, InboxState.PENDING_KEYS),
    )


def _turn_of(db: sqlite3.Connection, event_id: EventId, room_id: RoomId) -> TurnRow | None:
    """The last turn that the message is part of: one may go on with another's messages."""
    found = db.execute(
        "SELECT turn_id FROM inbox WHERE event_id = ? AND room_id = ?", (event_id, room_id)
    ).fetchone()
    if found is None or found[0] is None:
        return None
    last = str(found[0])
    while True:
        rows = select_turns(db, "WHERE continues = ? ORDER BY rowid DESC LIMIT 1", last)
        if not rows:
            break
        last = rows[0].turn_id
    rows = select_turns(db, "WHERE turn_id = ?", last)
    return rows[0] if rows else None


def _retried_by(db: sqlite3.Connection, event_id: EventId, room_id: RoomId) -> TurnId | None:
    """The turn that the message made, where it was a `!retry`."""
    rows = select_turns(db, "WHERE turn_id = ?", turn_id(room_id, event_id))
    is_retry = bool(rows) and rows[0].continues is not None and rows[0].resumes == 0
    return rows[0].turn_id if is_retry else None


def _goes_on_from(db: sqlite3.Connection, turn: TurnRow, first: TurnId) -> bool:
    """Whether the turn is that one, or goes on with its messages by itself."""
    while turn.turn_id != first and turn.continues is not None and turn.resumes > 0:
        turn = select_turns(db, "WHERE turn_id = ?", turn.continues)[0]
    return turn.turn_id == first


def _pieces_of(db: sqlite3.Connection, turn: TurnRow) -> Pieces:
    row = db.execute("SELECT pieces FROM turns WHERE turn_id = ?", (turn.turn_id,)).fetchone()
    return decode_pieces(row[0])


def _store(db: sqlite3.Connection, turn: TurnRow, pieces: Pieces) -> None:
    stored = encode_pieces(pieces.messages, name_senders=pieces.name_senders)
    db.execute(
        "UPDATE turns SET prompt = ?, pieces = ? WHERE turn_id = ?",
        (pieces.prompt, stored, turn.turn_id),
    )
