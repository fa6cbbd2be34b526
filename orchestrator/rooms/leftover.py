"""What a turn leaves running in its room: looked at when it has ended.

Rule: background processes may stay (a server that the next turn tests), as long as they leave the
room enough processes to work with. Past that no tool could be started any more, and maybe no CLI:
all of the room's processes are ended, and the room is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from orchestrator.core import texts
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.room_runner import TROUBLE, RoomRunner
from orchestrator.store.api import TurnRow

# The room's next turn waits for the answer, which takes some milliseconds.
_LOOK_S = 5.0
# An eighth of the room's limit, at most this: a CLI that is resumed has about 30 threads, and a
# build or a test run starts some dozens of processes.
_MOST_SPARE = 64


async def end_leftovers(
    turn: TurnRow,
    *,
    kit: Kit,
    profile: RoomProfile,
    runner: RoomRunner,
    clear: Callable[[], Awaitable[None]],
) -> None:
    """End the room's processes, should so many be left that the next turn could not work."""
    limit = profile.limits.pids
    if runner.connection is None or not await _is_crowded(runner, kit, limit):
        return
    logger.bind(action="runner.crowded", room=turn.room_id, turn=turn.turn_id, limit=limit).warning(
        "what turns left behind uses up the room's processes; they are ended"
    )
    await clear()
    rows = build_notice_rows(
        turn.room_id,
        f"{turn.turn_id}:processes",
        texts.processes_ended(limit),
        max_event_bytes=kit.config.gateway.max_event_bytes,
    )
    await kit.store.outbox.add(rows, now=kit.wall_clock())
    kit.notify_outbox()


async def _is_crowded(runner: RoomRunner, kit: Kit, limit: int) -> bool:
    try:
        async with asyncio.timeout(_LOOK_S):
            count = await kit.backend.count_tasks(runner.name)
    except (TimeoutError, *TROUBLE):
        return False
    return count > limit - min(limit // 8, _MOST_SPARE)
