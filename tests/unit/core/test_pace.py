"""The pace: within the burst nobody waits, past it the rate holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.pace import Pace


def test_the_burst_is_free_and_what_is_beyond_waits() -> None:
    pace = Pace(rate=2, burst=3)
    assert [pace.spend(1, now=10.0) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]


def test_time_pays_the_debt_off_and_never_more() -> None:
    pace = Pace(rate=2, burst=1)
    pace.spend(5, now=0.0)
    assert pace.spend(1, now=100.0) == 0
    assert pace.spend(1, now=100.0) == 0.5


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3)), max_size=40))
def test_who_waits_as_told_never_exceeds_rate_and_burst(steps: list[tuple[float, float]]) -> None:
    pace = Pace(rate=2.0, burst=4.0)
    now, spent = 0.0, 0.0
    for cost, pause in steps:
        now += pause
        now += pace.spend(cost, now=now)
        spent += cost
        assert spent <= 4.0 + 2.0 * now + 1e-6
