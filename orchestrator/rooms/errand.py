"""A room's errands: commands that need its runner, or time, done one after the other.

Rules: they don't keep other rooms' messages waiting, as commands do that are answered at once; one
that changes the workspace is done while no turn runs, and before a turn that was asked for after
it; each ends in an answer, whatever fails. What was begun in an earlier life is begun again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.naming import txn_id
from orchestrator.core.texts import workspace as workspace_texts
from orchestrator.core.thread import conversation_in
from orchestrator.core.turn_mark import ANSWER_KEY, build_answer_mark
from orchestrator.errors import FileRefusedError, StoreError
from orchestrator.model import Priority, TurnOutcome
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.copies import RoomCopies
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import MESSAGE, build_notice_rows, build_progress_rows
from orchestrator.rooms.outgoing_file import OutFile, build_file_content
from orchestrator.rooms.room_runner import TROUBLE, RoomRunner
from orchestrator.store.api import NewOutboxRow, RoomRow, TurnRow
from orchestrator.store.errand_table import Errand, ErrandKind, end_errand

# Well above what the longest takes (a clone: 10 minutes, and it says so itself).
_MOST_S = 1200.0
EXCLUSIVE = frozenset({ErrandKind.UNDO, ErrandKind.CLONE, ErrandKind.COMPACT})
"""Those that change the workspace or a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an errand; `effect` is stored together with it."""

    text: str
    file: OutFile | None = None
    effect: Callable[[sqlite3.Connection], None] | None = None
    outcome: TurnOutcome = TurnOutcome.DONE
    """What a program learns that waits for it; REFUSED: nothing was begun."""


def refuse(text: str) -> Answer:
    """It was not begun: its form is wrong, or what it needs is not there."""
    return Answer(text=text, outcome=TurnOutcome.REFUSED)


def fail(text: str) -> Answer:
    """It was tried."""
    return Answer(text=text, outcome=TurnOutcome.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandWork:
    """What an errand is given."""

    errand: Errand
    conversation: str
    """Of the thread that it was asked for in."""
    room: RoomRow
    profile: RoomProfile
    kit: Kit
    runner: RoomRunner
    copies: RoomCopies
    connect: Callable[[], Awaitable[Connection]]
    """The room's runner, brought up where it does not run."""

    async def note_progress(self, progress: str) -> None:
        """What another life need not do again."""
        await self.kit.store.errands.note_progress(self.errand.event_id, progress)

    async def tell(self, number: int, text: str) -> None:
        """Say how it stands, in between; sparsely. The same number is said once."""
        source = f"{self.errand.event_id}:progress{number}"
        limit = self.kit.config.gateway.max_event_bytes
        rows = build_progress_rows(
            self.room.room_id,
            source,
            text,
            max_event_bytes=limit,
            reply_to=self.errand.event_id,
        )
        await self.kit.store.outbox.add(rows, now=self.kit.wall_clock())
        self.kit.notify_outbox()


Work = Callable[[ErrandWork], Awaitable[Answer]]


class Owner(Protocol):
    """The room's worker."""

    room: RoomRow

    @property
    def profile(self) -> RoomProfile:
        """How the room works now."""
        ...

    def wake(self) -> None:
        """Have it look at its runner again."""
        ...


class RoomErrands:
    """Invariant: `idle` is held while a turn runs, and while an errand needs that none does."""

    def __init__(
        self, owner: Owner, kit: Kit, copies: RoomCopies, works: Mapping[ErrandKind, Work]
    ) -> None:
        self.idle = asyncio.Lock()
        self._owner = owner
        self._kit = kit
        self._copies = copies
        self._works = works
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._doing: asyncio.Task[Answer] | None = None
        self._kind: ErrandKind | None = None

    def __repr__(self) -> str:
        return f"<RoomErrands {self._owner.room.slug} {self._kind}>"

    def wake(self) -> None:
        """There is a new one."""
        self._wake.set()

    @property
    def is_at_work(self) -> bool:
        """Whether one is being done."""
        return self._doing is not None

    @property
    def can_cancel(self) -> bool:
        """Whether one is being done that can be stopped: not one that changes files halfway."""
        return self._doing is not None and self._kind is not ErrandKind.UNDO

    def cancel(self) -> None:
        """Stop it; it is answered so."""
        if self._doing is not None and self.can_cancel:
            self._doing.cancel()

    async def settle(self, turn: TurnRow, *, is_shared: Callable[[], bool]) -> None:
        """Until those that the turn must wait for are done, and none needs that no turn runs.

        `is_shared`: it is a turn that holds `idle`.
        """
        while (self.idle.locked() and not is_shared()) or await self._is_awaited(turn):
            self._changed.clear()
            await self._changed.wait()

    async def _is_awaited(self, turn: TurnRow) -> bool:
        return await self._kit.store.errands.is_before(turn.turn_id, EXCLUSIVE)

    async def run(self, runner: RoomRunner) -> NoReturn:
        """Do them, until cancelled."""
        while True:
            self._wake.clear()
            errands = await self._kit.store.errands.open_in(self._owner.room.room_id)
            if not errands:
                await self._wake.wait()
                continue
            await self._do(errands[0], runner)
            self._changed.set()
            self._owner.wake()

    async def _do(self, errand: Errand, runner: RoomRunner) -> None:
        is_connected = runner.connection is not None and not runner.connection.lost
        is_exclusive = errand.kind in EXCLUSIVE
        if is_exclusive and await self._kit.store.errands.is_preceded(errand):
            answer = refuse(workspace_texts.BUSY[errand.kind])
        elif is_exclusive or not is_connected:
            async with self.idle:
                answer = await self._answer(errand, runner)
        else:
            answer = await self._answer(errand, runner)
        rows, now = self._rows(errand, answer), self._kit.wall_clock()

        def work(db: sqlite3.Connection) -> None:
            if answer.effect is not None:
                answer.effect(db)
            end_errand(db, errand.event_id, rows, now=now)

        await self._kit.store.database.run(work)
        logger.bind(action=f"errand.{errand.kind}", room=errand.room_id).info("done")
        self._kit.notify_outbox()

    async def _answer(self, errand: Errand, runner: RoomRunner) -> Answer:
        thread = await self._kit.store.inbox.thread_of(errand.event_id, errand.room_id)
        work = ErrandWork(
            errand=errand,
            conversation=conversation_in(thread),
            room=self._owner.room,
            profile=self._owner.profile,
            kit=self._kit,
            runner=runner,
            copies=self._copies,
            connect=lambda: self._connect(runner),
        )
        self._kind = errand.kind
        try:
            async with asyncio.TaskGroup() as group:
                self._doing = group.create_task(self._guarded(work), name=f"errand {errand.kind}")
                await asyncio.wait([self._doing])
                if self._doing.cancelled():
                    text = workspace_texts.ERRAND_CANCELLED
                    return Answer(text=text, outcome=TurnOutcome.CANCELLED)
            return self._doing.result()
        except* StoreError as errors:
            raise errors.exceptions[0] from None
        finally:
            self._doing = self._kind = None

    async def _guarded(self, work: ErrandWork) -> Answer:
        """Its answer, whatever happens; only the store's errors come out."""
        try:
            async with asyncio.timeout(_MOST_S):
                return await self._works[work.errand.kind](work)
        except FileRefusedError as e:
            return fail(workspace_texts.not_now(str(e)))
        except (TimeoutError, *TROUBLE) as e:
            logger.bind(action="errand.trouble", error=type(e).__name__, why=str(e)).warning(
                "the room's runner can't be used"
            )
            return fail(workspace_texts.RUNNER_TROUBLE)
        except OSError as e:
            logger.bind(action="errand.host", error=type(e).__name__).error("the host failed")
            return fail(workspace_texts.HOST_TROUBLE)
        except StoreError:
            raise
        except Exception as e:  # noqa: BLE001 - contains one command's bugs in its answer
            log = logger.bind(action="errand.failed", error=type(e).__name__)
            log.opt(exception=e).error("a command failed")
            return fail(texts.FAILED_INSIDE)

    async def _connect(self, runner: RoomRunner) -> Connection:
        before = runner.connection
        if before is not None and not before.lost and not self.idle.locked():
            return before
        await self._kit.places.wait(self._owner.room.room_id)
        await runner.connect(busy=not self.idle.locked())
        connection = runner.connection
        if connection is None:
            msg = "the runner was let go"
            raise TROUBLE[0](msg)
        if connection is not before:
            # The worker may wait on the connection of before.
            self._changed.set()
            self._owner.wake()
            if before is not None:
                before.nudge()
        return connection

    def _rows(self, errand: Errand, answer: Answer) -> list[NewOutboxRow]:
        rows = build_notice_rows(
            errand.room_id,
            f"{errand.event_id}:command",
            answer.text,
            max_event_bytes=self._kit.config.gateway.max_event_bytes,
            reply_to=errand.event_id,
            more_follows=answer.file is not None,
            outcome=answer.outcome,
        )
        if answer.file is None:
            return rows
        return [*rows, _file_row(errand, answer.file, answer.outcome)]


def _file_row(errand: Errand, file: OutFile, outcome: TurnOutcome) -> NewOutboxRow:
    return NewOutboxRow(
        room_id=errand.room_id,
        txn_id=txn_id(f"{errand.event_id}:file", 0),
        event_type=MESSAGE,
        content={
            **build_file_content(file),
            "m.relates_to": {"m.in_reply_to": {"event_id": errand.event_id}},
            ANSWER_KEY: build_answer_mark(errand.event_id, final=True, outcome=outcome),
        },
        priority=Priority.NOTICE,
        file=file.waiting,
    )
