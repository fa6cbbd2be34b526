"""What one room may cost the process that all rooms share, as rates."""

from __future__ import annotations


class Pace:
    """A debt that is paid off at a rate; who adds to it past the burst is told how long to wait.

    Invariant: `0 <= debt`; the cost is always booked, also when the answer is to wait, so that
    nobody gains by asking often.
    """

    def __init__(self, *, rate: float, burst: float) -> None:
        """`rate` is units per second, `burst` units that may be spent at once."""
        self._rate = rate
        self._burst = burst
        self._debt = 0.0
        self._at = 0.0

    def spend(self, cost: float, *, now: float) -> float:
        """Book the cost; the seconds to wait before going on, 0 within the burst."""
        self._debt = max(0.0, self._debt - (now - self._at) * self._rate) + cost
        self._at = now
        return max(0.0, (self._debt - self._burst) / self._rate)

    def __repr__(self) -> str:
        return f"Pace(rate={self._rate}, burst={self._burst}, debt={self._debt:.3f})"
