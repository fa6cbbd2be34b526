"""What the messages of a turn reply to: looked up as it begins, here or at the homeserver.

A turn never fails for it: the agent is told that it could not be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from loguru import logger

from orchestrator.core.policy import Message
from orchestrator.core.quotation import (
    Quotation,
    Quoted,
    read_quoted,
    read_words,
    render_quotations,
)
from orchestrator.errors import MatrixError
from orchestrator.model import EventId, RoomId
from orchestrator.rooms.kit import Kit
from orchestrator.store.api import TurnRow

# Of all that a turn replies to; the turn waits for it.
_MOST_S = 10.0
# A batch has up to 50 messages; so many of them are looked up.
_MOST = 5


async def find_quotations(turn: TurnRow, messages: Sequence[Message], kit: Kit) -> str:
    """What stands below a turn's messages, for the agent. Only the store's errors come out."""
    replies = [(n, m.quotes) for n, m in enumerate(messages, start=1) if m.quotes is not None]
    found: list[Quotation] = []
    deadline = asyncio.get_running_loop().time() + _MOST_S
    for number, event_id in replies[:_MOST]:
        quoted = await _find(turn.room_id, event_id, kit, deadline=deadline)
        found.append(Quotation(number=number, quoted=quoted))
    me = kit.config.matrix.user_id
    return render_quotations(found, messages=len(messages), me=me)


async def _find(room_id: RoomId, event_id: EventId, kit: Kit, *, deadline: float) -> Quoted | None:
    own = await kit.store.outbox.content_of(event_id, room_id)
    if own is not None and (words := read_words(own)) is not None:
        return Quoted(sender=kit.config.matrix.user_id, text=words)
    try:
        async with asyncio.timeout_at(deadline):
            event = await kit.find_event(room_id, event_id)
    except (MatrixError, TimeoutError) as e:
        logger.bind(action="quotation.failed", room=room_id, error=type(e).__name__).warning(
            "what a message replies to could not be read"
        )
        return None
    return None if event is None else read_quoted(event, event_id)
