"""How the send budget does against a homeserver's limiter, in simulated time.

For several limits: an account with always something to send, for an hour. Reported: the share of
the permitted messages that were sent, the refusals in the first 5 minutes, and after that.

    python -m bench.pacing
"""

from __future__ import annotations

import random

from orchestrator.core.pacing import SendBudget
from tests.support.rate_limit import LeakyBucket

HOUR_S = 3600.0
LEARNING_S = 300.0


def saturate(
    limiter: LeakyBucket, *, seconds: float, rng: random.Random, start: float = 0.0
) -> SendBudget:
    """One request at a time, 20 to 120 ms each way; a refusal takes 0.5 s more."""
    budget, now = SendBudget(), start
    while (now := budget.next_send_at(now)) < start + seconds:
        left = now
        budget.sent(left)
        now += rng.uniform(0.02, 0.12)
        wait_s = limiter.offer(now)
        now += rng.uniform(0.02, 0.12)
        if wait_s is not None:
            now += 0.5
            budget.limited(now, wait_s, sent_at=left)
    return budget


def main() -> None:
    """Print the table."""
    print("rate/s  burst  waits     sent of permitted   429 while learning   429 later")
    for rate, burst in ((0.2, 10), (0.05, 3), (1.0, 10), (1.0, 50), (5.0, 20), (50.0, 100)):
        for rounds_up in (False, True):
            limiter = LeakyBucket(rate_per_s=rate, burst=burst, rounds_up=rounds_up)
            budget = saturate(limiter, seconds=HOUR_S, rng=random.Random(7))
            early = sum(at < LEARNING_S for at in limiter.refused)
            share = len(limiter.accepted) / (rate * HOUR_S + burst)
            print(
                f"{rate:6} {burst:6}  {'whole s' if rounds_up else 'exact  '} {share:14.0%}"
                f" {early:18} {len(limiter.refused) - early:13}   {budget!r}"
            )


if __name__ == "__main__":
    main()
