"""The send budget against a homeserver that meters with a leaky bucket, in simulated time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.pacing import STOCK_BURST, BudgetState, SendBudget
from orchestrator.core.progress import count_spare
from tests.support.rate_limit import LeakyBucket

STOCK_RATE = 0.2
HOUR_S = 3600.0


def stock_limiter() -> LeakyBucket:
    return LeakyBucket(rate_per_s=STOCK_RATE, burst=10)


def send_always(
    budget: SendBudget,
    limiter: LeakyBucket,
    *,
    until: float,
    start: float = 0.0,
    latency: random.Random | None = None,
) -> float:
    """Something to send all the time, one request at a time; returns the time after the last."""
    rng = latency or random.Random(1)
    now = start
    while (now := budget.next_send_at(now)) < until:
        left = now
        budget.sent(left)
        now += rng.uniform(0.01, 0.1)
        wait_s = limiter.offer(now)
        now += rng.uniform(0.01, 0.1)
        if wait_s is not None:
            now += 0.5  # Synapse holds a refusal back that long
            budget.limited(now, wait_s, sent_at=left)
    return now


def test_without_a_known_limit_nothing_is_held_back() -> None:
    budget = SendBudget()
    for i in range(1000):
        assert budget.next_send_at(i / 1000) == i / 1000
        budget.sent(i / 1000)
    assert budget.rate_per_s() is None


def test_nothing_leaves_before_the_wait_that_the_homeserver_named_is_over() -> None:
    budget = SendBudget()
    budget.sent(0.0)
    budget.limited(1.0, 7.5, sent_at=0.0)
    assert budget.next_send_at(1.0) > 8.5
    assert budget.next_send_at(8.4) > 8.5


def test_a_refusal_of_a_request_from_the_same_volley_prolongs_the_wait_but_teaches_nothing() -> (
    None
):
    budget = SendBudget()
    for left in (0.0, 0.1, 0.2, 0.3):
        budget.sent(left)
    budget.limited(0.8, 4.0, sent_at=0.2)
    learnt = budget.rate_per_s()
    budget.limited(0.9, 9.0, sent_at=0.3)
    assert budget.rate_per_s() == learnt
    assert budget.next_send_at(0.9) > 9.9


def send_sparingly(
    budget: SendBudget, limiter: LeakyBucket, *, until: float, answer_every_s: float
) -> None:
    """Progress every two seconds where it can be spared, and an answer now and then."""
    next_answer, now = answer_every_s, 0.0
    while now < until:
        now += 0.1
        is_answer = now >= next_answer and budget.next_send_at(now) <= now
        is_progress = (
            round(now * 10) % 20 == 0 and count_spare(budget.tokens(now), budget.state) > 0
        )
        if not is_answer and not is_progress:
            continue
        next_answer += answer_every_s if is_answer else 0
        budget.sent(now)
        if (wait_s := limiter.offer(now + 0.05)) is not None:
            budget.limited(now + 0.55, wait_s, sent_at=now)


@pytest.mark.parametrize("answer_every_s", [13.0, 17.0, 30.0, 61.0])
def test_a_rate_that_one_refusal_taught_is_corrected_and_not_the_burst(
    answer_every_s: float,
) -> None:
    """With messages held back, the second refusal comes while many are believed to be at hand."""
    budget, limiter = SendBudget(), stock_limiter()
    send_sparingly(budget, limiter, until=1200.0, answer_every_s=answer_every_s)
    assert len(limiter.refused) <= 3
    assert budget.rate_per_s() == pytest.approx(STOCK_RATE, rel=0.1)
    assert budget.state.burst > 9


def test_two_refusals_teach_the_stock_rate() -> None:
    budget, limiter = SendBudget(), stock_limiter()
    send_always(budget, limiter, until=50.0)
    assert len(limiter.refused) == 2
    assert budget.rate_per_s() == pytest.approx(STOCK_RATE, rel=0.05)


def test_a_refusal_without_a_wait_still_makes_us_wait() -> None:
    budget = SendBudget()
    budget.sent(0.0)
    budget.limited(0.1, None)
    first = budget.next_send_at(0.1)
    assert first >= 5.0
    budget.sent(first)
    budget.limited(first, None)
    assert budget.next_send_at(first) - first >= 2 * (first - 0.1) * 0.9


@pytest.mark.parametrize("wait_s", [1e9, float("inf")])
def test_an_absurd_wait_is_cut_to_an_hour_and_not_taken_for_a_rate(wait_s: float) -> None:
    budget = SendBudget()
    budget.sent(0.0)
    budget.limited(0.1, wait_s)
    assert budget.next_send_at(0.1) == pytest.approx(HOUR_S, abs=1)
    rate = budget.rate_per_s()
    assert rate is not None
    assert rate >= 1 / 60


def test_after_learning_a_burst_is_used_again_once_the_bucket_had_time_to_empty() -> None:
    budget, limiter = SendBudget(), stock_limiter()
    now = send_always(budget, limiter, until=40.0)
    before = len(limiter.refused)
    start = now + 200.0
    accepted = len(limiter.accepted)
    send_always(budget, limiter, until=start + 3.0, start=start)
    assert len(limiter.accepted) - accepted == 10
    assert len(limiter.refused) == before


def test_a_burst_that_is_shorter_than_believed_is_learnt() -> None:
    budget = SendBudget(BudgetState(interval_s=5.0, burst=10.0))
    limiter = LeakyBucket(rate_per_s=STOCK_RATE, burst=3)
    for round_number in range(5):
        start = round_number * 1000.0
        send_always(budget, limiter, until=start + 30.0, start=start)
    assert budget.state.burst == pytest.approx(3.0, abs=0.5)
    assert sum(at > 2000.0 for at in limiter.refused) <= 5


def test_in_an_hour_of_pressure_the_stock_limit_refuses_about_one_message_a_probe() -> None:
    budget, limiter = SendBudget(), stock_limiter()
    send_always(budget, limiter, until=HOUR_S)
    assert len(limiter.refused) <= 9
    assert len(limiter.accepted) >= 0.95 * STOCK_RATE * HOUR_S


def test_a_lifted_limit_is_noticed() -> None:
    budget, limiter = SendBudget(), stock_limiter()
    now = send_always(budget, limiter, until=600.0)
    free = LeakyBucket(rate_per_s=1e6, burst=1000)
    send_always(budget, free, until=now + 1500.0, start=now)
    assert budget.rate_per_s() is None
    assert free.refused == []


def time_until_free(budget: SendBudget, *, start: float) -> float:
    """Seconds of pressure until a limit that was lifted is held no longer."""
    now = start
    while budget.rate_per_s() is not None:
        now = budget.next_send_at(now)
        budget.sent(now)
    return now - start


def test_a_lifted_limit_is_held_for_a_quarter_of_an_hour_or_minutes_after_a_start() -> None:
    budget, limiter = SendBudget(), stock_limiter()
    now = send_always(budget, limiter, until=3 * HOUR_S)
    revived = SendBudget(budget.state)
    assert time_until_free(budget, start=now) < 17 * 60
    assert time_until_free(revived, start=now) < 2.5 * 60


def test_a_limit_that_falls_is_learnt_in_three_refusals() -> None:
    budget = SendBudget()
    fast = LeakyBucket(rate_per_s=2.0, burst=10)
    now = send_always(budget, fast, until=30.0)
    slow = LeakyBucket(rate_per_s=STOCK_RATE, burst=10, updated_at=now)
    send_always(budget, slow, until=now + 60.0, start=now)
    assert len(slow.refused) <= 3
    assert budget.rate_per_s() == pytest.approx(STOCK_RATE, rel=0.1)


def test_what_was_learnt_survives_a_restart() -> None:
    budget, limiter = SendBudget(), stock_limiter()
    now = send_always(budget, limiter, until=50.0)
    refused = len(limiter.refused)
    revived = SendBudget(budget.state)
    send_always(revived, limiter, until=now + 60.0, start=now + 5)
    assert revived.rate_per_s() is not None
    assert len(limiter.refused) - refused <= 1


def test_a_state_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="interval_s"):
        BudgetState(interval_s=0.0, burst=1.0)
    with pytest.raises(ValueError, match="burst"):
        BudgetState(interval_s=None, burst=float("nan"))


def test_a_clock_that_steps_back_grants_nothing() -> None:
    budget = SendBudget(BudgetState(interval_s=5.0, burst=10.0))
    budget.sent(100.0)
    assert budget.next_send_at(100.0) == pytest.approx(105.25)
    assert budget.next_send_at(50.0) > 50.0
    assert budget.next_send_at(100.0) == pytest.approx(105.25)


def test_the_state_is_visible_in_the_repr() -> None:
    assert "no limit known" in repr(SendBudget())
    assert "every 5.00 s, burst 10.0" in repr(SendBudget(BudgetState(interval_s=5.0, burst=10.0)))


@given(
    interval_s=st.floats(0.2, 50.0),
    burst=st.floats(1.0, 50.0),
    gaps=st.lists(st.floats(0.0, 100.0), max_size=80),
)
def test_a_known_rate_is_never_exceeded(interval_s: float, burst: float, gaps: list[float]) -> None:
    """Messages arrive at any times and leave as soon as permitted, before any probe."""
    budget = SendBudget(BudgetState(interval_s=interval_s, burst=burst))
    budget.next_send_at(0.0)
    budget._hold_until = float("inf")
    now, departures = 0.0, list[float]()
    for gap in gaps:
        now = budget.next_send_at(now + gap)
        budget.sent(now)
        departures.append(now)
    for i, first in enumerate(departures):
        for j in range(i, len(departures)):
            allowed = burst + (departures[j] - first) / interval_s
            assert j - i + 1 <= allowed + 1e-6


@given(
    rate=st.floats(0.05, 1.0),
    burst=st.integers(3, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_limit_is_learnt_used_and_hardly_ever_met_again(
    rate: float, burst: int, seed: int
) -> None:
    budget = SendBudget()
    limiter = LeakyBucket(rate_per_s=rate, burst=burst)
    rng = random.Random(seed)
    learning_s = 300.0 + 10 / rate
    now = send_always(budget, limiter, until=learning_s, latency=rng)
    learning = len(limiter.refused)
    before = len(limiter.accepted)
    send_always(budget, limiter, until=now + HOUR_S, start=now, latency=rng)
    assert learning <= 8
    assert len(limiter.refused) - learning <= 24
    assert len(limiter.accepted) - before >= 0.75 * rate * HOUR_S


@given(
    faults=st.lists(st.one_of(st.none(), st.just(-1.0), st.floats(0.0, 30.0)), max_size=60),
    gaps=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60),
)
def test_whatever_is_refused_the_next_departure_is_after_the_wait_and_within_an_hour_or_so(
    faults: list[float | None], gaps: list[float]
) -> None:
    """-1: accepted; None: refused without a wait; else refused with that wait."""
    budget, now, not_before = SendBudget(), 0.0, 0.0
    for fault, gap in zip(faults, gaps, strict=False):
        asked = now + gap
        now = budget.next_send_at(asked)
        assert max(asked, not_before) <= now <= asked + 200.0
        budget.sent(now)
        if fault != -1.0:
            budget.limited(now + 0.1, fault)
            not_before = now + 0.1 + (fault or 0.0)
    assert 1.0 <= budget.state.burst <= max(STOCK_BURST, 100.0)
