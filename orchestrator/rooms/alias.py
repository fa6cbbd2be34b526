"""What a room is called: an alias counts once its own server says that it stands for the room.

Otherwise any room could have the profile that is configured for another's alias. Asking can take
as long as that server likes, so it is a task of its own; of a room's aliases the latest counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from loguru import logger

from orchestrator.errors import StoreError
from orchestrator.model import RoomId
from orchestrator.ports import Homeserver
from orchestrator.rooms.patience import Patience
from orchestrator.store.api import InboxRow, InboxState
from orchestrator.store.store import Store

# For an alias that is configured the rooms wait a little: its profile should hold from the room's
# first message on. It is the operator's, on a server that answers; nobody waits for any other.
_HEAD_START_S = 5.0


@dataclass(slots=True)
class _Lookup:
    row: InboxRow
    task: asyncio.Task[None]


class Aliases:
    """Invariant: a room has at most one lookup; its row is NEW until it is answered."""

    def __init__(
        self,
        *,
        configured: Collection[str],
        homeserver: Homeserver,
        store: Store,
        patience: Patience,
    ) -> None:
        self._configured = configured
        self._homeserver = homeserver
        self._store = store
        self._patience = patience
        self._lookups: dict[RoomId, _Lookup] = {}

    def __repr__(self) -> str:
        return f"<Aliases asking={len(self._lookups)}>"

    async def look_up(self, row: InboxRow, room_id: RoomId, alias: str) -> None:
        """Find out soon whether the alias is the room's; the row is marked then."""
        await self._supersede(room_id)
        task = self._patience.start(self._contained(row, room_id, alias), f"alias {room_id}")
        self._lookups[room_id] = _Lookup(row, task)
        if alias in self._configured:
            await asyncio.wait([task], timeout=_HEAD_START_S)

    async def _supersede(self, room_id: RoomId) -> None:
        before = self._lookups.pop(room_id, None)
        if before is not None and not before.task.done():
            before.task.cancel()
            await asyncio.wait([before.task])
            await self._done(before.row, "superseded")

    async def _contained(self, row: InboxRow, room_id: RoomId, alias: str) -> None:
        try:
            found = await self._patience.ask(lambda: self._homeserver.resolve_alias(alias))
            if found == room_id:
                await self._store.rooms.update(room_id, alias=alias)
        except StoreError:
            raise
        except Exception as e:  # noqa: BLE001 - a poisoned alias must not take anything along
            logger.bind(action="intake.alias_failed", room=room_id, error=type(e).__name__).error(
                "an alias could not be looked up"
            )
            await self._store.inbox.mark(row.seq, InboxState.FAILED, reason=type(e).__name__)
            return
        await self._done(row, "state")
        if room_id in self._lookups and self._lookups[room_id].row is row:
            del self._lookups[room_id]

    async def _done(self, row: InboxRow, reason: str) -> None:
        await self._store.inbox.mark(row.seq, InboxState.IGNORED, reason=reason)
