"""Keeps the gateway's list of what was granted as the store has it, to the second of its end.

Rules: until a room was read from the store, nothing is granted in it. The end of a grant needs no
disk and no other task: what is in memory is enough for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from loguru import logger

from orchestrator.core.grant import SEEN_EVERY_S, Grant, GrantBook
from orchestrator.gateway.clock import wait_for_event
from orchestrator.model import RoomId, RoomSlug
from orchestrator.rooms.kit import Kit


class GrantKeeper:
    """Invariant: the gateway was given what the book has."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._book = GrantBook()
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._is_loaded = asyncio.Event()

    def __repr__(self) -> str:
        return f"<GrantKeeper {self._book!r}>"

    async def run(self) -> NoReturn:
        """Give the gateway what is stored, then take each grant away when it ends.

        Only the store's errors come out, in groups as often as not.
        """
        for room_id in await self._kit.store.grants.begin_life(now=self._kit.wall_clock()):
            await self.refresh(room_id)
        self._is_loaded.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note_seen(), name="egress grants seen")
            await self._end_in_time()

    async def _note_seen(self) -> NoReturn:
        """So that a clock which is set back between two lives gives no grant another hour."""
        while True:
            if self._book.next_deadline() is not None:
                await self._kit.store.grants.note_seen(now=self._kit.wall_clock())
            await asyncio.sleep(SEEN_EVERY_S)

    async def _end_in_time(self) -> NoReturn:
        while True:
            self._changed.clear()
            now = self._kit.wall_clock()
            for slug, grant in self._book.take_due(now):
                self._give(slug)
                logger.bind(
                    action="egress.grant_ended",
                    room=grant.room_id,
                    grant=grant.grant_id,
                    host=str(grant.rule),
                ).info("a grant's time is over")
            await wait_for_event(
                self._changed, until=self._book.next_deadline(), clock=self._kit.wall_clock
            )

    async def held(self, room_id: RoomId) -> Sequence[Grant]:
        """What was granted in a room and holds; waits until `run` has read all of it."""
        await self._is_loaded.wait()
        return self._book.of_room(room_id)

    def drop(self, room_id: RoomId) -> None:
        """The store has ended all that was granted in a room."""
        for slug in self._book.take_room(room_id):
            self._give(slug)

    async def refresh(self, room_id: RoomId) -> RoomSlug | None:
        """What holds in the room may have changed; its name on this host. Idempotent."""
        # One at a time: what was read first must not be given last.
        async with self._reading:
            room = await self._kit.store.rooms.get(room_id)
            if room is None:
                return None
            is_ours = room.joined and room.moved_seq is None
            now = self._kit.wall_clock()
            self._book.put(
                room.slug,
                await self._kit.store.grants.live(room_id, now=now) if is_ours else (),
            )
            self._give(room.slug)
            self._changed.set()
            return room.slug

    def _give(self, slug: RoomSlug) -> None:
        self._kit.doors.set_grants(slug, self._book.rules(slug, self._kit.wall_clock()))
