"""Whether an earlier attempt at sending a message succeeded, as the room's history has it."""

from __future__ import annotations

from orchestrator.matrix.client import MatrixClient, OwnEvent
from orchestrator.model import EventId
from orchestrator.store.api import OutboxRow

# Asked of rows that the homeserver may no longer know by transaction id (`gateway.outbound` says
# which). Two pages of history: a room that said more since then is answered anew rather than read
# back for long.
_RECONCILE_EVENTS = 200


async def find_sent(matrix: MatrixClient, row: OutboxRow) -> EventId | None:
    """The event that an earlier attempt at this row made, if the room has it."""
    for event in await matrix.recent_own_events(row.room_id, _RECONCILE_EVENTS):
        if is_of_row(event, row):
            return event.event_id
    return None


def is_of_row(event: OwnEvent, row: OutboxRow) -> bool:
    """By the transaction id where the homeserver still names it, otherwise by the whole content."""
    if event.txn_id is not None:
        return event.txn_id == row.txn_id
    return event.event_type == row.event_type and event.content == row.content
