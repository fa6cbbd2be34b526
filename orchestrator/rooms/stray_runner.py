"""Containers that bear this installation's label and are no room's runner: removed at the start.

A room's runner is the one container of its name, and so is what was made for a room to come. Any
other is a copy that somebody made of it, one that was renamed, or one of a room that this database
does not know (a backup older than the room was restored): nobody reads what it prints, and it may
work on the same files as the room's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loguru import logger

from orchestrator.core.naming import runner_name
from orchestrator.model import RoomId, RoomSlug
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import TROUBLE


async def remove_strays(kit: Kit, found: Sequence[RunnerInfo], slugs: Iterable[RoomSlug]) -> None:
    """Remove what is no room's; what the engine can't remove now is left to the next start."""
    own = {runner_name(kit.backend.installation, slug) for slug in slugs}
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


async def leave_unused(kit: Kit, replaced: RoomId) -> None:
    """A room that was replaced has the place that the new one came with: no runner stays there.

    It may be one that was made ahead. What the engine can't remove now the next start takes up as
    that of a room that was left, or lets rest.
    """
    room = await kit.store.rooms.get(replaced)
    if room is None:
        return
    try:
        await kit.backend.remove(runner_name(kit.backend.installation, room.slug))
        await kit.housing.vacate(room.slug)
    except TROUBLE as e:
        logger.bind(action="runner.unused", room=replaced, error=type(e).__name__).error(
            "the runner that the new room came with could not be removed"
        )
