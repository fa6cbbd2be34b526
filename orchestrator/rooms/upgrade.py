"""A room upgrade: the conversation goes on in the room that replaces its room.

Rule: a room is followed only where both say so: a tombstone in the old one, by somebody who may use
the agent, and the creation of the new one, which its homeserver vouches for. Either can arrive
first; each is stored, and whichever completes the two makes the move.
"""

from __future__ import annotations

from typing import Protocol

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.core.command import Permission
from orchestrator.core.policy import RoomEvent
from orchestrator.errors import RequestRefusedError
from orchestrator.model import RoomId
from orchestrator.ports import Homeserver
from orchestrator.rooms.patience import Patience
from orchestrator.rooms.people import People
from orchestrator.store.api import InboxRow, InboxState, Replacement
from orchestrator.store.store import Store


class Mover(Protocol):
    """Who has the rooms' workers."""

    async def move(self, move: Replacement) -> None:
        """The old room's conversation goes on in the new one, a running turn included."""
        ...


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Tombstone(_Outside):
    replacement_room: str


class _Predecessor(_Outside):
    room_id: str


class _Creation(_Outside):
    predecessor: _Predecessor


class Upgrades:
    """Invariant: a tombstone's row is NEW until the homeserver has said whether we may join."""

    def __init__(
        self,
        *,
        people: People,
        autojoin: str,
        homeserver: Homeserver,
        store: Store,
        rooms: Mover,
        patience: Patience,
    ) -> None:
        self._people = people
        self._autojoin = autojoin
        self._homeserver = homeserver
        self._store = store
        self._rooms = rooms
        self._patience = patience

    def __repr__(self) -> str:
        return f"<Upgrades {self._patience!r}>"

    async def note_tombstone(
        self, row: InboxRow, room_id: RoomId, event: RoomEvent, *, now: float
    ) -> bool:
        """A room says which one replaces it. False: the row is marked later, by us."""
        new = _replacement(event)
        if new is None or new == room_id:
            return True
        log = logger.bind(room=room_id, new=new, sender=event.sender)
        if not await self._people.may(Permission.RUN, room_id, event.sender):
            log.bind(action="room.upgrade_ignored").warning(
                "a room was replaced by somebody who may not use the agent; not followed"
            )
            return True
        log.bind(action="room.upgrade").info("a room was replaced; following it")
        await self._store.rooms.note_replaced_by(room_id, new, now=now)
        await self.try_move(room_id)
        known = await self._store.rooms.get(new)
        if (known is not None and known.joined) or self._autojoin != "allowed_users":
            return True
        self._patience.start(self._join(row, new), f"follow to {new}")
        return False

    async def note_creation(self, room_id: RoomId, event: RoomEvent, *, now: float) -> None:
        """A room says which one it replaces."""
        old = _predecessor(event)
        if old is None or old == room_id:
            return
        await self._store.rooms.note_replaces(room_id, old)
        await self._look_for_tombstone(old, now=now)
        await self.try_move(room_id)

    async def _look_for_tombstone(self, old: RoomId, *, now: float) -> None:
        """Rooms are handled side by side: the old one's tombstone may wait behind its messages.

        By then the new room would have a turn, and a conversation of its own.
        """
        for row in await self._store.inbox.new_tombstones(old):
            try:
                event = RoomEvent.model_validate_json(row.raw)
            except ValidationError:
                continue
            if event.type == "m.room.tombstone" and event.state_key == "":
                await self.note_tombstone(row, old, event, now=now)

    async def try_move(self, room_id: RoomId) -> None:
        """Make the move that the room takes part in, if nothing is missing any more."""
        move = await self._store.find_replacement(room_id)
        if move is not None:
            await self._rooms.move(move)

    async def _join(self, row: InboxRow, new: RoomId) -> None:
        try:
            await self._patience.ask(lambda: self._homeserver.join(new))
        except RequestRefusedError as e:
            logger.bind(action="room.upgrade_closed", new=new, errcode=e.errcode).info(
                "the new room can't be joined without an invitation"
            )
        await self._store.inbox.mark(row.seq, InboxState.IGNORED, reason="state")


def _replacement(event: RoomEvent) -> RoomId | None:
    try:
        return _room_id(_Tombstone.model_validate(event.content).replacement_room)
    except ValidationError:
        return None


def _predecessor(event: RoomEvent) -> RoomId | None:
    try:
        return _room_id(_Creation.model_validate(event.content).predecessor.room_id)
    except ValidationError:
        return None


def _room_id(text: str) -> RoomId | None:
    is_usable = text.startswith("!") and text.isprintable() and len(text.encode()) <= 255
    return RoomId(text) if is_usable else None
