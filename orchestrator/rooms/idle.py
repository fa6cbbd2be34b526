"""What a runner says while no turn runs: taken in, counted, and not shown.

Only our tool server answers, who it is and what it has: a CLI that has just started asks for that.

The CLI starts nothing by itself (`core.cli_command` switches that off). What it says between turns
is the rest of a turn that was given up, whose room was told, or of something that writes into
its output. Shown, it would cost no turn, meet no output limit and have no end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from loguru import logger

from orchestrator.core.cli_event import McpMessage
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import build_tool_answer
from orchestrator.errors import RunnerError, WireProtocolError
from orchestrator.model import RoomId, Seq
from orchestrator.rooms.connection import Connection, LinkLost
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import RoomRunner
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

    async def hear(self, event: UpEvent, link: RunnerLink, *, is_last: bool, acks: bool) -> None:
        """Take in one frame; `is_last`: no other waits behind it. Beside a turn it `acks` none."""
        if isinstance(event, CliLine):
            self._lines += 1
            await _answer_tools(event, link)
        elif isinstance(event, SessionExited):
            logger.bind(
                action="session.exited", room=self._room_id, code=event.code, lines=self._lines
            ).info("an idle session ended")
        if acks and (is_last or event.q - self._acked >= _ACK_FRAMES):
            await self._kit.store.turns.store_acked(
                Acked(room_id=self._room_id, epoch=link.welcome.epoch, seq=event.q)
            )
            self._acked = event.q
            await link.ack(event.q)


class IdleListener:
    """Takes in what the room's runner says and no turn is told.

    Where a turn runs, whoever drives it gives a lost connection up.
    """

    def __init__(self, room_id: RoomId, kit: Kit, *, is_at_work: Callable[[], bool]) -> None:
        """`is_at_work`: whether a turn runs in the room now."""
        self._room_id = room_id
        self._kit = kit
        self._is_at_work = is_at_work
        self._log = logger.bind(room=room_id)

    def __repr__(self) -> str:
        return f"<IdleListener {self._room_id}>"

    async def run(self, runner: RoomRunner, wake: Callable[[], None]) -> NoReturn:
        """Until cancelled; `wake` hears that a connection that was lost has been given up."""
        ear, heard = IdleEar(self._room_id, self._kit), None
        while True:
            connection = runner.connection
            if connection is None:
                runner.changed.clear()
                await runner.changed.wait()
                continue
            if connection is not heard:
                ear, heard = IdleEar(self._room_id, self._kit), connection
            try:
                await _hear(connection, ear)
            except RunnerError as e:
                if not self._is_at_work():
                    self._let_go(runner, connection, e)
                await _wait_for_other(runner, connection)
                wake()

    def _let_go(self, runner: RoomRunner, lost: Connection, error: RunnerError) -> None:
        if isinstance(error, WireProtocolError):
            self._log.bind(action="runner.protocol", why=str(error)).error("not trusted further")
            runner.condemn()
            return
        self._log.bind(action="runner.lost", error=type(error).__name__).warning(
            "the connection to the idle runner ended"
        )
        runner.disconnect(lost)


async def _wait_for_other(runner: RoomRunner, lost: Connection) -> None:
    """Until a connection that is lost has been given up by whoever needs it."""
    while runner.connection is lost:
        runner.changed.clear()
        await runner.changed.wait()


async def _hear(connection: Connection, ear: IdleEar) -> None:
    item = await connection.receive(None)
    if isinstance(item, LinkLost):
        raise item.error
    if item is not None:
        is_last, acks = connection.is_empty, not connection.claimed_sessions
        await ear.hear(item, await connection.ready(), is_last=is_last, acks=acks)


async def _answer_tools(event: CliLine, link: RunnerLink) -> None:
    if _ASKS_TOOLS not in event.line:
        return
    asked = parse_line(event.line)
    if isinstance(asked, McpMessage):
        line = build_tool_answer(asked)
        # Its number makes the id: asked again after a crash, it is answered once.
        await link.send_line(f"tools:{link.welcome.epoch}:{event.q}", event.session, line)
