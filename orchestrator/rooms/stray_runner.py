"""Containers that bear this installation's label and are no room's runner: removed at the start.

A room's runner is the one container of its name. Any other is a copy that somebody made of it, one
that was renamed, or one of a room that this database does not know (a backup older than the room
was restored): nobody reads what it prints, and it may work on the same files as the room's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loguru import logger

from orchestrator.core.naming import runner_name
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import TROUBLE
from orchestrator.store.api import RoomRow


async def remove_strays(kit: Kit, found: Sequence[RunnerInfo], rooms: Iterable[RoomRow]) -> None:
    """Remove what is no room's; what the engine can't remove now is left to the next start."""
    own = {runner_name(kit.backend.installation, room.slug) for room in rooms}
    for info in found:
        if info.name in own:
            continue
        log = logger.bind(action="runner.stray", runner=info.name, room=info.slug)
        try:
            await kit.backend.remove(info.name)
        except TROUBLE as e:
            log.bind(error=type(e).__name__).error("a stray container could not be removed")
        else:
            log.warning("a container with our label that is no room's runner was removed")
