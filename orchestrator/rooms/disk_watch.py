"""What a room's disk holds: looked at around each turn, and told when it is full.

Rules: the room is told once when its disk is full, and again only after it was not. Where the
kernel keeps the limit nothing else is done. Where files are only counted, they are counted all the
time, and what grows past the limit is stopped: the running turn, or what an idle runner has left
running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.disk import Allowance, DiskUsage, FullDisk
from orchestrator.errors import AiAgentChatError
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.store.api import RoomRow

# Between two looks at what must be counted: a tenth of the time at most goes into counting.
_EVERY_S = 5.0
_REST = 9
# The room's next turn waits for it. A file system answers within a millisecond; what must be
# counted and takes longer is looked at beside the turns.
_LOOK_S = 2.0


class DiskWatch:
    """One room's. Invariant: the allowance is that of the running turn, or of the idle room."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._full = FullDisk()
        self._allowance = Allowance()
        self._is_counted = asyncio.Event()
        self._took_s = 0.0

    def __repr__(self) -> str:
        return f"<DiskWatch {self._full!r} {self._allowance!r}>"

    async def run(self, room: RoomRow, look: Callable[[], Awaitable[None]]) -> NoReturn:
        """Have somebody look every few seconds where files are only counted, until cancelled.

        A disk that is full from an earlier life was told then; the next turn is told again.
        """
        await self.look(room, tells=False)
        while True:
            await self._is_counted.wait()
            await asyncio.sleep(max(_EVERY_S, _REST * self._took_s))
            await look()

    async def begin(self, room: RoomRow) -> DiskUsage | None:
        """A turn begins or has ended; what it finds is what it may have."""
        self._allowance = Allowance()
        try:
            async with asyncio.timeout(_LOOK_S):
                usage = await self.look(room)
        except TimeoutError:
            return None
        if usage is not None:
            self.is_exceeded(usage)
        return usage

    async def look(self, room: RoomRow, *, tells: bool = True) -> DiskUsage | None:
        """Look, and tell the room what it has to know; None: nothing can be known now."""
        started_at = asyncio.get_running_loop().time()
        try:
            usage = await self._kit.housing.disk_usage(room)
        except (AiAgentChatError, OSError) as e:
            logger.bind(action="disk.look", room=room.room_id, error=type(e).__name__).warning(
                "a room's disk could not be looked at"
            )
            return None
        self._note(usage, asyncio.get_running_loop().time() - started_at)
        shortage = self._full.note(usage) if tells and usage is not None else None
        if usage is not None and shortage is not None:
            await self.tell(room, "disk", texts.disk_full(shortage, usage))
        return usage

    def _note(self, usage: DiskUsage | None, took_s: float) -> None:
        self._took_s = took_s
        if usage is not None and not usage.is_enforced:
            self._is_counted.set()
        else:
            self._is_counted.clear()

    def is_exceeded(self, usage: DiskUsage) -> bool:
        """Whether the room has to be stopped by us."""
        return self._allowance.is_exceeded(usage)

    async def tell(self, room: RoomRow, topic: str, text: str) -> None:
        """A notice for the room."""
        now = self._kit.wall_clock()
        logger.bind(action="disk.told", room=room.room_id, topic=topic).warning("told the room")
        limit = self._kit.config.gateway.max_event_bytes
        rows = build_notice_rows(
            room.room_id, f"{room.room_id}:{topic}:{now}", text, max_event_bytes=limit
        )
        await self._kit.store.outbox.add(rows, now=now)
        self._kit.notify_outbox()
