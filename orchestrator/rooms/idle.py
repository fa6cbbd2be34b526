"""What a runner says while no turn runs: the last words of one that was given up, a crash.

The CLI starts nothing by itself (`core.cli_command` switches that off). Text that comes all the
same is shown in the room, as text of no turn; everything else only moves the acknowledgement on.
"""

from __future__ import annotations

from loguru import logger

from orchestrator.core.chunking import split_for_event
from orchestrator.core.cli_event import AssistantMessage, TextBlock
from orchestrator.core.naming import txn_id
from orchestrator.core.stream import parse_line
from orchestrator.model import Priority, RoomId, Seq
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import MESSAGE
from orchestrator.runners.event import CliLine, SessionExited, UpEvent
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import NewOutboxRow
from orchestrator.store.turn_table import Acked

# As for a running turn: one commit for many frames, when many come.
_ACK_FRAMES = 256


class IdleEar:
    """Invariant: frames up to `acked` are stored as done with."""

    def __init__(self, room_id: RoomId, kit: Kit) -> None:
        self._room_id = room_id
        self._kit = kit
        self._acked = Seq(0)

    async def hear(self, event: UpEvent, link: RunnerLink, *, is_last: bool) -> None:
        """Take in one frame; `is_last`: no other waits behind it."""
        if isinstance(event, CliLine):
            await self._show(event, link)
        elif isinstance(event, SessionExited):
            logger.bind(action="session.exited", room=self._room_id, code=event.code).info(
                "an idle session ended"
            )
        if is_last or event.q - self._acked >= _ACK_FRAMES:
            await self._kit.store.turns.store_acked(
                Acked(room_id=self._room_id, epoch=link.welcome.epoch, seq=event.q)
            )
            self._acked = event.q
            await link.ack(event.q)

    async def _show(self, line: CliLine, link: RunnerLink) -> None:
        event = parse_line(line.line)
        if not isinstance(event, AssistantMessage) or event.parent_tool_use_id is not None:
            return
        texts = [block.text for block in event.blocks if isinstance(block, TextBlock)]
        text = "\n\n".join(text for text in texts if text.strip())
        if text and event.error is None and not event.is_aborted:
            limit = await self._kit.event_limit(self._room_id)
            rows = self._rows(text, f"{link.welcome.epoch}:{line.q}", max_event_bytes=limit)
            await self._kit.store.outbox.add(rows, now=self._kit.wall_clock())
            self._kit.notify_outbox()

    def _rows(self, text: str, source: str, *, max_event_bytes: int) -> list[NewOutboxRow]:
        contents = split_for_event(text, max_event_bytes=max_event_bytes)
        return [
            NewOutboxRow(
                room_id=self._room_id,
                txn_id=txn_id(source, i),
                event_type=MESSAGE,
                content=content,
                priority=Priority.TEXT,
            )
            for i, content in enumerate(contents)
        ]
