"""How messages become a turn, within the caller's transaction: a row, and theirs in the inbox."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from orchestrator.model import EventId, RoomId, TurnId, TurnOutcome, TurnState, UserId


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
    pieces: str = "{}"
    """The messages (core.piece), where they can be changed while the turn waits."""


def insert_turn(
    db: sqlite3.Connection, turn: NewTurn, *, refused_for: str | None, now: float
) -> None:
    """Within the caller's transaction; one that no message asked for comes after all that did."""
    last = "SELECT coalesce(max(seq), 0) FROM inbox"
    position = min(turn.inbox) if turn.inbox else db.execute(last).fetchone()[0]
    refused = refused_for is not None
    db.execute(
        "INSERT INTO turns (turn_id, room_id, session, position, state, prompt, sender, asked, "
        "created_at, ended_at, outcome, reason, pieces) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            turn.turn_id,
            turn.room_id,
            turn.session,
            position,
            TurnState.ENDED if refused else TurnState.QUEUED,
            turn.prompt,
            turn.sender,
            json.dumps(turn.asked),
            now,
            now if refused else None,
            TurnOutcome.REFUSED if refused else None,
            refused_for,
            "{}" if refused else turn.pieces,
        ),
    )
    use_inbox(db, turn, turn.turn_id, reason=refused_for)


def use_inbox(
    db: sqlite3.Connection, turn: NewTurn, turn_id: TurnId, *, reason: str | None
) -> None:
    """Within the caller's transaction: the rows of the turn's messages are this turn's now."""
    db.executemany(
        "UPDATE inbox SET state = 'used', turn_id = ?, reason = ?, raw = '' WHERE seq = ?",
        [(turn_id, reason, seq) for seq in turn.inbox],
    )
