"""What follows from an inbox row whose handling raised. Pure: the same row gives the same notice.

Rule: a message of somebody who may speak to the agent never ends in silence. A row of which nothing
can be read is nobody's message; it is marked as such, logged and counted by the audit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from orchestrator.config import Config
from orchestrator.core import texts
from orchestrator.core.evidence import MESSAGE_TYPES
from orchestrator.core.policy import RoomEvent
from orchestrator.core.reason import UNREADABLE
from orchestrator.model import EventId, RoomId, TurnOutcome
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.store.api import InboxKind, InboxRow, NewOutboxRow


@dataclass(frozen=True, slots=True)
class _Envelope:
    sender: str
    event_type: str
    is_state: bool


def build_mishap(
    row: InboxRow, error: Exception, *, config: Config, is_heard: Callable[[str], bool]
) -> tuple[Sequence[NewOutboxRow], str]:
    """What the room is told, if anything, and the reason to store with the row."""
    kind = type(error).__name__
    envelope = _read_envelope(row.raw)
    if envelope is None:
        return (), f"{UNREADABLE}: {kind}"
    if row.kind is not InboxKind.TIMELINE or not _is_owed(envelope, config, is_heard):
        return (), kind
    if row.room_id is None or row.event_id is None:
        return (), kind
    return build_mishap_notice(row.room_id, row.event_id, error, config=config), kind


def build_mishap_notice(
    room_id: RoomId, event_id: EventId, error: Exception, *, config: Config
) -> Sequence[NewOutboxRow]:
    """What a message's sender is told when it can't be handled: the kind of error, not its text."""
    return build_notice_rows(
        room_id,
        f"{event_id}:failed",
        texts.not_handled(type(error).__name__),
        max_event_bytes=config.gateway.max_event_bytes,
        reply_to=event_id,
        outcome=TurnOutcome.FAILED,
    )


def _is_owed(envelope: _Envelope, config: Config, is_heard: Callable[[str], bool]) -> bool:
    is_message = envelope.event_type in MESSAGE_TYPES and not envelope.is_state
    return is_message and envelope.sender != config.matrix.user_id and is_heard(envelope.sender)


def _read_envelope(raw: str) -> _Envelope | None:
    """Who sent what kind of event, by the strict reader first; it refuses deep nesting, say."""
    try:
        event = RoomEvent.model_validate_json(raw)
    except ValidationError:
        return _read_loosely(raw)
    return _Envelope(event.sender, event.type, event.state_key is not None)


def _read_loosely(raw: str) -> _Envelope | None:
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    sender, event_type = event.get("sender"), event.get("type")
    if not isinstance(sender, str) or not isinstance(event_type, str):
        return None
    return _Envelope(sender, event_type, "state_key" in event)
