"""What a runner says while no turn runs: taken in, counted, and not shown.

Only our tool server answers, who it is and what it has: a CLI that has just started asks for that.

The CLI starts nothing by itself (`core.cli_command` switches that off). What it says between turns
is the rest of a turn that was given up, whose room was told, or of something that writes into
its output. Shown, it would cost no turn, meet no output limit and have no end.
"""

from __future__ import annotations

from loguru import logger

from orchestrator.core.cli_event import McpMessage
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import build_tool_answer
from orchestrator.model import RoomId, Seq
from orchestrator.rooms.kit import Kit
from orchestrator.runners.event import CliLine, SessionExited, UpEvent
from orchestrator.runners.link import RunnerLink
from orchestrator.store.turn_table import Acked

# As for a running turn: one commit for many frames, when many come.
_ACK_FRAMES = 256
_ASKS_TOOLS = '"mcp_message"'


class IdleEar:
    """Invariant: frames up to `acked` are stored as done with."""

    def __init__(self, room_id: RoomId, kit: Kit) -> None:
        self._room_id = room_id
        self._kit = kit
        self._acked = Seq(0)
        self._lines = 0

    async def hear(self, event: UpEvent, link: RunnerLink, *, is_last: bool) -> None:
        """Take in one frame; `is_last`: no other waits behind it."""
        if isinstance(event, CliLine):
            self._lines += 1
            await _answer_tools(event, link)
        elif isinstance(event, SessionExited):
            logger.bind(
                action="session.exited", room=self._room_id, code=event.code, lines=self._lines
            ).info("an idle session ended")
        if is_last or event.q - self._acked >= _ACK_FRAMES:
            await self._kit.store.turns.store_acked(
                Acked(room_id=self._room_id, epoch=link.welcome.epoch, seq=event.q)
            )
            self._acked = event.q
            await link.ack(event.q)


async def _answer_tools(event: CliLine, link: RunnerLink) -> None:
    if _ASKS_TOOLS not in event.line:
        return
    asked = parse_line(event.line)
    if isinstance(asked, McpMessage):
        line = build_tool_answer(asked)
        # Its number makes the id: asked again after a crash, it is answered once.
        await link.send_line(f"tools:{link.welcome.epoch}:{event.q}", event.session, line)
