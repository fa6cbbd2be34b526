"""How fast one Matrix account may send: a token bucket that learns the limit from 429s.

A homeserver does not say what its limit is; it says no, and for how long. Synapse meters an account
with a leaky bucket (0.2 messages/s and bursts of 10 in its stock configuration, edits included, all
rooms together), and the wait that it names ends when there is room for exactly one more message.
So one refusal gives a lower bound of the interval between messages: from the last accepted message
to the end of the wait. And two refusals give the interval itself: between the ends of their waits,
as many messages leaked out of the bucket as were accepted into it.

Rules:
- without a known limit nothing is held back;
- a known limit is kept with a small margin, and nothing leaves before the end of a named wait;
- after a hold the rate is raised a little with each message that had to wait for it, to notice that
  the limit was lifted; each time it turns out that it wasn't, the next hold is twice as long.

Times are seconds on a clock that does not jump (`now` is a parameter).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

# Synapse's stock `rc_message` (config/ratelimiting.py): the guess for what was not learnt yet.
STOCK_INTERVAL_S = 5.0
STOCK_BURST = 10.0

# An interval below this is no limit for us: a room takes an update every 2 s (outbound_window_s).
_FASTEST_INTERVAL_S = 0.1
# The slowest pace that a refusal can teach; a longer wait is kept, but is not taken for a rate.
_SLOWEST_INTERVAL_S = 60.0
# A longer Retry-After is not believed: after an hour one request asks again.
_MAX_WAIT_S = 3600.0
# Room for what differs between our clock at departure and the server's at arrival.
_MARGIN = 1.05
# Synapse truncates `retry_after_ms` to whole milliseconds: a send at its very end is refused.
_WAIT_MARGIN_S = 0.05
# Raising the rate by about a tenth at a time overshoots a limit by less than one message.
_GROWTH = 0.9
# One refusal a minute at first, one in a quarter of an hour while the limit stays.
_FIRST_HOLD_S = 60.0
_LONGEST_HOLD_S = 900.0
# Departures remembered to see the length of a burst; no burst above this is learnt.
_HISTORY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """What was learnt, without times: safe to keep over a restart. `interval_s` None: no limit."""

    interval_s: float | None
    burst: float

    def __post_init__(self) -> None:
        if self.interval_s is not None and not self.interval_s > 0:
            msg = "interval_s must be more than zero"
            raise ValueError(msg)
        if not self.burst >= 1:
            msg = "burst must be at least 1"
            raise ValueError(msg)


class SendBudget:
    """One account's token bucket.

    Invariant: between two refusals, while no probe is on, any t seconds see at most
    `burst + t / interval` departures.
    """

    def __init__(self, state: BudgetState | None = None) -> None:
        """Start without a limit, or with what an earlier life learnt and one message at hand."""
        self._interval_s = state.interval_s if state else None
        self._burst = state.burst if state else STOCK_BURST
        # The interval is the lower bound that a single refusal gave.
        self._is_guess = False
        self._tokens = 1.0
        self._updated_at: float | None = None
        self._blocked_until = float("-inf")
        self._learnt_at = float("-inf")
        self._hold_s = _FIRST_HOLD_S
        self._hold_until = float("inf")
        self._probed_from_s: float | None = None
        # Since the last refusal: the end of its wait (None once the bucket was full again: what
        # followed says nothing about the rate), what was accepted after it, and when that left.
        self._anchor: float | None = None
        self._accepted = 0
        self._departures: deque[float] = deque(maxlen=_HISTORY)

    def next_send_at(self, now: float) -> float:
        """When the next message may leave; `now` when it may leave at once."""
        self._refill(now)
        wait_s = 0.0 if self._interval_s is None else (1 - self._tokens) * self._pace_s
        return max(now, self._blocked_until, now + wait_s)

    def sent(self, now: float) -> None:
        """A message leaves. Call it at departure, once for each attempt."""
        self._refill(now)
        waited = self._tokens < 1.5 and self._is_busy(now)
        self._tokens -= 1
        self._accepted += 1
        self._departures.append(now)
        if waited and now >= self._hold_until:
            self._probe()

    def limited(
        self, now: float, retry_after_s: float | None, *, sent_at: float | None = None
    ) -> None:
        """The homeserver refused a message; it does not count.

        Args:
            now: when the refusal arrived. Nothing leaves before `now + retry_after_s`.
            retry_after_s: the wait that it named; None where it named none.
            sent_at: when the refused message left; the last departure where it is not given.
                Synapse holds a refusal back for half a second, so the departure tells more.
        """
        self._refill(now)
        left = sent_at if sent_at is not None else (self._departures or [now])[-1]
        if left in self._departures:
            self._departures.remove(left)
            self._tokens += 1
            self._accepted -= 1
        wait_s = self._believed_wait_s(retry_after_s)
        self._blocked_until = max(self._blocked_until, now + wait_s + _WAIT_MARGIN_S)
        if left > self._learnt_at:
            self._learn(now, left=left, wait_s=wait_s)
        if self._interval_s is not None:
            self._tokens = self._tokens_at_homeserver(now, free_at=left + wait_s)

    def tokens(self, now: float) -> float:
        """How many messages may leave now; infinity while no limit is known."""
        self._refill(now)
        if now < self._blocked_until:
            return 0.0
        return float("inf") if self._interval_s is None else self._tokens

    def rate_per_s(self) -> float | None:
        """The learnt rate; None while no limit is known."""
        return None if self._interval_s is None else 1 / self._interval_s

    @property
    def state(self) -> BudgetState:
        """What was learnt so far."""
        return BudgetState(interval_s=self._interval_s, burst=self._burst)

    def __repr__(self) -> str:
        if self._interval_s is None:
            return f"SendBudget(no limit known, blocked_until={self._blocked_until:.2f})"
        probe = ", probing" if self._probed_from_s is not None else ""
        return (
            f"SendBudget(every {self._interval_s:.2f} s, burst {self._burst:.1f}, "
            f"tokens {self._tokens:.2f}, blocked_until={self._blocked_until:.2f}{probe})"
        )

    @property
    def _pace_s(self) -> float:
        return (self._interval_s or 0.0) * _MARGIN

    def _refill(self, now: float) -> None:
        if self._updated_at is None:
            self._updated_at = now
            self._hold_until = now + self._hold_s
        passed_s = max(0.0, now - self._updated_at)
        self._updated_at += passed_s
        if self._interval_s is not None:
            # A burst is a whole number of messages; a fraction of one is what was not seen exactly.
            full = max(1.0, math.floor(self._burst + 1e-6))
            self._tokens = min(full, self._tokens + passed_s / self._pace_s)
            if 0.999999 < self._tokens < 1:  # a wait computed to end now has ended
                self._tokens = 1.0
            if self._tokens >= full:
                self._anchor = None

    def _is_busy(self, now: float) -> bool:
        """Whether the limit is what holds messages back, rather than nobody having any."""
        if self._interval_s is None or not self._departures:
            return False
        return now - self._departures[-1] < 2 * self._interval_s

    def _probe(self) -> None:
        if self._interval_s is None:
            return
        if self._probed_from_s is None:
            self._probed_from_s = self._interval_s
        self._interval_s *= _GROWTH
        if self._interval_s < _FASTEST_INTERVAL_S:
            self._interval_s = None

    def _believed_wait_s(self, retry_after_s: float | None) -> float:
        if retry_after_s is None:
            guess_s = STOCK_INTERVAL_S if self._interval_s is None else 2 * self._interval_s
            return min(max(guess_s, STOCK_INTERVAL_S), _SLOWEST_INTERVAL_S)
        return min(max(retry_after_s, 0.0), _MAX_WAIT_S)

    def _learn(self, now: float, *, left: float, wait_s: float) -> None:
        interval_s = self._next_interval_s(now, left=left, wait_s=wait_s)
        self._interval_s = min(max(interval_s, _FASTEST_INTERVAL_S), _SLOWEST_INTERVAL_S)
        self._burst = max(self._burst, self._burst_seen(left, wait_s=wait_s))
        self._set_hold(now + wait_s)
        self._learnt_at = now
        self._anchor, self._accepted = left + wait_s, 0
        self._departures.clear()

    def _next_interval_s(self, now: float, *, left: float, wait_s: float) -> float:
        accepted_at = max((d for d in self._departures if d < left), default=left)
        at_least_s = left + wait_s - accepted_at
        if self._probed_from_s is None:
            if self._interval_s is None:
                self._is_guess = True
                return at_least_s
            surplus = self._surplus(now, left=left, wait_s=wait_s)
            is_guess, self._is_guess = self._is_guess and self._anchor is not None, False
            # More than a wrong rate explains: the burst is shorter than believed. But a rate that
            # one refusal taught may be wrong by any factor, and now it is measured.
            if surplus > 1 and not is_guess:
                self._burst = max(1.0, self._burst - surplus)
                return max(at_least_s, self._interval_s)
        return max(at_least_s, min(self._measured_s(left + wait_s), self._proven_s(left)))

    def _surplus(self, now: float, *, left: float, wait_s: float) -> float:
        """How many more messages than the homeserver we believed possible when `left`."""
        believed = self._tokens - (now - left) / self._pace_s
        return believed - self._tokens_at_homeserver(left, free_at=left + wait_s)

    def _measured_s(self, free_at: float) -> float:
        """The interval since the last refusal; the known one where the bucket was idle since."""
        if self._anchor is None or self._accepted < 1:
            return self._interval_s or 0.0
        return (free_at - self._anchor) / self._accepted

    def _proven_s(self, left: float) -> float:
        """The longest interval with which the homeserver can have accepted what it accepted."""
        proven_s = _SLOWEST_INTERVAL_S
        for count, departure in enumerate(reversed(self._departures), start=1):
            if count > self._burst:
                proven_s = min(proven_s, (left - departure) / (count - self._burst))
        return proven_s

    def _set_hold(self, waited_until: float) -> None:
        if self._probed_from_s is not None and self._interval_s is not None:
            is_lifted = self._interval_s < self._probed_from_s / 2
            self._hold_s = _FIRST_HOLD_S if is_lifted else min(2 * self._hold_s, _LONGEST_HOLD_S)
        self._probed_from_s = None
        self._hold_until = waited_until + self._hold_s

    def _tokens_at_homeserver(self, now: float, *, free_at: float) -> float:
        """The homeserver has room for one message at `free_at`, so it has this much now."""
        return min(max(1 - (free_at - now) / self._pace_s, 0.0), 1.0)

    def _burst_seen(self, left: float, *, wait_s: float) -> float:
        """How much the homeserver's bucket held at least: the latest run of close departures."""
        interval_s = self._interval_s or _FASTEST_INTERVAL_S
        count, first = 0, left
        for departure in reversed(self._departures):
            if departure >= left:
                continue
            if first - departure > interval_s / 2:
                break
            count, first = count + 1, departure
        room = max(1 - wait_s / interval_s, 0.0)
        return min(count - (left - first) / interval_s + room, float(_HISTORY))
