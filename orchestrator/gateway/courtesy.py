"""Read receipts and typing notices: the first sign that a message was seen; never durable.

Neither spends the account's message budget (Synapse's rc_message counts events only).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from orchestrator.model import EventId, RoomId
from orchestrator.ports import Homeserver

# Homeservers drop a typing notice after the 30 s that we ask for; this keeps it up without a gap.
_REFRESH_S = 20.0
# A homeserver that is slow to answer courtesies must not hold more than these.
_MAX_AT_ONCE = 8


class Courtesies:
    """What each room should show now.

    Invariant: one request at a time for a room, and only its latest wish is sent, so that what a
    slow homeserver shows in the end is what was wished last.
    """

    def __init__(self, homeserver: Homeserver, *, clock: Callable[[], float]) -> None:
        self._homeserver = homeserver
        self._clock = clock
        self._typing: dict[RoomId, float] = {}
        self._wishes: dict[RoomId, bool] = {}
        self._seen: dict[RoomId, EventId] = {}
        self._busy: set[RoomId] = set()
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return (
            f"<Courtesies typing={len(self._typing)} to_send={len(self._wishes)} "
            f"busy={len(self._busy)}>"
        )

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
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self._refresh()
                for room_id in self._next_rooms():
                    self._busy.add(room_id)
                    event_id = self._seen.pop(room_id, None)
                    wish = self._wishes.pop(room_id, None)
                    task = group.create_task(
                        self._send(room_id, event_id, wish), name=f"courtesy {room_id}"
                    )
                    task.add_done_callback(partial(self._is_back, room_id))
                await self._wait()

    def _next_rooms(self) -> list[RoomId]:
        waiting = [r for r in {**self._seen, **self._wishes} if r not in self._busy]
        return waiting[: _MAX_AT_ONCE - len(self._busy)]

    def _is_back(self, room_id: RoomId, _: asyncio.Task[None]) -> None:
        self._busy.discard(room_id)
        self._wake.set()

    async def _wait(self) -> None:
        due = min(self._typing.values(), default=None)
        delay = None if due is None else max(0.0, due - self._clock())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    def _refresh(self) -> None:
        now = self._clock()
        for room_id, due in self._typing.items():
            if due <= now:
                self._typing[room_id] = now + _REFRESH_S
                self._wishes.setdefault(room_id, True)

    async def _send(self, room_id: RoomId, event_id: EventId | None, typing: bool | None) -> None:
        # The typing notice first: it is what a person looks at.
        if typing is not None:
            await self._homeserver.set_typing(room_id, typing=typing)
        if event_id is not None:
            await self._homeserver.mark_read(room_id, event_id)
