"""A diff leads from the old text to the new one, and is bounded."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.line_diff import diff_lines

LINES = st.lists(st.sampled_from("abcd"), max_size=30)


def apply(old: list[str], new: list[str]) -> list[str]:
    made, at = [], 0
    for block in diff_lines(old, new):
        made += old[at : block.old_start]
        assert len(made) == block.new_start
        made += new[block.new_start : block.new_end]
        at = block.old_end
    return made + old[at:]


@given(old=LINES, new=LINES)
def test_the_blocks_make_the_new_text_of_the_old_one(old: list[str], new: list[str]) -> None:
    assert apply(old, new) == new


@given(text=LINES)
def test_a_text_does_not_differ_from_itself(text: list[str]) -> None:
    assert diff_lines(text, text) == []


@given(text=LINES, at=st.integers(0, 30), line=st.sampled_from("xyz"))
def test_one_line_more_is_one_line_more(text: list[str], at: int, line: str) -> None:
    (block,) = diff_lines(text, [*text[:at], line, *text[at:]])
    assert (block.old_end - block.old_start, block.new_end - block.new_start) == (0, 1)


def test_texts_that_have_nothing_in_common_take_no_time() -> None:
    old, new = [f"a{i % 7}" for i in range(20_000)], [f"b{i}" for i in range(20_000)]
    started = time.process_time()
    assert apply(old, new) == new
    assert time.process_time() - started < 5
