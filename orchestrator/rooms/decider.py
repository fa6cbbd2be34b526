"""Who may decide what an agent asks for."""

from __future__ import annotations

from orchestrator.config import Config
from orchestrator.core.approval import SILENT, Deciders, Voice
from orchestrator.core.command import Permission
from orchestrator.model import RoomId, UserId
from orchestrator.rooms.people import People
from orchestrator.store.store import Store


def build_deciders(config: Config, store: Store) -> Deciders:
    """Who may decide, by the configuration and the room; agents never may, whatever these say."""
    people = People.build(config, store)

    async def find_voice(room_id: RoomId, sender: UserId) -> Voice:
        # Who has left may have said it before; their homeserver keeps back what it likes.
        if await store.absences.is_absent(room_id, sender):
            return SILENT
        held, room = await people.permissions(room_id, sender), await store.rooms.get(room_id)
        profile = None if room is None else config.profile(room_id, room.alias, room.former)
        runs = Permission.RUN in held
        return Voice(
            decides=Permission.DECIDE in held,
            answers=runs,
            decides_own=runs and profile is not None and profile.deciders == "asker",
        )

    return Deciders(
        me=config.matrix.user_id,
        agents=config.agent_accounts,
        find_voice=find_voice,
        has_any=config.roles.names_any(Permission.DECIDE),
    )
