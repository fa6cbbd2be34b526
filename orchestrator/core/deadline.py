"""How long a turn may take: without progress, and altogether."""

from __future__ import annotations

from enum import StrEnum


class Expiry(StrEnum):
    """Which of a turn's two limits is over."""

    STALLED = "stalled"
    """Nothing came from it for `timeout_s`."""
    CEILING = "ceiling"
    """It has been running for `ceiling_s`."""


class TurnClock:
    """One turn's two limits.

    Invariant: time between `pause` and `resume` (somebody is asked for an approval) counts for
    neither limit. Times are seconds on a clock that does not jump.
    """

    def __init__(self, *, timeout_s: float, ceiling_s: float, now: float) -> None:
        """Start both limits now."""
        self._timeout_s = timeout_s
        self._stalls_at = now + timeout_s
        self._ceiling_at = now + ceiling_s
        self._paused_at: float | None = None
        self._pauses = 0

    def progress(self, now: float) -> None:
        """Something came from the turn. During a pause it doesn't end the pause."""
        counted_to = now if self._paused_at is None else self._paused_at
        self._stalls_at = max(self._stalls_at, counted_to + self._timeout_s)

    def pause(self, now: float) -> None:
        """An approval is asked for. Several may be open; the clock goes on after the last one."""
        self._pauses += 1
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """One approval was answered.

        Raises:
            ValueError: without a `pause` before.
        """
        if self._paused_at is None:
            msg = "resume without pause"
            raise ValueError(msg)
        self._pauses -= 1
        if self._pauses:
            return
        paused_s = max(0.0, now - self._paused_at)
        self._stalls_at += paused_s
        self._ceiling_at += paused_s
        self._paused_at = None

    @property
    def is_paused(self) -> bool:
        """Whether its time stands still."""
        return self._paused_at is not None

    def deaf(self, seconds: float, now: float) -> None:
        """We did not listen for so long, up to now: frozen, or held up by our own disk.

        It counts for neither limit, and what the turn said meanwhile has yet to be heard: silence
        begins anew.
        """
        if self._paused_at is None:
            self._ceiling_at += seconds
        self.progress(now)

    def next_deadline(self) -> float | None:
        """When `expired` may say something next; None during a pause."""
        if self._paused_at is not None:
            return None
        return min(self._stalls_at, self._ceiling_at)

    def expired(self, now: float) -> Expiry | None:
        """Which limit is over; the ceiling where both are. None during a pause."""
        if self._paused_at is not None:
            return None
        if now >= self._ceiling_at:
            return Expiry.CEILING
        return Expiry.STALLED if now >= self._stalls_at else None

    def __repr__(self) -> str:
        paused = f", paused {self._pauses} times" if self._pauses else ""
        return f"TurnClock(stalls at {self._stalls_at:.1f}, ceiling {self._ceiling_at:.1f}{paused})"


def take_up_clock(timeout_s: float, ceiling_s: float, now: float, *, ran_for_s: float) -> TurnClock:
    """The clock of a turn that has run for so long, by the wall clock, which is not trusted.

    It may have been set ahead between two lives: the time of one silence is left at least.
    """
    most_s = max(0.0, ceiling_s - timeout_s)
    began = now - min(max(0.0, ran_for_s), most_s)
    clock = TurnClock(timeout_s=timeout_s, ceiling_s=ceiling_s, now=began)
    clock.progress(now)
    return clock
