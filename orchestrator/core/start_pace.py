"""When a program that ended by itself may be started again: the more often in a row, the later."""

from __future__ import annotations

import math

from orchestrator.core.lifecycle import restart_delay_s


class StartPace:
    """Counts over turns, so that a queue of them doesn't become a loop of starts.

    Invariant: `failures` is how often the program ended by itself since it last did what it should.
    """

    def __init__(self) -> None:
        """Begin with a program that has not failed."""
        self.failures = 0
        self._failed_at = -math.inf

    def __repr__(self) -> str:
        return f"<StartPace failures={self.failures}>"

    @property
    def ready_at(self) -> float:
        """When it may be started again; seconds on the caller's clock, which does not jump."""
        return self._failed_at + restart_delay_s(self.failures)

    def failed(self, now: float) -> None:
        """It ended by itself."""
        self.failures += 1
        self._failed_at = now

    def worked(self) -> None:
        """It did what it should."""
        self.failures = 0
