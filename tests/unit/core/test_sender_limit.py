"""What one sender gets through, and which flood is told of, in simulated time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.sender_limit import QUIET_S, Episodes, SenderLimits

ALICE, BOB = ("!r", "@alice:test"), ("!r", "@bob:test")


def test_a_burst_and_then_the_rate_get_through_and_nothing_more() -> None:
    limits = SenderLimits(burst=60, per_minute=30)
    assert sum(limits.take(ALICE, at=100.0) for _ in range(1000)) == 60
    taken = sum(limits.take(ALICE, at=100.0 + i / 100) for i in range(6000))
    assert taken == 29
    assert limits.take(BOB, at=100.0)


def test_after_a_pause_the_whole_burst_is_there_again() -> None:
    limits = SenderLimits(burst=3, per_minute=60)
    assert [limits.take(ALICE, at=0.0) for _ in range(4)] == [True, True, True, False]
    assert [limits.take(ALICE, at=500.0) for _ in range(4)] == [True, True, True, False]


def test_time_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    limits = SenderLimits(burst=1, per_minute=60)
    assert limits.take(ALICE, at=1000.0)
    assert not limits.take(ALICE, at=10.0)
    assert limits.take(ALICE, at=1001.0)


@given(
    gaps=st.lists(st.floats(min_value=0, max_value=10), max_size=200),
    burst=st.integers(min_value=1, max_value=20),
    per_minute=st.integers(min_value=1, max_value=600),
)
def test_no_stretch_of_time_ever_sees_more_than_the_limit(
    gaps: list[float], burst: int, per_minute: int
) -> None:
    limits, at, through = SenderLimits(burst=burst, per_minute=per_minute), 0.0, []
    for gap in gaps:
        at += gap
        if limits.take(ALICE, at=at):
            through.append(at)
    for i, start in enumerate(through):
        for count, end in enumerate(through[i:], start=1):
            assert count <= burst + (end - start) * per_minute / 60 + 1e-6


def test_however_many_senders_there_are_only_the_latest_are_remembered() -> None:
    limits = SenderLimits(burst=1, per_minute=1, max_senders=100)
    for i in range(10_000):
        assert limits.take(i, at=float(i) / 1000)
    assert len(limits) == 100
    assert not limits.take(9_999, at=10.0)


def test_a_flood_is_told_once_until_it_was_quiet_for_a_minute() -> None:
    episodes = Episodes()
    told = []
    for at in (0.0, 1.0, 50.0, 100.0, 100.0 + QUIET_S, 500.0):
        if not episodes.is_on(ALICE, now=at):
            told.append(at)
        episodes.note(ALICE, now=at)
    assert told == [0.0, 100.0 + QUIET_S, 500.0]


def test_floods_that_are_over_are_forgotten() -> None:
    episodes = Episodes()
    for i in range(1000):
        episodes.note(i, now=float(i))
    assert len(episodes) == QUIET_S
    episodes.note(999, now=5000.0)
    assert len(episodes) == 1
