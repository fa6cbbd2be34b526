"""What an audit knows: the database's rows and the homeserver's events, as small values.

No text of a message is kept: contents are compared by a digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.core.turn_mark import TurnMark
from orchestrator.model import EventId, JsonValue, RoomId, TurnId, TurnOutcome, TxnId, UserId

MESSAGE_TYPES = ("m.room.message", "m.room.encrypted")
"""What somebody can have said something with."""


class Progress(StrEnum):
    """Where a row of the inbox is, as `store.api.InboxState` names it."""

    NEW = "new"
    PENDING_KEYS = "pending_keys"
    USED = "used"
    IGNORED = "ignored"
    FAILED = "failed"


class Delivery(StrEnum):
    """Where a row of the outbox is."""

    QUEUED = "queued"
    SENT = "sent"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEvent:
    """An event that the homeserver has."""

    room_id: RoomId
    event_id: EventId
    sender: UserId
    event_type: str
    is_own: bool
    is_new: bool
    """From after the place up to which the database has received."""
    digest: str = ""
    mark: TurnMark | None = None
    txn_id: TxnId | None = None
    """Set where this device sent it."""
    is_aside: bool = False
    """A sign on a message, or an edit: what shows how a turn goes on is no row of the outbox."""

    @property
    def is_message(self) -> bool:
        """Whether somebody else may have said something with it."""
        return not self.is_own and self.event_type in MESSAGE_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRoom:
    """A room that the agent is in, as far as it was read.

    `live_from` is Unix time by the homeserver's clock: the agent's own invitation or join, or the
    oldest event that was read when `is_cut`.
    """

    room_id: RoomId
    live_from: float
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEntry:
    """A timeline event in the database. `sender` and `event_type` where its text is still there."""

    room_id: RoomId
    event_id: EventId
    progress: Progress
    received_at: float
    reason: str | None = None
    turn_id: TurnId | None = None
    sender: UserId | None = None
    event_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEntry:
    """A turn in the database."""

    turn_id: TurnId
    room_id: RoomId
    has_ended: bool
    outcome: TurnOutcome | None
    asked: tuple[EventId, ...]
    created_at: float
    started_at: float | None = None
    parts: int = 1
    """Messages that it has made; 0 for a refused one whose end is still to be marked."""
    continues: TurnId | None = None
    """The turn that this one goes on with: its messages are settled here."""
    is_restored: bool = False
    """Whether a restore ended it: how it went on after the copy is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """An event to be sent, in the database."""

    room_id: RoomId
    txn_id: TxnId
    event_type: str
    delivery: Delivery
    created_at: float
    digest: str
    event_id: EventId | None = None
    reason: str | None = None
    mark: TurnMark | None = None
    reply_to: EventId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that is joined. The database was read first, the homeserver after it."""

    joined: frozenset[RoomId]
    """Rooms that the agent is in, as the database has it."""
    inbox: Sequence[InboxEntry]
    turns: Sequence[TurnEntry]
    """In the order in which they were made, whatever the clock was then."""
    outbox: Sequence[OutboxEntry]
    told: frozenset[tuple[RoomId, UserId, str]]
    """Who was told what in which room, once."""
    replaced_by: Mapping[RoomId, RoomId] = field(default_factory=dict)
    """Rooms whose conversation went on in another."""
    rooms: Sequence[SeenRoom] = ()
    events: Sequence[SeenEvent] = ()
    confirmed: frozenset[EventId] = frozenset()
    """Events that the homeserver has, asked for one by one."""
    errands: frozenset[EventId] = frozenset()
    """Commands that take their time and are not answered yet."""
    strangers: frozenset[UserId] = frozenset()
    """Those of the senders who may not use the agent."""


def build_digest(content: Mapping[str, JsonValue]) -> str:
    """The same for the same content, however its keys are ordered."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
