"""How many runners start at once: after a restart all rooms may have a message at the same moment.

A start makes a container, and a process in it that has to come up; all at once are done no sooner
than a few at a time, and the first comes last. Who works already waits for nothing here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator import meters
from orchestrator.errors import StartWithdrawnError


class RunnerStarts:
    """Invariant: at most `limit` start; who waits comes in in the order of asking."""

    def __init__(self, limit: int | None) -> None:
        """`limit`: so many at once; None: any number."""
        self._limit = limit
        self._inside = 0
        self._queue: deque[asyncio.Future[bool]] = deque()

    def __repr__(self) -> str:
        return f"<RunnerStarts {self._inside} of {self._limit} waiting={self.waiting}>"

    @property
    def inside(self) -> int:
        """How many start now."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many wait to start."""
        return sum(not ticket.done() for ticket in self._queue)

    @property
    def is_busy(self) -> bool:
        """Whether anybody starts, or waits to."""
        return self._inside > 0 or self.waiting > 0

    @asynccontextmanager
    async def permit(self, withdrawn: asyncio.Event | None = None) -> AsyncIterator[StartPermit]:
        """A permit that is not taken yet; at the end, however it comes, it is given back.

        `withdrawn`: set when nobody wants the start any more.
        """
        permit = StartPermit(self, withdrawn or asyncio.Event())
        try:
            yield permit
        finally:
            permit.give_back()

    async def enter(self, withdrawn: asyncio.Event) -> bool:
        """Wait for a place, and have it until `leave`; False: withdrawn meanwhile. Cancel-safe."""
        if self._limit is None or (self._inside < self._limit and not self.waiting):
            self._inside += 1
            return True
        meters.START_WAITS.inc()
        ticket: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append(ticket)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_withdraw(ticket, withdrawn), name="start withdrawn")
                await asyncio.shield(ticket)
                watch.cancel()
        except BaseException:
            if ticket.done() and ticket.result():
                self.leave()
            raise
        finally:
            ticket.cancel()
            if ticket in self._queue:
                self._queue.remove(ticket)
        return ticket.result()

    def leave(self) -> None:
        """Somebody's start is over: the next one's begins."""
        self._inside -= 1
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                self._inside += 1
                ticket.set_result(True)
                return


class StartPermit:
    """Of one start. Invariant: `taken_at` is set while it counts."""

    def __init__(self, starts: RunnerStarts, withdrawn: asyncio.Event) -> None:
        self._starts = starts
        self._withdrawn = withdrawn
        self.taken_at: float | None = None
        """When (`time.monotonic`) the start could begin."""

    def __repr__(self) -> str:
        return f"<StartPermit taken_at={self.taken_at} of {self._starts!r}>"

    async def take(self) -> None:
        """Wait until the start may begin. Idempotent.

        Raises:
            StartWithdrawnError: nobody wants it any more.
        """
        if self.taken_at is not None:
            return
        if not await self._starts.enter(self._withdrawn):
            raise StartWithdrawnError
        self.taken_at = time.monotonic()

    def give_back(self) -> None:
        """The start is over, or has failed. Idempotent."""
        if self.taken_at is not None:
            self.taken_at = None
            self._starts.leave()


async def _withdraw(ticket: asyncio.Future[bool], withdrawn: asyncio.Event) -> None:
    await withdrawn.wait()
    if not ticket.done():
        ticket.set_result(False)
