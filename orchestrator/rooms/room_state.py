"""What a room's state events say of it: its name, its aliases, its encryption, what replaces it.

Rule: what can't be known without asking the homeserver is asked beside everything else, and whoever
asks marks the event's row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from orchestrator.config import Config
from orchestrator.core.policy import RoomEvent
from orchestrator.model import RoomId
from orchestrator.ports import Encryption, Homeserver
from orchestrator.rooms.alias import Aliases
from orchestrator.rooms.patience import Patience
from orchestrator.rooms.people import People
from orchestrator.rooms.upgrade import Mover, Upgrades
from orchestrator.store.api import InboxRow
from orchestrator.store.store import Store


class RoomStates:
    """Invariant: a row is taken in here or by whoever asks about it, never by both."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        homeserver: Homeserver,
        encryption: Encryption,
        rooms: Mover,
        clock: Callable[[], float],
    ) -> None:
        self._people = People.build(config, store)
        self._store = store
        self._homeserver = homeserver
        self._encryption = encryption
        self._clock = clock
        # One each: aliases don't keep an upgrade waiting.
        self._patience = Patience(), Patience()
        self._aliases = Aliases(
            configured=config.rooms,
            homeserver=homeserver,
            store=store,
            patience=self._patience[0],
        )
        self._upgrades = Upgrades(
            people=self._people,
            autojoin=config.matrix.autojoin,
            homeserver=homeserver,
            store=store,
            rooms=rooms,
            patience=self._patience[1],
        )

    def __repr__(self) -> str:
        return f"<RoomStates {self._aliases!r} {self._upgrades!r}>"

    def use_group(self, group: asyncio.TaskGroup) -> None:
        """Whose tasks the questions are; before `take_in`."""
        for patience in self._patience:
            patience.use_group(group)

    async def ask_for_levels(self) -> None:
        """Of rooms that were joined before their levels counted: no sync tells those again."""
        if self._people.roles.by_level:
            for room_id in await self._store.people.without_power():
                self._patience[0].start(self._ask_for_levels(room_id), f"levels of {room_id}")

    async def _ask_for_levels(self, room_id: RoomId) -> None:
        """A refusal leaves them unknown, which gives nobody anything."""
        creation, levels = [
            await self._patience[0].ask(partial(self._homeserver.state_event, room_id, kind))
            for kind in ("m.room.create", "m.room.power_levels")
        ]
        creator, made = (creation or {}).get("sender"), (creation or {}).get("content")
        said = (levels or {}).get("content")
        if isinstance(creator, str) and isinstance(made, dict):
            known = said if isinstance(said, dict) else None
            await self._store.people.note_asked(room_id, creator, made, known)

    async def take_in(self, row: InboxRow, room_id: RoomId, event: RoomEvent, raw: str) -> bool:
        """Take in a state event; False: whoever asks the homeserver about it marks the row."""
        if event.state_key and event.type != "m.room.member":
            # A room's own properties have an empty key; others anybody could make up.
            return True
        await self._encryption.handle_state(room_id, raw)
        await self._people.take_in(room_id, event)
        match event.type:
            case "m.room.encryption":
                await self._store.rooms.update(room_id, encrypted=True)
                await self._upgrades.try_move(room_id)
            case "m.room.name":
                await self._store.rooms.update(room_id, name=_text(event.content.get("name")))
            case "m.room.canonical_alias":
                alias = _text(event.content.get("alias"))
                if alias is not None:
                    await self._aliases.look_up(row, room_id, alias)
                    return False
            case "m.room.create":
                await self._upgrades.note_creation(room_id, event, now=self._clock())
            case "m.room.tombstone":
                return await self._upgrades.note_tombstone(row, room_id, event, now=self._clock())
        return True


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
