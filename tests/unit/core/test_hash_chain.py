"""A chain of lines: what is changed, taken out, put in or moved shows."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.hash_chain import GENESIS, TORN, Chain, chain_line, check_chain, digest_of


def make(count: int) -> list[str]:
    lines: list[str] = []
    before = GENESIS
    for number in range(1, count + 1):
        lines.append(chain_line({"action": f"a{number}"}, number=number, before=before))
        before = digest_of(lines[-1])
    return lines


def test_a_whole_chain_is_whole_and_its_head_is_the_last_lines_digest() -> None:
    lines = make(5)
    chain = check_chain(lines, Chain())
    assert (chain.problem, chain.lines, chain.last_number) == (None, 5, 5)
    assert chain.head == digest_of(lines[-1])
    assert check_chain([], Chain()) == Chain()


def test_it_goes_on_from_one_file_to_the_next() -> None:
    lines = make(6)
    half = check_chain(lines[:3], Chain())
    assert check_chain(lines[3:], half) == check_chain(lines, Chain())
    assert check_chain(lines[4:], half).problem == "line 4 does not follow the line before it"


@pytest.mark.parametrize("at", [0, 1, 3])
def test_whatever_is_done_to_a_line_in_it_shows(at: int) -> None:
    lines = make(5)
    changed = json.dumps({**json.loads(lines[at]), "action": "other"})
    for wrong in (
        [*lines[:at], changed, *lines[at + 1 :]],
        [*lines[:at], *lines[at + 1 :]],
        [*lines[:at], lines[at], lines[at], *lines[at + 1 :]],
        [*lines[:at], "nonsense", *lines[at:]],
        [*lines[:at], "[]", *lines[at:]],
        [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]],
    ):
        assert check_chain(wrong, Chain()).problem is not None, wrong


def test_a_wrong_number_shows_even_in_a_chain_that_was_written_anew() -> None:
    one = chain_line({"action": "a"}, number=1, before=GENESIS)
    two = chain_line({"action": "b"}, number=5, before=digest_of(one))
    assert check_chain([one, two], Chain()).problem == "line 2 should have number 2"


def test_a_cut_end_shows_by_a_digest_that_was_kept() -> None:
    lines = make(5)
    kept = check_chain(lines, Chain()).head
    assert check_chain(lines[:3], Chain()).problem is None
    assert not check_chain(lines[:3], Chain(), expected=kept).has_expected
    assert check_chain([*lines], Chain(), expected=kept).has_expected
    assert check_chain(make(9), Chain(), expected=kept).has_expected, "it is in the middle"


def test_a_line_that_a_loss_of_power_left_half_is_known_by_the_one_behind_it() -> None:
    lines = make(3)
    half = lines[2][:20]
    behind = chain_line({"action": TORN}, number=3, before=digest_of(half))
    assert check_chain([*lines[:2], half, behind], Chain()).problem is None
    assert check_chain([*lines[:2], half], Chain()).problem == "line 3 is no line of the log"
    other = chain_line({"action": "a"}, number=3, before=digest_of(half))
    assert check_chain([*lines[:2], half, other], Chain()).problem is not None
