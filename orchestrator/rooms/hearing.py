"""What the intake hands to the rooms: a message that was heard, and what it asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.policy import Message, RoomEvent
from orchestrator.model import EventId, RoomId, UserId
from orchestrator.rooms.flood import Flood
from orchestrator.rooms.reaction import Reply
from orchestrator.store.api import InboxRow, Replacement, RoomRow


@dataclass(frozen=True, slots=True)
class Heard:
    """A message on its way into a turn: its inbox row's number and its words."""

    seq: int
    message: Message


class Rooms(Protocol):
    """What the intake asks of the rooms."""

    async def execute(self, room: RoomRow, row: InboxRow, message: Message) -> None:
        """Execute a room command and store its answer."""
        ...

    async def refuse(self, room: RoomRow, row: InboxRow, message: Message, why: Flood) -> None:
        """Refuse a message of a sender who sends too much; a `!cancel` has its effect."""
        ...

    async def react(self, row: InboxRow, room_id: RoomId, event: RoomEvent) -> None:
        """Act on a reaction, and mark its row."""
        ...

    async def reply(self, row: InboxRow, room_id: RoomId, reply: Reply) -> bool:
        """Act on a reply to a question of ours, and mark its row; False: it is none."""
        ...

    async def edit(self, row: InboxRow, target: EventId, text: str, *, by: UserId) -> None:
        """Somebody changed a message of theirs; mark the row of the change."""
        ...

    async def redact(self, row: InboxRow, target: EventId) -> None:
        """A message was taken back; mark the row of that."""
        ...

    async def act(self, row: InboxRow) -> None:
        """Do what was asked for on the status page, and mark its row."""
        ...

    async def retire(self, room_id: RoomId) -> None:
        """The agent is no longer in the room."""
        ...

    async def move(self, move: Replacement) -> None:
        """A room's conversation goes on in the room that replaces it."""
        ...
