"""Read receipts and typing notices: the first sign that a message was seen; never durable.

Neither spends the account's message budget (Synapse's rc_message counts events only).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from orchestrator.model import EventId, RoomId
from orchestrator.ports import Homeserver

# Homeservers drop a typing notice after the 30 s that we ask for; this keeps it up without a gap.
_REFRESH_S = 20.0
# A homeserver that is slow to answer courtesies must not hold more than these.
_MAX_AT_ONCE = 8


class Courtesies:
    """What each room should show now; invariant: only the latest wish for a room is sent."""

    def __init__(self, homeserver: Homeserver, *, clock: Callable[[], float]) -> None:
        self._homeserver = homeserver
        self._clock = clock
        self._typing: dict[RoomId, float] = {}
        self._wishes: dict[RoomId, bool] = {}
        self._seen: dict[RoomId, EventId] = {}
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Courtesies typing={len(self._typing)} to_send={len(self._wishes)}>"

    def seen(self, room_id: RoomId, event_id: EventId) -> None:
        """Send a read receipt soon; a later one for the same room replaces it."""
        self._seen[room_id] = event_id
        self._wake.set()

    def typing(self, room_id: RoomId, *, typing: bool) -> None:
        """Show or hide the typing notice soon, and keep it up while it is shown."""
        if typing == (room_id in self._typing):
            return
        if typing:
            self._typing[room_id] = self._clock() + _REFRESH_S
        else:
            self._typing.pop(room_id, None)
        self._wishes[room_id] = typing
        self._wake.set()

    async def run(self) -> NoReturn:
        """Send until cancelled."""
        limit = asyncio.Semaphore(_MAX_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wait()
                self._refresh()
                seen, self._seen = self._seen, {}
                wishes, self._wishes = self._wishes, {}
                for room_id in seen.keys() | wishes.keys():
                    await limit.acquire()
                    task = group.create_task(
                        self._send(room_id, seen.get(room_id), wishes.get(room_id)),
                        name=f"courtesy {room_id}",
                    )
                    task.add_done_callback(lambda _: limit.release())

    async def _wait(self) -> None:
        due = min(self._typing.values(), default=None)
        delay = None if due is None else max(0.0, due - self._clock())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _refresh(self) -> None:
        now = self._clock()
        for room_id, due in self._typing.items():
            if due <= now:
                self._typing[room_id] = now + _REFRESH_S
                self._wishes.setdefault(room_id, True)

    async def _send(self, room_id: RoomId, event_id: EventId | None, typing: bool | None) -> None:
        if event_id is not None:
            await self._homeserver.mark_read(room_id, event_id)
        if typing is not None:
            await self._homeserver.set_typing(room_id, typing=typing)
