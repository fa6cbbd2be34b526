"""A homeserver's rate limiter in simulated time: a leaky bucket as a meter, as Synapse has it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class LeakyBucket:
    """Accepts a message when the level leaves room for it; a refused message does not count."""

    rate_per_s: float
    burst: int
    rounds_up: bool = False
    """Name the wait in whole seconds, as a Retry-After header does."""
    level: float = 0.0
    updated_at: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def offer(self, now: float) -> float | None:
        """None when accepted, else the wait in seconds."""
        self.level = max(0.0, self.level - (now - self.updated_at) * self.rate_per_s)
        self.updated_at = now
        if self.level <= self.burst - 1 + 1e-9:
            self.level += 1
            self.accepted.append(now)
            return None
        self.refused.append(now)
        wait_s = (self.level - (self.burst - 1)) / self.rate_per_s
        return float(math.ceil(wait_s)) if self.rounds_up else int(wait_s * 1000) / 1000
