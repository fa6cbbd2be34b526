from __future__ import annotations

import pytest

from orchestrator.matrix.client import OwnEvent
from orchestrator.matrix.sent import is_of_row
from orchestrator.model import EventId, JsonObject, Priority, RoomId, TxnId
from orchestrator.store.api import OutboxRow


def row(content: JsonObject, txn_id: str) -> OutboxRow:
    return OutboxRow(
        seq=1,
        room_id=RoomId("!r:x"),
        txn_id=TxnId(txn_id),
        event_type="m.room.message",
        content=content,
        priority=Priority.TEXT,
        attempts=1,
        not_before=0.0,
        created_at=0.0,
    )


def event(content: JsonObject, txn_id: str | None) -> OwnEvent:
    return OwnEvent(
        event_id=EventId("$e"),
        txn_id=None if txn_id is None else TxnId(txn_id),
        event_type="m.room.message",
        content=content,
    )


@pytest.mark.parametrize(
    ("found", "is_it"),
    [
        (event({"body": "Done."}, "t1"), True),
        (event({"body": "Done."}, "t0"), False),
        (event({"body": "Done."}, None), True),
        (event({"body": "Other."}, None), False),
    ],
)
def test_a_row_is_known_by_its_transaction_id_and_else_by_its_content(
    found: OwnEvent, is_it: bool
) -> None:
    assert is_of_row(found, row({"body": "Done."}, "t1")) is is_it
