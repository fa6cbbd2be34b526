"""Files that the agent sends: read in its runner, stored as messages of its turn, each once.

The bytes come through the program in the room's runner, so that nothing outside of the workspace,
and nothing behind a link, can be named. A call that is repeated after a crash meets its own row.
A file that comes slowly is waited for beside the turn, so that its frames are taken in meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Protocol

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
from orchestrator.rooms.outgoing_file import build_file_content, read_out_file
from orchestrator.rooms.tool_asking import Reply
from orchestrator.store.api import NewOutboxRow, TurnRow

# Calls at once; each holds what was asked, and they are done one after the other.
_MOST_OPEN = 16


class Starter(Protocol):
    """Starts a task that ends with the room's worker at the latest."""

    def __call__(
        self, work: Coroutine[object, object, Reply | Exception], *, name: str
    ) -> asyncio.Task[Reply | Exception]:
        """The task."""
        ...


class RoomSending:
    """Of one turn. Invariant: one file at a time; what was sent is in the outbox."""

    def __init__(
        self,
        kit: Kit,
        limits: FilesConfig,
        turn: Callable[[], TurnRow],
        *,
        start: Starter,
        wake: Callable[[], None],
    ) -> None:
        self._kit = kit
        self._limits = limits
        self._turn = turn
        self._start = start
        self._wake = wake
        self._one = asyncio.Lock()
        self._tasks: dict[Seq, tuple[str, asyncio.Task[Reply | Exception]]] = {}

    def __repr__(self) -> str:
        return f"<RoomSending {self._turn().turn_id} open={len(self._tasks)}>"

    @property
    def is_due(self) -> bool:
        """Whether an answer can be taken."""
        return any(task.done() for _, task in self._tasks.values())

    def begin(self, wanted: FileWanted, seq: Seq, connection: Connection) -> Reply | None:
        """Begin to send it; its answer, where there is one at once."""
        if len(self._tasks) >= _MOST_OPEN:
            return _answer(wanted, seq, texts.TOO_MANY_CALLS, is_error=True)
        work = self._send(wanted, seq, connection)
        self._tasks[seq] = (wanted.request_id, self._start(work, name=f"send file {seq}"))
        return None

    def take_done(self) -> list[Reply]:
        """What is to be said to the agent of those that are done.

        Raises:
            StoreError: one could not be stored.
        """
        replies: list[Reply] = []
        for seq, (_, task) in list(self._tasks.items()):
            if not task.done():
                continue
            del self._tasks[seq]
            result = task.result()
            if isinstance(result, Exception):
                raise result
            replies.append(result)
        return replies

    def withdraw(self, request_id: str) -> None:
        """The CLI took the call back. Idempotent."""
        for seq, (known_id, task) in list(self._tasks.items()):
            if known_id == request_id:
                del self._tasks[seq]
                task.cancel()

    async def close(self) -> None:
        """Send nothing more. Idempotent."""
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _send(
        self, wanted: FileWanted, seq: Seq, connection: Connection
    ) -> Reply | Exception:
        """Send it, and say to the agent what came of it."""
        try:
            async with self._one:
                text, is_error = await self._try(wanted, connection)
        except Exception as e:  # noqa: BLE001 -- raised again in the turn that it is of
            return e
        finally:
            self._wake()
        return _answer(wanted, seq, text, is_error=is_error)

    async def _try(self, wanted: FileWanted, connection: Connection) -> tuple[str, bool]:
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
            limit = self._limits.max_size
            file = await read_out_file(files_of(connection), path, max_bytes=limit)
        except FileRefusedError as e:
            return texts.not_sent(path, str(e)), True
        except RunnerError as e:
            logger.bind(action="file.failed", room=turn.room_id, error=type(e).__name__).warning(
                "a file of the workspace could not be read"
            )
            return texts.NOT_NOW, True
        content = build_file_content(file, caption=wanted.call.caption)
        row = NewOutboxRow(
            room_id=turn.room_id,
            txn_id=txn,
            event_type=MESSAGE,
            content=content | mark_of_turn(turn),
            priority=Priority.TEXT,
            file=file.waiting,
        )
        await self._kit.store.outbox.add([row], now=self._kit.wall_clock())
        self._kit.notify_outbox()
        size = len(file.data)
        logger.bind(action="file.sent", room=turn.room_id, bytes=size).info("a file is sent")
        return texts.SENT, False


def _answer(wanted: FileWanted, seq: Seq, text: str, *, is_error: bool) -> Reply:
    answer = build_result(wanted.message, text, is_error=is_error)
    line = build_mcp_answer(wanted.request_id, answer)
    return Reply(seq=seq, request_id=wanted.request_id, line=line)


def _clean(path: str) -> str:
    """As agents write paths of the workspace."""
    for start in ("/workspace/", "./"):
        path = path.removeprefix(start)
    return path


def _number(call_id: str) -> int:
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:12], 16)
