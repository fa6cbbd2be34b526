"""A turn's two limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.deadline import Expiry, TurnClock


def clock() -> TurnClock:
    return TurnClock(timeout_s=300, ceiling_s=1800, now=1000.0)


def test_a_turn_without_progress_is_stalled_after_its_timeout() -> None:
    turn = clock()
    assert turn.next_deadline() == 1300.0
    assert turn.expired(1299.9) is None
    assert turn.expired(1300.0) is Expiry.STALLED


def test_progress_starts_the_timeout_again_but_not_the_ceiling() -> None:
    turn = clock()
    for now in range(1000, 2800, 100):
        turn.progress(float(now))
    assert turn.next_deadline() == 2800.0
    assert turn.expired(2799.9) is None
    assert turn.expired(2800.0) is Expiry.CEILING


def test_a_pause_counts_for_neither_limit() -> None:
    turn = clock()
    turn.pause(1100.0)
    assert turn.next_deadline() is None
    assert turn.expired(1e9) is None
    turn.resume(9100.0)
    assert turn.next_deadline() == 9300.0
    turn.progress(9200.0)
    assert turn.expired(9499.0) is None
    assert turn.expired(10_800.0) is Expiry.CEILING
    assert turn.expired(10_799.0) is Expiry.STALLED


def test_with_two_open_approvals_the_clock_goes_on_after_the_second_answer() -> None:
    turn = clock()
    turn.pause(1000.0)
    turn.pause(1100.0)
    turn.resume(1200.0)
    assert turn.expired(5000.0) is None
    turn.resume(5000.0)
    assert turn.next_deadline() == 5300.0


def test_progress_during_a_pause_gives_the_whole_timeout_after_it() -> None:
    turn = clock()
    turn.pause(1200.0)
    turn.progress(1250.0)
    turn.resume(1300.0)
    assert turn.next_deadline() == 1600.0


def test_time_in_which_nobody_listened_does_not_count_for_the_ceiling() -> None:
    turn = clock()
    turn.deaf(7200.0, 9000.0)
    for now in range(9000, 10_000, 100):
        turn.progress(float(now))
    assert turn.expired(9999.9) is None
    assert turn.expired(10_000.0) is Expiry.CEILING


def test_silence_begins_anew_after_a_time_in_which_nobody_listened() -> None:
    turn = clock()
    turn.deaf(100.0, 1500.0)
    assert turn.next_deadline() == 1800.0
    turn.deaf(3600.0, 5400.0)
    assert turn.expired(5699.9) is None
    assert turn.expired(5700.0) is Expiry.STALLED


def test_a_pause_is_not_counted_twice_when_nobody_listened_in_it() -> None:
    turn = clock()
    turn.pause(1000.0)
    turn.deaf(5000.0, 6000.0)
    turn.resume(6000.0)
    turn.progress(7799.0)
    assert turn.expired(7800.0) is Expiry.CEILING


def test_a_resume_without_a_pause_is_refused() -> None:
    with pytest.raises(ValueError, match="resume without pause"):
        clock().resume(1001.0)


@given(
    events=st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["progress", "pause", "resume"])))
)
def test_a_turn_never_outlives_its_ceiling_of_unpaused_time(
    events: list[tuple[float, str]],
) -> None:
    turn, now, unpaused_s, pauses = TurnClock(timeout_s=50, ceiling_s=500, now=0.0), 0.0, 0.0, 0
    for gap, kind in events:
        now += gap
        unpaused_s += 0 if pauses else gap
        if not pauses and unpaused_s >= 500.001:
            assert turn.expired(now) is Expiry.CEILING
        if not pauses and unpaused_s < 499.999:
            assert turn.expired(now) is not Expiry.CEILING
        if kind == "progress":
            turn.progress(now)
        elif kind == "pause":
            turn.pause(now)
            pauses += 1
        elif pauses:
            turn.resume(now)
            pauses -= 1
