"""How long to wait after a failure: longer each time, never in step with others. No I/O."""

from __future__ import annotations

from collections.abc import Callable

# At most one attempt a second while it is fresh, at most one in 30 s when it lasts; a homeserver
# that is back is found within little more than that.
MIN_WAIT_S = 1.0
MAX_WAIT_S = 33.0
# What the last waits are drawn from: half of it to all of it. The exponent is bounded so that it
# stays a small number; 2**6 is past the longest.
_LONGEST_TOP_S = 60.0
_MAX_EXPONENT = 6


class Backoff:
    """Counts failures in a row. The n-th wait is drawn from [2**n / 2, 2**n], within 1 and 33 s."""

    def __init__(self, jitter: Callable[[float, float], float]) -> None:
        self._jitter = jitter
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Backoff failures={self.failures}>"

    def reset(self) -> None:
        """It worked."""
        self.failures = 0

    def next_wait_s(self) -> float:
        """Count one more failure; returns the seconds to wait before the next attempt."""
        self.failures += 1
        top = min(_LONGEST_TOP_S, 2.0 ** min(self.failures, _MAX_EXPONENT))
        return min(max(MIN_WAIT_S, self._jitter(top / 2, top)), MAX_WAIT_S)
