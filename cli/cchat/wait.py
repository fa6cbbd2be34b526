"""How long to wait before asking again. Pure."""

from __future__ import annotations

import json
import math
import random

# What Synapse's stock limit (0.2 messages/s) makes one wait when it does not say for how long.
_UNSAID_S = 5.0
_FIRST_S = 1.0
# Somebody looks at the terminal: half a minute is the longest that a command should seem dead.
_MOST_S = 30.0


def parse_retry_after_s(header: str | None, raw: bytes) -> float:
    """Seconds to wait after a 429: the header first, then the older `retry_after_ms`."""
    try:
        wait_s = float(header) if header else json.loads(raw)["retry_after_ms"] / 1000
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return _UNSAID_S
    return max(0.0, wait_s) if math.isfinite(wait_s) else _UNSAID_S


def backoff_s(failures: int, rng: random.Random) -> float:
    """The wait after so many failures in a row: 1 s doubled up to 30 s, less up to a half of it."""
    full = min(_MOST_S, _FIRST_S * 2.0 ** min(failures - 1, 10))
    return full * rng.uniform(0.5, 1.0)
