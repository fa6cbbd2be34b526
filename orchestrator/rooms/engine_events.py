"""What the engine reports of runners by itself, and who has to know."""

from __future__ import annotations

from typing import NoReturn

from loguru import logger

from orchestrator import meters
from orchestrator.errors import RunnerError
from orchestrator.ports import RunnerBackend
from orchestrator.rooms.manager import RoomManager


async def watch_engine(backend: RunnerBackend, manager: RoomManager) -> NoReturn:
    """Tell a room when the kernel ended one of its processes for its memory.

    Raises:
        RunnerError: the engine's events ended.
    """
    async for event in backend.watch():
        logger.bind(
            action="runner.event", room=event.slug, event=event.kind, exit_code=event.exit_code
        ).info("the engine reports")
        if event.kind == "oom":
            meters.OUT_OF_MEMORY.inc()
            manager.note_out_of_memory(event.slug)
    msg = "the engine's events ended"
    raise RunnerError(msg)
