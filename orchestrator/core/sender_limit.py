"""How many messages one sender may have taken in a room, and how often a room is told about it.

Rules:
- a bucket for each sender in each room: `burst` at once, then `per_minute`; what is over it takes
  nothing out of it, so that a flood gets its share and no more;
- time is the messages' own: what waited while nobody was there to take it came over hours, and
  counts so;
- a flood is one episode: it begins with what is refused first, and ends when nothing was refused
  for a minute. Its beginning is told, the rest of it is not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

# A flood is over when nothing of it was refused for so long.
QUIET_S = 60.0
# Senders that are remembered, the latest ones: about 2 MB. Who is forgotten starts with a full
# bucket; to use that, a flood needs as many accounts.
MAX_SENDERS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class SenderLimits:
    """Invariant: in any t seconds a sender gets at most `burst + t * per_minute / 60` through."""

    def __init__(self, *, burst: int, per_minute: float, max_senders: int = MAX_SENDERS) -> None:
        self._burst = float(burst)
        self._rate_per_s = per_minute / 60
        self._max_senders = max_senders
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, sender: Hashable, *, at: float) -> bool:
        """Whether one more message is within the limit. `at`: its time; one that goes back stays.

        `sender` is whatever the limit is for: a user in a room.
        """
        bucket = self._buckets.setdefault(sender, _Bucket(self._burst, at))
        self._buckets.move_to_end(sender)
        if len(self._buckets) > self._max_senders:
            self._buckets.popitem(last=False)
        passed_s = max(0.0, at - bucket.at)
        bucket.at += passed_s
        bucket.tokens = min(self._burst, bucket.tokens + passed_s * self._rate_per_s)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def __len__(self) -> int:
        return len(self._buckets)

    def __repr__(self) -> str:
        return f"SenderLimits({self._burst:g} at once, {self._rate_per_s * 60:g} a minute)"


class Episodes:
    """Which floods go on. Invariant: only those are remembered that had something refused lately.

    Two steps, because telling can fail between them: ask, tell, then note.
    """

    def __init__(self, *, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._refused_at: OrderedDict[Hashable, float] = OrderedDict()

    def is_on(self, flood: Hashable, *, now: float) -> bool:
        """Whether this flood was told of, and goes on."""
        at = self._refused_at.get(flood)
        return at is not None and now - at < self._quiet_s

    def note(self, flood: Hashable, *, now: float) -> None:
        """Something of it was refused now."""
        self._refused_at[flood] = now
        self._refused_at.move_to_end(flood)
        while now - next(iter(self._refused_at.values())) >= self._quiet_s:
            self._refused_at.popitem(last=False)

    def __len__(self) -> int:
        return len(self._refused_at)

    def __repr__(self) -> str:
        return f"Episodes({len(self._refused_at)} on)"
