"""Where the host has too little memory idle rooms rest early, one after the other.

Rules: what was made for rooms to come goes before any room rests; the longest idle first; one that
works is never touched; nothing is asked of a second before the first is done with it. The next
message wakes a room as it does after any rest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import NoReturn

from loguru import logger

from orchestrator import meters
from orchestrator.core.memory_pressure import MemoryPressure, MemorySight, PressureLimits
from orchestrator.core.rest import choose_early_rest
from orchestrator.model import RoomId
from orchestrator.rooms.warm_pool import WarmPool
from orchestrator.rooms.worker import RoomWorker

# PSI's shortest mean is of 10 s, which follows what was given back with about that delay.
_EVERY_S = 5.0


class PressureWatch:
    """Invariant: at most one room is going to rest for the host's memory."""

    def __init__(
        self,
        limits: PressureLimits | None,
        read: Callable[[], MemorySight],
        workers: Mapping[RoomId, RoomWorker],
        spares: WarmPool,
    ) -> None:
        """`limits`: None: nothing is done, the figures are kept all the same."""
        self._pressure = MemoryPressure(
            limits or PressureLimits(stalled_percent=None, available_percent=None)
        )
        self._read = read
        self._workers = workers
        self._spares = spares

    def __repr__(self) -> str:
        return f"<PressureWatch {self._pressure!r}>"

    async def run(self) -> NoReturn:
        """Look now and then, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY_S)

    def look(self) -> None:
        """Look at the host's memory; ask one idle room to rest where there is too little."""
        sight, was_on = self._read(), self._pressure.is_on
        is_on = self._pressure.note(sight)
        _count(sight, is_on=is_on)
        if is_on is not was_on:
            log = logger.bind(
                action="memory.pressure",
                stalled_percent=sight.stalled_percent,
                available_percent=_rounded(sight.available_percent),
            )
            if is_on:
                log.warning("the host has too little memory: idle rooms rest early")
            else:
                log.info("the host has memory again")
        if not self._spares.note_pressure(is_on=is_on) and is_on:
            self._ask_one()

    def _ask_one(self) -> None:
        workers = list(self._workers.values())
        if any(worker.is_going_to_rest for worker in workers):
            return
        chosen = choose_early_rest(one for w in workers if (one := w.idle_runner) is not None)
        if chosen is not None:
            room_id, rest = chosen
            self._workers[room_id].rest_early(rest)


def _count(sight: MemorySight, *, is_on: bool) -> None:
    meters.MEMORY_PRESSURE.set(is_on)
    stalled, available = sight.stalled_percent, sight.available_percent
    meters.MEMORY_STALLED.set(math.nan if stalled is None else stalled)
    meters.MEMORY_AVAILABLE.set(math.nan if available is None else available)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
