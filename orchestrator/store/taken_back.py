"""Which messages their sender, or a moderator, took back: kept as the reason of their inbox rows.

Within the caller's transaction. Who would ask a message again looks here first.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from orchestrator.core.reason import TAKEN_BACK
from orchestrator.model import EventId


def note_taken_back(db: sqlite3.Connection, event_id: EventId) -> None:
    """Idempotent. What became of it stays as it is."""
    db.execute("UPDATE inbox SET reason = ? WHERE event_id = ?", (TAKEN_BACK, event_id))


def leave_turn(db: sqlite3.Connection, event_id: EventId) -> None:
    """It was to go into a turn and never does: no turn has its end."""
    db.execute("UPDATE inbox SET turn_id = NULL WHERE event_id = ?", (event_id,))


def find_taken_back(db: sqlite3.Connection, event_ids: Iterable[EventId]) -> frozenset[EventId]:
    """Those of the messages that were taken back."""
    rows = db.execute(
        "SELECT event_id FROM inbox WHERE reason = ? "
        "AND event_id IN (SELECT value FROM json_each(?))",
        (TAKEN_BACK, json.dumps(list(event_ids))),
    )
    return frozenset(EventId(event_id) for (event_id,) in rows)
