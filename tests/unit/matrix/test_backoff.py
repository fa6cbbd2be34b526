"""Waiting after failures."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.matrix.backoff import MAX_WAIT_S, MIN_WAIT_S, Backoff


@given(st.integers(0, 1000), st.integers(1, 2000))
def test_every_wait_is_between_one_second_and_half_a_minute(seed: int, failures: int) -> None:
    backoff = Backoff(random.Random(seed).uniform)
    backoff.failures = failures - 1
    assert MIN_WAIT_S <= backoff.next_wait_s() <= MAX_WAIT_S


def test_in_the_first_minute_at_most_one_attempt_a_second_then_one_in_thirty() -> None:
    backoff = Backoff(lambda low, _high: low)
    waits = [backoff.next_wait_s() for _ in range(12)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]


def test_success_starts_over() -> None:
    backoff = Backoff(lambda _low, high: high)
    for _ in range(9):
        backoff.next_wait_s()
    backoff.reset()
    assert backoff.next_wait_s() == 2
