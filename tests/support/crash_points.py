"""Where a life of the rooms may end: at each way to the database, to the engine, to a runner."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from orchestrator.errors import EngineUnavailableError
from orchestrator.ports import ByteStream
from orchestrator.runners.memory_backend import MemoryBackend
from orchestrator.store.database import Database
from orchestrator.store.failure import StoreTrouble

T = TypeVar("T")


@dataclass(slots=True)
class CrashPoints:
    """Counts the places where a life may end; at `crash_at` it ends there."""

    crash_at: int = 0
    count: int = 0
    crashed: asyncio.Event = field(default_factory=asyncio.Event)
    marks: dict[int, asyncio.Event] = field(default_factory=dict)
    """Set when so many places were passed."""

    async def pass_by(self) -> None:
        """One such place."""
        self.count += 1
        if self.count in self.marks:
            self.marks[self.count].set()
        if self.crashed.is_set():
            raise asyncio.CancelledError  # the dead do nothing while they are taken apart
        if self.count == self.crash_at:
            self.crashed.set()
            await asyncio.Event().wait()


class CrashingDatabase:
    """A life's way to the database."""

    def __init__(self, database: Database, points: CrashPoints) -> None:
        self._database = database
        self._points = points
        self.fail: Callable[[], BaseException | None] = lambda: None
        self.is_full = False

    @property
    def waited_s(self) -> float:
        """As `Database.waited_s`."""
        return self._database.waited_s

    @property
    def trouble(self) -> StoreTrouble | None:
        """As `Database.trouble`."""
        return self._database.trouble

    async def run(self, work: Callable[..., T]) -> T:
        """As `Database.run`, with a place to die before and after."""
        await self._points.pass_by()
        if (error := self.fail()) is not None:
            raise error
        result = await self._database.run(partial(self._write, work))
        await self._points.pass_by()
        return result

    def _write(self, work: Callable[..., T], db: sqlite3.Connection) -> T:
        """On a full disk what only reads works, and what writes fails as SQLite says it."""
        before = db.total_changes
        result = work(db)
        if self.is_full and db.total_changes > before:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return result


@dataclass(slots=True)
class _CrashingStream:
    inner: ByteStream
    points: CrashPoints

    async def read(self) -> bytes:
        return await self.inner.read()

    async def write(self, data: bytes) -> None:
        await self.points.pass_by()
        await self.inner.write(data)
        await self.points.pass_by()


class CrashingBackend:
    """A life's way to the engine, which can be away, and cut what it attached."""

    def __init__(self, inner: MemoryBackend, points: CrashPoints) -> None:
        self.inner = inner
        self.installation = inner.installation
        self.is_away = False
        self.calls: list[str] = []
        self.fail_next: dict[str, list[BaseException]] = {}
        self._points = points
        self._attached: set[asyncio.Event] = set()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            await self._check(name)
            result = await getattr(self.inner, name)(*args, **options)
            await self._points.pass_by()
            return result

        return call

    async def _check(self, name: str) -> None:
        self.calls.append(name)
        await self._points.pass_by()
        if self.is_away:
            raise EngineUnavailableError
        if self.fail_next.get(name):
            raise self.fail_next[name].pop(0)

    def attach(self, name: str) -> AbstractAsyncContextManager[ByteStream]:
        """As the port says."""
        return self._attach(name)

    @asynccontextmanager
    async def _attach(self, name: str) -> AsyncIterator[ByteStream]:
        await self._check("attach")
        async with self.inner.attach(name) as stream:
            cut = asyncio.Event()
            self._attached.add(cut)
            try:
                yield _CuttableStream(
                    cast("ByteStream", _CrashingStream(stream, self._points)), cut
                )
            finally:
                self._attached.discard(cut)

    def cut(self) -> None:
        """End every attached stream, as an engine that restarts does."""
        for cut in self._attached:
            cut.set()

    def lose(self) -> None:
        """The engine is gone, streams included."""
        self.is_away = True
        self.cut()


@dataclass(slots=True)
class _CuttableStream:
    inner: ByteStream
    is_cut: asyncio.Event

    async def read(self) -> bytes:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self.inner.read())
            cutting = group.create_task(self.is_cut.wait())
            await asyncio.wait([reading, cutting], return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            cutting.cancel()
        return b"" if reading.cancelled() or self.is_cut.is_set() else reading.result()

    async def write(self, data: bytes) -> None:
        if not self.is_cut.is_set():  # what is written into a dead connection is just gone
            await self.inner.write(data)
