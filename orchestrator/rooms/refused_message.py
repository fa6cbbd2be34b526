"""A message that the homeserver refuses for good: what its room is told in its place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from loguru import logger

from orchestrator.errors import RequestRefusedError
from orchestrator.rooms.egress_asking import EgressAsking
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import (
    MESSAGE,
    build_refusal_row,
    build_rows_instead_of_file,
    is_answer_file,
    is_left_out_unsaid,
)
from orchestrator.store.api import OutboxRow


@dataclass(frozen=True, slots=True)
class RefusedMessages:
    """Tells; holds nothing."""

    kit: Kit
    asking: EgressAsking

    async def tell(self, row: OutboxRow, error: RequestRefusedError) -> None:
        """A message will never be accepted: its room is told so in its place. Idempotent.

        That may be accepted where the message was not (for its size, its type, its content). Where
        the agent may not send messages at all, nothing can be said.
        """
        logger.bind(action="outbox.refused", room=row.room_id, errcode=error.errcode).error(
            "the homeserver refused a message for good"
        )
        if row.has_file and is_answer_file(row):
            await self._send_instead_of_file(row)
            return
        await self.asking.note_unsent(row)
        room = await self.kit.store.rooms.get(row.room_id)
        if error.errcode == "M_FORBIDDEN" and room is not None and room.replaced_by is not None:
            return  # an upgrade forbids it there; it moves with its conversation
        may_not_speak = error.errcode == "M_FORBIDDEN" and row.event_type == MESSAGE
        if may_not_speak or is_left_out_unsaid(row):
            return
        notice = build_refusal_row(
            row, error.errcode, max_event_bytes=self.kit.config.gateway.max_event_bytes
        )
        await self.kit.store.outbox.add([notice], now=self.kit.wall_clock())

    async def _send_instead_of_file(self, row: OutboxRow) -> None:
        file = await self.kit.store.outbox.file(row.seq)
        if file is None:
            return  # the room was left, and all that waited for it dropped
        limit = await self.kit.event_limit(row.room_id)
        rows = await asyncio.to_thread(build_rows_instead_of_file, row, file, max_event_bytes=limit)
        await self.kit.store.outbox.add(rows, now=self.kit.wall_clock())
