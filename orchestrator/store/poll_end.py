"""The event that closes a poll whose own event is not known yet: within the outbox's transactions.

It has to name the poll. The rows of a room go out in their order: it stands behind the poll until
that is sent, or refused.
"""

from __future__ import annotations

import json
import sqlite3

from orchestrator.core.naming import sibling_txn_id
from orchestrator.core.poll import END_PART, POLL_END, POLL_START, refer_to_poll
from orchestrator.model import EventId, TxnId

_WAITING = f"state = 'queued' AND event_type = '{POLL_END}' AND txn_id = ?"


def name_poll(db: sqlite3.Connection, seq: int, event_id: EventId) -> None:
    """The homeserver has this row's event: if it is a poll, what closes it can name it now."""
    end = _end_of(db, seq)
    query = f"SELECT content FROM outbox WHERE {_WAITING}"  # noqa: S608 - constants
    found = None if end is None else db.execute(query, (end,)).fetchone()
    if found is not None:
        content = json.dumps(refer_to_poll(json.loads(found[0]), event_id))
        db.execute(f"UPDATE outbox SET content = ? WHERE {_WAITING}", (content, end))  # noqa: S608 - constants


def forget_end(db: sqlite3.Connection, seq: int) -> None:
    """This row is refused: if it is a poll, there is nothing to be closed."""
    end = _end_of(db, seq)
    if end is not None:
        db.execute(f"DELETE FROM outbox WHERE {_WAITING}", (end,))  # noqa: S608 - constants


def _end_of(db: sqlite3.Connection, seq: int) -> TxnId | None:
    query = "SELECT txn_id FROM outbox WHERE seq = ? AND event_type = ?"
    row: tuple[str] | None = db.execute(query, (seq, POLL_START)).fetchone()
    return None if row is None else sibling_txn_id(TxnId(row[0]), END_PART)
