"""What the sender needs of the outbox table and of the account, as protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.model import EventId, JsonObject, JsonValue, RoomId, TxnId
from orchestrator.store.api import OutboxRow


class OutboxStore(Protocol):
    """The outbox table. Each call is one transaction; errors are StoreErrors."""

    async def outbox_heads(self, *, now: float, limit: int) -> Sequence[OutboxRow]:
        """For each room its first unsent row, if `not_before <= now`; by priority, then age."""
        ...

    async def next_outbox_at(self) -> float | None:
        """The earliest `not_before` of the rooms' first unsent rows; None when nothing waits.

        One in the past is allowed: it says that a row is due, and nothing of the others.
        """
        ...

    async def waiting_now(self, room_id: RoomId, *, now: float) -> int:
        """How many rows would leave now if they could, and all of this room's."""
        ...

    async def file(self, seq: int) -> bytes | None:
        """The file that is still to be uploaded for a row, or None."""
        ...

    async def store_uploaded(
        self, seq: int, content: JsonObject, *, rest: bytes | None = None
    ) -> None:
        """The payload is `content` from here on; of the file `rest` is still to be uploaded."""
        ...

    async def mark_attempt(self, seq: int, room_id: RoomId, *, now: float) -> bool:
        """Count one more attempt; recorded before the request leaves.

        False: the row goes to another room by now; nothing was counted.
        """
        ...

    async def mark_sent(self, seq: int, event_id: EventId, *, now: float) -> None:
        """The homeserver accepted it as this event."""
        ...

    async def mark_retry(self, seq: int, *, not_before: float) -> None:
        """Not before that time again."""
        ...

    async def loosen(self, seq: int) -> bool:
        """Take a relation out of a message that was refused; False: it has none (any more)."""
        ...

    async def mark_refused(self, seq: int, *, reason: str, now: float) -> None:
        """Refused for good; the row is out of the way."""
        ...


class EventSender(Protocol):
    """The part of `ports.Homeserver` that sends events."""

    async def send_event(
        self, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        """One attempt; see `ports.Homeserver.send_event`."""
        ...

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """One attempt; see `ports.Homeserver.upload_file`."""
        ...
