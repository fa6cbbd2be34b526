"""Rows as values, as the rest of the system sees them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model import (
    Epoch,
    EventId,
    JsonObject,
    Priority,
    RoomId,
    RoomSlug,
    Seq,
    SessionId,
    TurnId,
    TurnOutcome,
    TurnState,
    TxnId,
    UserId,
)


class InboxKind(StrEnum):
    """What a row of the inbox holds."""

    TIMELINE = "timeline"
    """A room event, state events in the timeline included."""
    STATE = "state"
    """A state event from `state.events`: never triggers, only informs."""
    TO_DEVICE = "to_device"
    DEVICE_LISTS = "device_lists"
    """One row a response: {"changed": […], "left": […]}."""
    INVITE = "invite"
    """{"events": [stripped state…]} of one invitation."""
    LEAVE = "leave"
    """We are no longer in the room; payload as `rooms.leave` has it."""
    SUMMARY = "summary"
    """The room's `summary` object (joined and invited member counts)."""
    RESTORED = "restored"
    """What was said here since the copy that was restored was not run: the room is to be told."""
    PAGE = "page"
    """Asked for on the status page (`core.page_action`); the id is ours, and no event's."""


class InboxState(StrEnum):
    """Where a row of the inbox is."""

    NEW = "new"
    PENDING_KEYS = "pending_keys"
    """Encrypted, and the key has not arrived yet."""
    USED = "used"
    """Part of a turn, or executed as a command."""
    IGNORED = "ignored"
    """Looked at; `reason` says why nothing follows."""
    FAILED = "failed"
    """Handling it raised; `reason` has the kind of error. Its neighbours were handled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The database was restored from a copy, and what came since has not been received yet."""

    copied_at: float
    restored_at: float

    @property
    def payload(self) -> JsonObject:
        """What the inbox row that has a room told holds; the intake reads it."""
        return {"copied_at": self.copied_at, "restored_at": self.restored_at}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInboxRow:
    """An item of one sync answer, raw."""

    kind: InboxKind
    room_id: RoomId | None
    event_id: EventId | None
    raw: str
    """The JSON text as it came (lone surrogates escaped)."""
    history: bool = False
    """True: from before we were there or the first sync; stored as IGNORED, never handled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRow:
    """A stored item. `seq` gives the order of arrival across all rooms."""

    seq: int
    kind: InboxKind
    room_id: RoomId | None
    event_id: EventId | None
    raw: str
    state: InboxState
    received_at: float
    thread: EventId | None = None
    """The event that its thread hangs on; None in the main timeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRow:
    """A room that the agent is or was in."""

    room_id: RoomId
    slug: RoomSlug
    index: int
    """Counts the installation's rooms from 0; core.naming.room_uid makes the uid of it."""
    joined: bool
    encrypted: bool
    name: str | None
    alias: str | None
    joined_members: int | None
    moved_seq: int | None = None
    """Set once its conversation goes on in another room: the inbox's last row from before that."""
    replaced_by: RoomId | None = None
    """The room that an allowed tombstone names, whether or not the move was made yet."""
    former: tuple[RoomId, ...] = ()
    """The rooms whose conversation goes on in this one, the latest first."""

    @property
    def has_several_people(self) -> bool:
        """Whether more than one person may write: the agent is told who says what."""
        return (self.joined_members or 0) > 2


NO_ROOM = RoomId("spare")
"""Stands where a spare is shown or looked at like a room; no room's id is like it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareRow:
    """A place on this host, with a runner, that is for the next room."""

    slug: RoomSlug
    index: int
    """As `RoomRow.index`."""
    generation: int
    is_ready: bool
    """Its container runs, as far as is known, and nobody works on it: a room may take it."""

    @property
    def as_room(self) -> RoomRow:
        """A room without anything of its own, which lives there."""
        return RoomRow(
            room_id=NO_ROOM,
            slug=self.slug,
            index=self.index,
            joined=True,
            encrypted=False,
            name=None,
            alias=None,
            joined_members=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Two rooms that name each other: the old one's tombstone and the new one's creation."""

    old: RoomId
    new: RoomId


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn. `parts` counts the outbox rows that it has made so far."""

    turn_id: TurnId
    room_id: RoomId
    session: str
    state: TurnState
    prompt: str
    sender: UserId
    asked: tuple[EventId, ...]
    epoch: Epoch | None
    parts: int
    created_at: float
    started_at: float | None
    ended_at: float | None = None
    outcome: TurnOutcome | None = None
    reason: str | None = None
    draft_chars: int = 0
    """How much text is kept with it that no message has been made of."""
    continues: TurnId | None = None
    """The turn whose message this one takes up again, because it ended without an answer."""
    resumes: int = 0
    """How often in a row that was done without a person asking for it."""
    not_before: float = 0.0
    """Unix time before which it isn't started."""
    cancelled_by: EventId | None = None
    """The command that cancels it; it may not have ended yet."""
    session_id: SessionId | None = None
    """The CLI's session that it was offered to."""
    taken: int = 0
    """The last frame of its runner that it needs no replay of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One agent's conversation in a room. `resumable` once it has a message."""

    room_id: RoomId
    session: str
    session_id: SessionId
    resumable: bool
    forks: SessionId | None = None
    """The session that it begins as a copy of; of no meaning once it is `resumable`."""
    command: str = ""
    """A digest of the command line that its process was started with; "" where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRow:
    """What is remembered of a room's runner between two lives of the orchestrator."""

    room_id: RoomId
    generation: int
    epoch: Epoch | None
    acked: Seq


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOutboxRow:
    """An event to be sent; its payload is frozen from here on."""

    room_id: RoomId
    txn_id: TxnId
    event_type: str
    content: JsonObject
    priority: Priority
    file: bytes | None = None
    """To be uploaded before the event is sent; what names it is added to the content then."""
    edits: TxnId | None = None
    """The row before it in its room whose message it takes the place of, if that was sent; that one
    is not sent any more where it has not left. Not for a row with a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """A stored event to be sent. Within a room, rows go out in the order of `seq`."""

    seq: int
    room_id: RoomId
    txn_id: TxnId
    event_type: str
    content: JsonObject
    priority: Priority
    attempts: int
    not_before: float
    """Unix time before which it isn't tried again."""
    created_at: float
    has_file: bool = False
    """Its file is still to be uploaded (`OutboxTable.file`); the content doesn't name it yet."""
