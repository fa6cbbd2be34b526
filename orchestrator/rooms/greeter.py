"""A greeting of two lines in a room that the agent was invited to; nothing else is set there.

It is said once for a room, over restarts and further invitations, and not before it is known
whether the room is encrypted. A room that continues another one is told that, and not greeted.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.config import Config
from orchestrator.core.texts import person as texts
from orchestrator.model import RoomId
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.store.store import Store


class Greeter:
    """Invariant: `_due` are the rooms whose greeting is due in the table, after `load`."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        clock: Callable[[], float],
        notify_outbox: Callable[[], None],
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._notify_outbox = notify_outbox
        self._due: set[RoomId] = set()

    def __repr__(self) -> str:
        return f"<Greeter due={len(self._due)}>"

    async def load(self) -> None:
        """What an earlier life left to be said is said now, or with what comes of the room next."""
        self._due = set(await self._store.people.due_greetings())
        for room_id in list(self._due):
            await self.look_at(room_id)

    async def plan(self, room_id: RoomId) -> None:
        """An invitation is about to be accepted."""
        await self._store.people.plan_greeting(room_id)
        if room_id in await self._store.people.due_greetings():
            self._due.add(room_id)

    async def look_at(self, room_id: RoomId | None) -> None:
        """Something of this room was taken in: greet it, if that is due and all is known."""
        if room_id is None or room_id not in self._due:
            return
        room = await self._store.rooms.get(room_id)
        if room is None or not room.joined:
            return
        profile = self._config.profile(room_id, room.alias, room.former)
        text = texts.greeting(profile.trigger) if profile.greet else None
        rows = (
            build_notice_rows(
                room_id,
                f"{room_id}:greeting",
                text,
                max_event_bytes=self._config.gateway.max_event_bytes,
            )
            if text
            else []
        )
        if await self._store.people.greet(room_id, rows, now=self._clock()):
            self._due.discard(room_id)
            self._notify_outbox()
