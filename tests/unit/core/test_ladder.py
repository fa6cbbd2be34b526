"""The steps that end a turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.ladder import KillLadder, LadderStep

ORDER = list(LadderStep)


@pytest.mark.parametrize(
    ("elapsed_s", "step", "next_at_s"),
    [
        (0.0, LadderStep.INTERRUPT, 5.0),
        (4.9, LadderStep.INTERRUPT, 5.0),
        (5.0, LadderStep.CLOSE, 10.0),
        (10.0, LadderStep.KILL, 15.0),
        (15.0, LadderStep.REMOVE, None),
        (1e6, LadderStep.REMOVE, None),
    ],
)
def test_each_step_gets_its_time(elapsed_s: float, step: LadderStep, next_at_s: float) -> None:
    assert KillLadder().step(elapsed_s) is step
    assert KillLadder().next_step_at_s(elapsed_s) == next_at_s


def test_a_clock_that_steps_back_starts_at_the_first_step() -> None:
    assert KillLadder().step(-3.0) is LadderStep.INTERRUPT


def test_the_last_step_comes_within_twenty_seconds() -> None:
    assert KillLadder().step(20.0) is LadderStep.REMOVE


def test_a_step_without_time_is_skipped() -> None:
    assert KillLadder(interrupt_s=0).step(0.0) is LadderStep.CLOSE
    with pytest.raises(ValueError, match="no time"):
        KillLadder(kill_s=-1)


@given(
    paces=st.tuples(*[st.floats(0, 100)] * 3),
    times=st.lists(st.floats(0, 400), min_size=2).map(sorted),
)
def test_the_ladder_only_goes_up(paces: tuple[float, float, float], times: list[float]) -> None:
    ladder = KillLadder(interrupt_s=paces[0], close_s=paces[1], kill_s=paces[2])
    steps = [ORDER.index(ladder.step(at)) for at in times]
    assert steps == sorted(steps)


@given(paces=st.tuples(*[st.floats(0, 100)] * 3))
def test_whoever_sleeps_until_the_next_step_reaches_the_last(
    paces: tuple[float, float, float],
) -> None:
    ladder = KillLadder(interrupt_s=paces[0], close_s=paces[1], kill_s=paces[2])
    now, hops = 0.0, 0
    while (at := ladder.next_step_at_s(now)) is not None:
        now, hops = at, hops + 1
    assert ladder.step(now) is LadderStep.REMOVE
    assert hops <= 3
