"""What a connection brings for one of a room's sessions, for whoever follows a turn in it.

Frames of other sessions are of no use there, but how far the stream has come is: a turn's
acknowledgement counts all of it. So what is passed over comes as one mark, however much it was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from orchestrator.errors import AiAgentChatError
from orchestrator.model import Seq
from orchestrator.runners.event import Applied, Refused, UpEvent

# Frames that a turn has not looked at; behind it, reading from the runner stops.
MAILBOX_FRAMES = 256


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The connection ended; nothing more comes from it."""

    error: AiAgentChatError


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Everything up to this frame was for others."""

    q: Seq


Item = UpEvent | LinkLost
LineItem = UpEvent | PassedOver | LinkLost


class Line:
    """Of one session. Invariant: items come in order, and after a LinkLost none follows."""

    def __init__(self, session: str, *, start: Seq) -> None:
        self.session = session
        self.acked = start
        """How far whoever listens needs no replay."""
        self._items: deque[LineItem] = deque()
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_nudged = False

    def __repr__(self) -> str:
        return f"<Line {self.session} waiting={len(self._items)} acked={self.acked}>"

    def is_for(self, event: UpEvent) -> bool:
        """Whether its listener is told of the frame: its session's, and news of commands."""
        is_news = isinstance(event, Applied | Refused)
        return is_news or getattr(event, "session", None) == self.session

    def pass_over(self, q: Seq) -> None:
        """A frame that is for others."""
        if self._items and isinstance(self._items[-1], PassedOver):
            self._items.pop()
        self._items.append(PassedOver(q))
        self._filled.set()

    def put_now(self, item: LineItem) -> None:
        """An item, whether or not there is room."""
        self._items.append(item)
        self._filled.set()
        if len(self._items) >= MAILBOX_FRAMES:
            self._has_room.clear()

    async def put(self, item: LineItem) -> None:
        """An item, once there is room."""
        await self._has_room.wait()
        self.put_now(item)

    def close(self) -> None:
        """Nobody listens any more."""
        self._items.clear()
        self._has_room.set()

    async def receive(self, deadline: float | None) -> LineItem | None:
        """The next item, or None at the deadline (loop time) or after a `nudge`. Cancel-safe."""
        try:
            async with asyncio.timeout_at(deadline):
                while not self._items and not self._is_nudged:
                    self._filled.clear()
                    await self._filled.wait()
        except TimeoutError:
            return None
        is_nudged, self._is_nudged = self._is_nudged, False
        if is_nudged and not self._items:
            return None
        item = self._items.popleft()
        if len(self._items) < MAILBOX_FRAMES:
            self._has_room.set()
        return item

    def nudge(self) -> None:
        """Make a `receive` return None now, or the next one where none waits."""
        self._is_nudged = True
        self._filled.set()
