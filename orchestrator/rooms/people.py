"""Who may do what in a room, and by which name they go: the configuration and the room's state.

Stateless: everything is asked of the store at the time, so that a change counts from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.config import Config
from orchestrator.core.command import Permission
from orchestrator.core.display_name import clean_name
from orchestrator.core.policy import RoomEvent
from orchestrator.core.role import Permissions, Roles
from orchestrator.core.schedule import Hindrance
from orchestrator.model import RoomId, UserId
from orchestrator.store.store import Store

_ON_THE_WAY = ("invite", "knock")


@dataclass(frozen=True, slots=True)
class People:
    """Asks the store about people; takes in what rooms say of them."""

    roles: Roles
    store: Store

    @classmethod
    def build(cls, config: Config, store: Store) -> People:
        """By what the file says."""
        return cls(config.roles, store)

    async def permissions(self, room_id: RoomId, user_id: str) -> Permissions:
        """What somebody may do in a room."""
        power = await self.store.people.power(room_id) if self.roles.by_level else None
        return self.roles.of(user_id, power)

    async def in_room(self, room_id: RoomId | None) -> Callable[[str], bool]:
        """Tells of a sender whether they are answered in this room: whoever may do anything."""
        power = None if room_id is None else await self.store.people.power(room_id)
        return lambda user_id: bool(self.roles.of(user_id, power))

    async def may(self, permission: Permission, room_id: RoomId, user_id: str) -> bool:
        """Whether somebody has this one."""
        return permission in await self.permissions(room_id, user_id)

    async def find_hindrance(self, room_id: RoomId, user_id: UserId) -> Hindrance | None:
        """Why nothing is run in a room in somebody's name that they asked for before, if so."""
        if await self.store.people.has_left(room_id, user_id):
            return Hindrance.LEFT
        return None if await self.may(Permission.RUN, room_id, user_id) else Hindrance.ROLE

    async def name(self, room_id: RoomId, user_id: UserId) -> str | None:
        """The name that somebody goes by, as a prompt can bear it."""
        return clean_name(await self.store.people.name(room_id, user_id), user_id=user_id)

    async def take_in(self, room_id: RoomId, event: RoomEvent) -> None:
        """Take in what a state event says of people. Idempotent."""
        match event.type:
            case "m.room.create":
                await self.store.people.note_creation(room_id, event.sender, event.content)
            case "m.room.power_levels":
                await self.store.people.note_levels(room_id, event.content)
            case "m.room.member" if event.state_key:
                await self._note_member(room_id, UserId(event.state_key), event.content)

    async def _note_member(
        self, room_id: RoomId, person: UserId, content: Mapping[str, object]
    ) -> None:
        is_there = content.get("membership") == "join"
        if content.get("membership") in _ON_THE_WAY:
            await self.store.people.note_on_the_way(room_id, person)
        else:
            name = clean_name(content.get("displayname"), user_id=person)
            await self.store.people.note_member(room_id, person, name, is_there=is_there)
        # Who leaves decides nothing more there, whatever they may do there then, or later.
        await self.store.absences.note(room_id, person, is_there=is_there)
