"""Files that the agent sends: read in its runner, stored as messages of its turn, each once.

The bytes come through the program in the room's runner, so that nothing outside of the workspace,
and nothing behind a link, can be named. A call that is repeated after a crash meets its own row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from loguru import logger

from orchestrator.core.cli_input import build_mcp_answer
from orchestrator.core.naming import txn_id
from orchestrator.core.room_tools import build_result
from orchestrator.core.texts import file as texts
from orchestrator.core.turn_view import FileWanted
from orchestrator.errors import FileRefusedError, RunnerError
from orchestrator.model import Priority, Seq
from orchestrator.room_profile import FilesConfig
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.copies import files_of
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import MESSAGE, mark_of_turn
from orchestrator.rooms.outgoing_file import build_file_content
from orchestrator.rooms.tool_asking import Reply
from orchestrator.store.api import NewOutboxRow, TurnRow


class RoomSending:
    """Of one turn; stateless: what was sent is in the outbox."""

    def __init__(self, kit: Kit, limits: FilesConfig, turn: Callable[[], TurnRow]) -> None:
        self._kit = kit
        self._limits = limits
        self._turn = turn

    def __repr__(self) -> str:
        return f"<RoomSending {self._turn().turn_id}>"

    async def send(self, wanted: FileWanted, seq: Seq, connection: Connection | None) -> Reply:
        """Send it, and say to the agent what came of it."""
        text, is_error = await self._try(wanted, connection)
        answer = build_result(wanted.message, text, is_error=is_error)
        line = build_mcp_answer(wanted.request_id, answer)
        return Reply(seq=seq, request_id=wanted.request_id, line=line)

    async def _try(self, wanted: FileWanted, connection: Connection | None) -> tuple[str, bool]:
        turn, path = self._turn(), _clean(wanted.call.path)
        source = f"{turn.turn_id}:sent"
        txn = txn_id(source, _number(wanted.call.call_id))
        sent = await self._kit.store.outbox.txns_of(source)
        if txn in sent:
            return texts.SENT, False
        if len(sent) >= self._limits.sent_per_turn:
            return texts.sent_enough(self._limits.sent_per_turn), True
        if not path:
            return texts.NO_PATH, True
        try:
            if connection is None:
                return texts.NOT_NOW, True
            data = await files_of(connection).read(path, max_bytes=self._limits.max_size)
        except FileRefusedError as e:
            return texts.not_sent(path, str(e)), True
        except RunnerError as e:
            logger.bind(action="file.failed", room=turn.room_id, error=type(e).__name__).warning(
                "a file of the workspace could not be read"
            )
            return texts.NOT_NOW, True
        name = path.rpartition("/")[2]
        content = build_file_content(name, data, caption=wanted.call.caption)
        row = NewOutboxRow(
            room_id=turn.room_id,
            txn_id=txn,
            event_type=MESSAGE,
            content=content | mark_of_turn(turn),
            priority=Priority.TEXT,
            file=data,
        )
        await self._kit.store.outbox.add([row], now=self._kit.wall_clock())
        self._kit.notify_outbox()
        logger.bind(action="file.sent", room=turn.room_id, bytes=len(data)).info("a file is sent")
        return texts.SENT, False


def _clean(path: str) -> str:
    """As agents write paths of the workspace."""
    for start in ("/workspace/", "./"):
        path = path.removeprefix(start)
    return path


def _number(call_id: str) -> int:
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:12], 16)
