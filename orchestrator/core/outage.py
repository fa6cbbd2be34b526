"""Whether the homeserver is away, or only fails for one room; and how long to leave it alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from orchestrator.model import RoomId

FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0


def backoff_s(failures: int, *, jitter: Callable[[], float]) -> float:
    """The wait after so many failures in a row: 1, 2, 4, … 60 s, less up to half of it at random.

    `jitter` gives 0 to 1. Never less than a second.
    """
    # 64 s is past the maximum: no large powers for large counts.
    top_s = min(FIRST_WAIT_S * float(1 << min(max(failures, 1) - 1, 6)), MAX_WAIT_S)
    return max(FIRST_WAIT_S, top_s * (0.5 + 0.5 * jitter()))


class Outage:
    """What several rooms' failures say together.

    Invariant: it is on exactly while two rooms or more failed since the homeserver last answered.
    """

    def __init__(self, *, jitter: Callable[[], float]) -> None:
        """Start with a homeserver that answers."""
        self._jitter = jitter
        self._rooms: set[RoomId] = set()
        self._rounds = 0
        self._counted_at = -math.inf
        self.until = -math.inf
        """When the rooms that failed may ask again."""

    @property
    def is_on(self) -> bool:
        """Whether the homeserver is taken to be away: one request at a time is enough to ask."""
        return len(self._rooms) > 1

    def may_ask_at(self, room: RoomId) -> float:
        """When a request of this room may ask again; a room that hasn't failed yet may at once."""
        return self.until if self.is_on and room in self._rooms else -math.inf

    def failed(self, room: RoomId, *, left: float, now: float) -> None:
        """A request of the room that left at `left` got no answer.

        Requests that were under way together count as one failure: eight at once say no more than
        one does.
        """
        self._rooms.add(room)
        if left < self._counted_at:
            return
        self._counted_at = now
        if self.is_on:
            self._rounds += 1
            self.until = now + backoff_s(self._rounds, jitter=self._jitter)

    def answered(self) -> None:
        """The homeserver answered something, be it a refusal."""
        self._rooms.clear()
        self._rounds = 0
        self.until = -math.inf

    def __repr__(self) -> str:
        return (
            f"Outage({'on' if self.is_on else 'off'}, {len(self._rooms)} rooms, until {self.until})"
        )
