"""Where a message of ours stands among what its room reads."""

from __future__ import annotations

import sqlite3
from enum import StrEnum

from orchestrator.model import RoomId, TxnId

# Of events that nothing follows from, these are seen in the room all the same.
_SEEN_REASONS = ("not addressed", "sender not allowed", "notice")


class Place(StrEnum):
    """Of a message that was sent, or is to be."""

    LAST = "last"
    ABOVE = "above"
    """Something was said since."""


def find_place(db: sqlite3.Connection, txn_id: TxnId, room_id: RoomId) -> Place | None:
    """Within the caller's transaction; None where the room has no such row."""
    row = db.execute(
        "SELECT seq, ended_at FROM outbox WHERE txn_id = ? AND room_id = ? AND state <> 'refused'",
        (txn_id, room_id),
    ).fetchone()
    if row is None:
        return None
    seq, sent_at = row
    is_above = db.execute(
        "SELECT EXISTS (SELECT 1 FROM outbox WHERE room_id = ? AND seq > ? "
        "AND event_type = 'm.room.message' AND edits IS NULL AND state <> 'refused')",
        (room_id, seq),
    ).fetchone()[0]
    if not is_above and sent_at is not None:
        marks = ", ".join("?" * len(_SEEN_REASONS))
        is_above = db.execute(
            "SELECT EXISTS (SELECT 1 FROM inbox WHERE room_id = ? AND received_at > ? "  # noqa: S608 - constants
            f"AND kind = 'timeline' AND (turn_id IS NOT NULL OR reason IN ({marks})))",
            (room_id, sent_at, *_SEEN_REASONS),
        ).fetchone()[0]
    return Place.ABOVE if is_above else Place.LAST
