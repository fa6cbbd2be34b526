"""The async shell of the inbound windows: one task that closes each window when it is due.

Rules:
- one window for each (room, thread, sender); it becomes one turn;
- turns of a room follow the arrival of their first message: of two overlapping windows the one
  that opened first closes first. The other waits for it, and goes on collecting; that is never
  longer than its own `window_s`, for the first one closes within `window_s` of an earlier start;
- closing is tried again, with a growing wait, until it succeeds. Meanwhile only that room waits,
  and its items are still NEW in the store: a restart takes them up again.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NoReturn, TypeVar

from loguru import logger

from orchestrator.core.batching import InboundWindow
from orchestrator.errors import StoreError
from orchestrator.gateway.clock import Clock, SteadyClock, wait_for_event
from orchestrator.model import EventId, RoomId, UserId

# Closing is one short transaction; the store's own busy timeout is below this.
CLOSE_TIMEOUT_S = 30.0
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
# Windows that one room can have waiting. Reached only while closing fails: otherwise they are as
# many as senders within 2 s.
MAX_WINDOWS_PER_ROOM = 64
# Typing senders looked at in one room; of a room with more nobody's typing holds a window open.
MAX_TYPING = 1000

ItemT = TypeVar("ItemT")
CloseWindow = Callable[[RoomId, UserId, tuple[ItemT, ...]], Awaitable[None]]


@dataclass(slots=True)
class _Batch(Generic[ItemT]):
    """A window, and once it was due, what was in it."""

    sender: UserId
    thread: EventId | None
    window: InboundWindow[ItemT]
    items: tuple[ItemT, ...] = ()
    failures: int = 0
    retry_at: float = 0.0

    @property
    def is_open(self) -> bool:
        return not self.items and not self.window.is_full

    def due_at(self) -> float:
        deadline = self.window.next_deadline()
        return self.retry_at if deadline is None else deadline


class InboundGate(Generic[ItemT]):
    """Collects messages into windows and hands each due window to `close_window`.

    Invariant: an item is in exactly one batch until its close succeeded; a room's batches are
    closed one at a time, in the order in which they were opened.
    """

    def __init__(
        self,
        close_window: CloseWindow[ItemT],
        *,
        quiet_s: float,
        window_s: float,
        clock: Clock | None = None,
    ) -> None:
        """`close_window` is called once for each window, and again after a failure or a restart.

        So it must be idempotent (a turn's id comes from its first message), and short: it is one
        transaction, and other rooms' windows wait for it. It is cut off after CLOSE_TIMEOUT_S.
        """
        self._close_window = close_window
        self._quiet_s = quiet_s
        self._window_s = window_s
        self._clock = clock or SteadyClock()
        self._rooms: dict[RoomId, deque[_Batch[ItemT]]] = {}
        self._typing: dict[RoomId, frozenset[UserId]] = {}
        self._changed = asyncio.Event()
        self._closing = asyncio.Lock()

    def add(
        self, room: RoomId, sender: UserId, item: ItemT, *, thread: EventId | None = None
    ) -> bool:
        """Put an item into the sender's window, opening one where none is open.

        Returns:
            False when the room has MAX_WINDOWS_PER_ROOM windows waiting: the item was not taken. It
            is NEW in the store, and is offered again after a restart.
        """
        now = self._clock()
        batches = self._rooms.setdefault(room, deque())
        own = (b for b in batches if (b.sender, b.thread) == (sender, thread) and b.is_open)
        batch = next(own, None)
        if batch is not None:
            batch.window.add(item, now=now)
        elif len(batches) < MAX_WINDOWS_PER_ROOM:
            window = self._open_window(room, sender, item, now)
            batches.append(_Batch(sender=sender, thread=thread, window=window))
        else:
            logger.bind(action="inbound.refuse", room=room).error("the room's windows are full")
            return False
        self._changed.set()
        return True

    def typing(self, room: RoomId, senders: Collection[UserId]) -> None:
        """All who are typing in the room now; who isn't among them isn't typing."""
        now = self._clock()
        typing = frozenset(islice(senders, MAX_TYPING))
        self._typing.pop(room, None)
        if typing:
            self._typing[room] = typing
        for batch in self._rooms.get(room, ()):
            batch.window.typing(is_typing=batch.sender in typing, now=now)
        self._changed.set()

    async def run(self) -> NoReturn:
        """Close windows as they become due, until cancelled. After a cancel nothing is lost.

        Raises:
            StoreError: the database failed; every other failure is contained in its room.
        """
        while True:
            self._changed.clear()
            async with self._closing:
                for room in list(self._rooms):
                    await self._close_due(room)
            await wait_for_event(self._changed, until=self._next_deadline(), clock=self._clock)

    async def flush(self) -> int:
        """Close every window now, once; for the shutdown. Returns how many items are left open.

        Those are NEW in the store. Safe while `run` runs.
        """
        async with self._closing:
            for room in list(self._rooms):
                await self._close_due(room, at_once=True)
        return sum(len(b.items) for batches in self._rooms.values() for b in batches)

    async def close_room(self, room: RoomId) -> None:
        """Close the room's windows now: what follows is about what was sent before it.

        One whose closing fails is tried again by `run`, as usual.
        """
        async with self._closing:
            if room in self._rooms:
                await self._close_due(room, at_once=True)

    def __repr__(self) -> str:
        waiting = sum(len(batches) for batches in self._rooms.values())
        return f"InboundGate({waiting} windows in {len(self._rooms)} rooms)"

    def _open_window(
        self, room: RoomId, sender: UserId, item: ItemT, now: float
    ) -> InboundWindow[ItemT]:
        return InboundWindow(
            item,
            now=now,
            is_typing=sender in self._typing.get(room, ()),
            quiet_s=self._quiet_s,
            window_s=self._window_s,
        )

    def _next_deadline(self) -> float | None:
        return min(
            (batches[0].due_at() for batches in self._rooms.values() if batches), default=None
        )

    async def _close_due(self, room: RoomId, *, at_once: bool = False) -> None:
        batches = self._rooms[room]
        while batches:
            batch = batches[0]
            if not at_once and batch.due_at() > self._clock():
                return
            batch.items = batch.items or batch.window.take()
            if not await self._close(room, batch):
                self._freeze(batches, at_once=at_once)
                return
            batches.popleft()
        del self._rooms[room]

    def _freeze(self, batches: deque[_Batch[ItemT]], *, at_once: bool) -> None:
        """Count what a flush leaves behind a failed batch; nothing joins those windows any more."""
        for batch in batches if at_once else ():
            batch.items = batch.items or batch.window.take()

    async def _close(self, room: RoomId, batch: _Batch[ItemT]) -> bool:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._close_window(room, batch.sender, batch.items)
        except Exception as error:  # contains the room: the messages of others go on
            if isinstance(error, StoreError):
                raise
            self._postpone(room, batch, error)
            return False
        return True

    def _postpone(self, room: RoomId, batch: _Batch[ItemT], error: Exception) -> None:
        retry_s = min(FIRST_RETRY_S * 2 ** min(batch.failures, 10), MAX_RETRY_S)
        batch.failures += 1
        batch.retry_at = self._clock() + retry_s
        # The error's text may hold a message's; its kind and place don't.
        logger.bind(
            action="inbound.retry",
            room=room,
            items=len(batch.items),
            error=type(error).__name__,
            trace="".join(traceback.format_tb(error.__traceback__)),
            retry_s=retry_s,
        ).error("closing an inbound window failed")
