"""A room that needs a runner while as many run as may: its turn waits, and the room is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.core import texts
from orchestrator.model import RoomId, TurnState
from orchestrator.rooms.kit import Kit
from orchestrator.store.api import TurnRow

# An idle runner gives its place up within a second or two; after this it is worth a message.
_TELL_AFTER_S = 10.0


class PlaceWait:
    """Of one room. Invariant: `tell_at` is set while a turn waits that was not told yet."""

    def __init__(self, room_id: RoomId, kit: Kit, wake: Callable[[], None]) -> None:
        self._room_id = room_id
        self._kit = kit
        self._wake = wake
        self._is_told = False
        self.tell_at: float | None = None
        """When (loop time) `take` wants to be called again, whether there is a place or not."""

    def __repr__(self) -> str:
        return f"<PlaceWait {self._room_id} tell_at={self.tell_at}>"

    async def take(self, turn: TurnRow) -> bool:
        """Whether the room has a place for a turn's runner; otherwise `wake` is called for it.

        Only the store's errors come out.
        """
        places, now = self._kit.places, asyncio.get_running_loop().time()
        if turn.state is not TurnState.QUEUED:
            places.hold(self._room_id)
        if places.ask(self._room_id, self._wake):
            self.tell_at, self._is_told = None, False
            return True
        if self.tell_at is None and not self._is_told:
            self.tell_at = now + _TELL_AFTER_S
        elif self.tell_at is not None and now >= self.tell_at:
            self.tell_at, self._is_told = None, True
            await self._kit.tell(turn, "place", texts.no_place(places.limit or 0))
        return False

    def withdraw(self) -> None:
        """No turn waits for one."""
        self.tell_at, self._is_told = None, False
        self._kit.places.withdraw(self._room_id, self._wake)
