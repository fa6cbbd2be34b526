"""What is kept until it is acknowledged."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from shim import limits
from shim.spool import Spool

BODY = b'"t":"out","s":"m","d":"x"}\n'


def numbers(data: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb'"q":(\d+)', data)]


def test_frames_are_numbered_from_one_and_written_once() -> None:
    spool = Spool()
    for _ in range(3):
        spool.add_output(BODY)
    assert numbers(spool.take_unsent(10_000)) == [1, 2, 3]
    assert spool.take_unsent(10_000) == b""


def test_after_a_rewind_everything_that_is_not_acknowledged_is_written_again() -> None:
    spool = Spool()
    for _ in range(5):
        spool.add_output(BODY)
    spool.take_unsent(len(BODY) * 3)
    assert spool.forget(2)
    spool.rewind()
    spool.add_output(BODY)
    assert numbers(spool.take_unsent(10_000)) == [3, 4, 5, 6]


def test_what_was_never_said_can_not_be_acknowledged() -> None:
    spool = Spool()
    spool.add_output(BODY)
    assert not spool.forget(2)
    assert numbers(spool.take_unsent(10_000)) == [1]


def test_frames_may_be_acknowledged_before_they_are_written_again() -> None:
    spool = Spool()
    for _ in range(4):
        spool.add_output(BODY)
    spool.take_unsent(10_000)
    spool.rewind()
    spool.forget(3)
    assert numbers(spool.take_unsent(10_000)) == [4]


def test_output_stops_at_its_limit_and_answers_still_have_room() -> None:
    spool = Spool()
    while spool.has_room():
        spool.add_output(b'"d":"' + b"x" * 60_000 + b'"}\n')
    assert spool.next_q * 60_000 < limits.SPOOL_BYTES + 200_000
    assert spool.has_reserve()
    spool.add_answer(BODY)
    spool.forget(spool.next_q - 1)
    assert spool.has_room()


def test_answers_have_a_limit_of_their_own() -> None:
    spool = Spool()
    while spool.has_reserve():
        spool.add_answer(b'"t":"applied","id":"c","dup":false}\n')
    assert spool.next_q < limits.MAX_APPLIED_IDS
    assert spool.has_room()
    spool.forget(spool.next_q - 1)
    assert spool.has_reserve()


@given(st.lists(st.sampled_from(["add", "take", "ack", "rewind"]), max_size=60))
def test_whatever_happens_nothing_unacknowledged_is_lost(steps: list[str]) -> None:
    spool, acked, seen = Spool(), 0, 0
    for step in steps:
        if step == "add":
            spool.add_output(BODY)
        elif step == "rewind":
            spool.rewind()
            seen = acked
        elif step == "take":
            got = numbers(spool.take_unsent(30))
            assert got == list(range(max(seen, acked) + 1, max(seen, acked) + 1 + len(got)))
            seen = max(seen, acked) + len(got)
        elif seen > acked:
            acked += 1
            assert spool.forget(acked)
    spool.rewind()
    assert numbers(spool.take_unsent(10**6)) == list(range(acked + 1, spool.next_q))
