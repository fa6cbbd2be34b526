"""Polls beside questions, as rows of the outbox: found, taken back, closed.

A question and its poll are parts of one source, so that each one's transaction id follows from the
other's. What closes a poll is a row like others, once there is a poll or may be one.
"""

from __future__ import annotations

import sqlite3

from orchestrator.core.approval import Approval, ApprovalKind
from orchestrator.core.naming import sibling_txn_id
from orchestrator.core.poll import END_PART, POLL_END, POLL_PART, POLL_START, build_poll_end
from orchestrator.core.texts import approval as approval_texts
from orchestrator.model import EventId, Priority, RoomId, TxnId
from orchestrator.store.api import NewOutboxRow
from orchestrator.store.outbox_table import insert_outbox


def txns_of_question(approval: Approval) -> tuple[TxnId, TxnId]:
    """Of the message that asks, and of the poll beside it, if there is one."""
    return approval.txn_id, sibling_txn_id(approval.txn_id, POLL_PART)


def find_asking_txn(
    db: sqlite3.Connection, room_id: RoomId, event_id: EventId, *, only_poll: bool
) -> TxnId | None:
    """The transaction id of the message that asks, if this event of ours is it or its poll."""
    query = "SELECT txn_id, event_type FROM outbox WHERE event_id = ? AND room_id = ?"
    row: tuple[str, str] | None = db.execute(query, (event_id, room_id)).fetchone()
    if row is None:
        return None
    txn, event_type = row
    if event_type == POLL_START:
        return sibling_txn_id(TxnId(txn), 0)
    return None if only_poll else TxnId(txn)


def take_back_poll(db: sqlite3.Connection, approval: Approval) -> None:
    """Don't send a poll that has not left."""
    db.execute(
        "DELETE FROM outbox WHERE txn_id = ? AND event_type = ? "
        "AND state = 'queued' AND attempts = 0",
        (sibling_txn_id(approval.txn_id, POLL_PART), POLL_START),
    )


def close_poll(db: sqlite3.Connection, approval: Approval, *, now: float) -> None:
    """A question is over: its poll takes no more votes. Idempotent; nothing where it has none."""
    if approval.kind is not ApprovalKind.QUESTION:
        return
    take_back_poll(db, approval)
    query = (
        "SELECT room_id, event_id FROM outbox "
        "WHERE txn_id = ? AND event_type = ? AND state IN ('queued', 'sent')"
    )
    poll = sibling_txn_id(approval.txn_id, POLL_PART)
    found: tuple[str, str | None] | None = db.execute(query, (poll, POLL_START)).fetchone()
    if found is None:
        return
    room_id, event_id = found
    end = NewOutboxRow(
        room_id=RoomId(room_id),
        txn_id=sibling_txn_id(approval.txn_id, END_PART),
        event_type=POLL_END,
        content=build_poll_end(
            approval_texts.POLL_CLOSED, None if event_id is None else EventId(event_id)
        ),
        priority=Priority.NOTICE,
    )
    insert_outbox(db, [end], now=now)
