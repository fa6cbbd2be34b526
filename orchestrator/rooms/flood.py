"""When a message is too much: for its sender's limit, or for what waits to be said in its room."""

from __future__ import annotations

from enum import StrEnum

from orchestrator.config import GatewayConfig
from orchestrator.core.policy import RoomEvent
from orchestrator.core.sender_limit import SenderLimits
from orchestrator.model import RoomId, UserId
from orchestrator.store.outbox_table import OutboxTable

# What is said about no turn (answers to commands, mostly) and waits to be sent to one room: on a
# stock homeserver (0.2 messages/s) that is a minute. After it they would go before other rooms'
# answers.
MOST_WAITING_NOTICES = 12


class Flood(StrEnum):
    """Why one message of a sender is not taken; stored as the reason."""

    TOO_FAST = "too fast"
    TOO_MUCH_TO_SAY = "too much waits to be said"
    """It asks for words, and the room has as many waiting as the account can send in a minute."""


class FloodGauge:
    """Measures each sender in each room. In memory: a restart begins with full allowances."""

    def __init__(self, settings: GatewayConfig, *, me: UserId, outbox: OutboxTable) -> None:
        self._limits = SenderLimits(
            burst=settings.sender_burst, per_minute=settings.sender_per_minute
        )
        self._me = me
        self._outbox = outbox

    def __repr__(self) -> str:
        return f"<FloodGauge {self._limits!r} senders={len(self._limits)}>"

    async def measure(
        self, room_id: RoomId, event: RoomEvent, *, received_at: float, asks_for_words: bool
    ) -> Flood | None:
        """Why the message is too much, if it is; it counts from now on.

        By its own time (Unix time), where our own homeserver says it, and else by its arrival.
        """
        at = received_at
        if _server(event.sender) == _server(self._me) and event.sent_at is not None:
            at = min(at, event.sent_at)
        if not self._limits.take((room_id, event.sender), at=at):
            return Flood.TOO_FAST
        if asks_for_words:
            waiting = await self._outbox.waiting_notices(room_id)
            return Flood.TOO_MUCH_TO_SAY if waiting >= MOST_WAITING_NOTICES else None
        return None


def _server(user_id: str) -> str:
    return user_id.partition(":")[2]
