"""Messages that are changed or taken back after they were heard."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from loguru import logger

from orchestrator.core.reason import EDIT, REDACTION
from orchestrator.model import EventId, RoomId, TurnId, UserId
from orchestrator.rooms.kit import Kit
from orchestrator.store.amendment import Amended, Amendment, edit_message, redact_message
from orchestrator.store.api import InboxRow


class Amending:
    """Stateless: what was asked is in the store."""

    def __init__(self, kit: Kit, cancel: Callable[[RoomId, TurnId], None]) -> None:
        self._kit = kit
        self._cancel = cancel

    def __repr__(self) -> str:
        return "<Amending>"

    async def edit(self, row: InboxRow, target: EventId, text: str, *, by: UserId) -> None:
        """Put other words into a message that waits, and mark the edit's row."""
        room_id = row.room_id or RoomId("")
        effect = partial(edit_message, event_id=target, text=text, room_id=room_id, by=by)
        amendment = await self._kit.store.answer_with(
            row.seq, effect, lambda _: [], reason=EDIT, now=self._kit.wall_clock()
        )
        self._log(row, amendment)

    async def redact(self, row: InboxRow, target: EventId) -> None:
        """Leave out a message that waits, stop what runs because of it, and mark the row."""
        redaction = row.event_id or EventId(f"row {row.seq}")
        room_id = row.room_id or RoomId("")
        effect = partial(redact_message, event_id=target, room_id=room_id, redaction=redaction)
        amendment = await self._kit.store.answer_with(
            row.seq, effect, lambda _: [], reason=REDACTION, now=self._kit.wall_clock()
        )
        self._log(row, amendment)
        is_over = amendment.outcome in {Amended.WITHDRAWN, Amended.STOPPED}
        if is_over and amendment.turn_id is not None:
            turn = await self._kit.store.turns.get(amendment.turn_id)
            if turn is not None:  # which may go on in the room that replaced this one
                self._cancel(turn.room_id, turn.turn_id)

    def _log(self, row: InboxRow, amendment: Amendment) -> None:
        if amendment.turn_id is not None:
            logger.bind(
                action="turn.amended",
                room=row.room_id,
                turn=amendment.turn_id,
                what=amendment.outcome,
            ).info("a message was changed or taken back")
