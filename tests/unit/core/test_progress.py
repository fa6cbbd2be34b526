"""Progress is shown while the account has messages to spare, and the rooms take turns."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.pacing import BudgetState
from orchestrator.core.progress import AT_ONCE, RESERVE, ProgressShare, count_spare
from orchestrator.model import RoomId

A, B, C = (RoomId(f"!{name}") for name in "abc")


@pytest.mark.parametrize(
    ("tokens", "interval_s", "burst", "spare"),
    [
        (math.inf, None, 10, AT_ONCE),
        (0.0, None, 10, 0),
        (10.0, 5.0, 10, 10 - RESERVE),
        (5.9, 5.0, 10, 0),
        (6.0, 5.0, 10, 1),
        (0.0, 5.0, 10, 0),
        (4.0, 1.0, 5, 2),
        (1.0, 1.0, 1, 1),
        (1.0, 30.0, 1, 0),
    ],
    ids=[
        "no limit known",
        "no limit known, told to wait",
        "a full bucket but for the reserve",
        "not quite one above the reserve",
        "one above the reserve",
        "empty",
        "half of a small burst is the reserve",
        "no burst, and fast",
        "no burst, and an answer would wait for half a minute",
    ],
)
def test_what_is_above_the_reserve_can_be_spared(
    tokens: float, interval_s: float | None, burst: float, spare: int
) -> None:
    assert count_spare(tokens, BudgetState(interval_s=interval_s, burst=burst)) == spare


@given(st.floats(0, 100), st.floats(0.1, 60), st.floats(1, 100))
def test_sparing_never_touches_the_reserve(tokens: float, interval_s: float, burst: float) -> None:
    spare = count_spare(tokens, BudgetState(interval_s=interval_s, burst=burst))
    assert spare == 0 or tokens - spare >= min(RESERVE, burst // 2) - 1e-3


def test_a_permission_counts_until_its_message_has_left() -> None:
    share = ProgressShare()
    assert share.ask(A, spare=1, now=0.0)
    assert not share.ask(B, spare=1, now=0.1)
    share.left(A)
    assert share.ask(B, spare=1, now=0.2)


def test_a_permission_that_is_never_used_does_not_block_the_others_for_long() -> None:
    share = ProgressShare()
    assert share.ask(A, spare=1, now=0.0)
    assert not share.ask(B, spare=1, now=14.0)
    assert share.ask(B, spare=1, now=16.0)


def test_the_room_that_has_waited_longest_is_next_and_none_is_left_out() -> None:
    share, shown = ProgressShare(), []
    for step in range(60):
        now = step * 2.0
        for room in (A, B, C):
            # One message in ten seconds, and each room asks every two seconds.
            is_one_left = step % 5 == 0 and len(shown) <= step // 5
            if share.ask(room, spare=int(is_one_left), now=now):
                shown.append(room)
                share.left(room)
    assert shown == [A, B, C] * 4


def test_a_room_that_stopped_asking_holds_up_nobody() -> None:
    share = ProgressShare()
    assert not share.ask(A, spare=0, now=0.0)
    assert not share.ask(B, spare=1, now=10.0)
    assert share.ask(B, spare=1, now=16.0)


def test_the_repr_shows_the_state() -> None:
    share = ProgressShare()
    share.ask(A, spare=0, now=0.0)
    share.ask(B, spare=2, now=0.0)
    assert repr(share) == "<ProgressShare asking=1 allowed=1>"
