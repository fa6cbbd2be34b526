"""What several rooms' failures say together."""

from __future__ import annotations

import math

from orchestrator.core.outage import MAX_WAIT_S, Outage, backoff_s
from orchestrator.model import RoomId

A, B, C = RoomId("!a"), RoomId("!b"), RoomId("!c")


def outage() -> Outage:
    return Outage(jitter=lambda: 1.0)


def test_waits_double_up_to_a_minute_and_are_never_below_a_second() -> None:
    assert [backoff_s(n, jitter=lambda: 1.0) for n in range(9)] == [1, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(10**9, jitter=lambda: 1.0) == MAX_WAIT_S
    assert backoff_s(1, jitter=lambda: 0.0) == 1.0
    assert backoff_s(5, jitter=lambda: 0.0) == 8.0


def test_one_failing_room_is_no_outage() -> None:
    o = outage()
    for at in range(10):
        o.failed(A, left=at, now=at + 0.5)
    assert not o.is_on
    assert o.may_ask_at(A) == -math.inf


def test_two_failing_rooms_are_and_both_wait() -> None:
    o = outage()
    o.failed(A, left=0.0, now=1.0)
    o.failed(B, left=2.0, now=3.0)
    assert o.is_on
    assert o.may_ask_at(A) == o.may_ask_at(B) == 4.0
    assert o.may_ask_at(C) == -math.inf


def test_requests_that_were_under_way_together_count_once() -> None:
    o = outage()
    o.failed(A, left=0.0, now=1.0)
    o.failed(B, left=2.0, now=3.0)
    for _ in range(6):
        o.failed(C, left=2.5, now=3.5)
    assert o.until == 4.0


def test_each_further_failure_prolongs_the_wait() -> None:
    o = outage()
    o.failed(A, left=0.0, now=1.0)
    waits = []
    for at in range(100, 1000, 100):
        o.failed(B, left=at, now=at)
        waits.append(o.until - at)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_any_answer_ends_it() -> None:
    o = outage()
    o.failed(A, left=0.0, now=1.0)
    o.failed(B, left=2.0, now=3.0)
    o.answered()
    assert not o.is_on
    assert o.may_ask_at(A) == -math.inf
    assert repr(o) == "Outage(off, 0 rooms, until -inf)"
