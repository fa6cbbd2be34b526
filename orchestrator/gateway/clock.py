"""Unix time that never jumps, and waiting by it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since 1970, never going back nor ahead by a correction."""


class SteadyClock:
    """The wall clock as it was at the start, counted on with the monotonic clock.

    A wall clock that is set back by an hour would hold every message for an hour, and one that is
    set ahead would end every wait. Both clocks agree again at the next start.
    """

    def __init__(
        self, *, wall: Clock = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Read both clocks once."""
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        """Now, in seconds since 1970."""
        return self._offset_s + self._monotonic()


async def wait_for_event(event: asyncio.Event, *, until: float | None, clock: Clock) -> None:
    """Wait for the event, until that time at the latest (None or infinity: no end). Cancel-safe."""
    timeout_s = None if until is None or math.isinf(until) else max(0.0, until - clock())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
