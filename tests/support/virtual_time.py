"""An event loop whose clock jumps to the next timer instead of waiting for it.

Code under test sees real asyncio; only nothing takes time. No sockets, no threads.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

# More than the rounding error of a Unix time as a float (2.4e-7 s): without it a timer that is due
# would stay a hair in the future for ever.
_LEAST_STEP_S = 1e-6


class StuckError(Exception):
    """Everything waits, and nothing will ever happen: no timer is set."""


class _JumpingSelector(selectors.SelectSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError
        if timeout > 0:
            self.loop.now += max(timeout, _LEAST_STEP_S)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` starts at a plausible Unix time."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = _LEAST_STEP_S  # what is due within it runs now

    def time(self) -> float:
        return self.now


def run_virtual(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run to the end in virtual time; the loop's clock serves as the code's clock."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def loop_clock() -> float:
    """The clock for code under test."""
    return asyncio.get_running_loop().time()
