"""Long text as several messages: each fits, nothing is lost, and code stays code."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.chunking import (
    RESERVE_BYTES,
    measure_content,
    split_for_event,
    split_markdown,
)
from orchestrator.core.sanitise import sanitise

WORDS = st.text(alphabet='abc漢"<&\\😀', min_size=1, max_size=30)
LINES = st.one_of(
    WORDS,
    st.just(""),
    st.sampled_from(["```", "```python", "~~~", "````", "  ```", "> ```", "- item", "  deeper"]),
    st.builds(lambda word, count: word * count, WORDS, st.integers(1, 200)),
)
TEXTS = st.lists(LINES, max_size=60).map("\n".join)


def bodies(text: str, max_bytes: int) -> list[str]:
    return [str(piece.content["body"]) for piece in split_markdown(text, max_bytes=max_bytes)]


def is_balanced(body: str) -> bool:
    return sum(line.startswith("```") for line in body.splitlines()) % 2 == 0


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1000, 4000))
def test_every_piece_fits_and_together_they_are_the_text(text: str, max_bytes: int) -> None:
    pieces = list(split_markdown(text, max_bytes=max_bytes))
    rest = sanitise(text)
    for piece in pieces:
        assert measure_content(piece.content) <= max_bytes
        assert piece.source.strip("\n") in str(piece.content["body"])
        before, found, rest = rest.partition(piece.source)
        assert found
        assert not before.strip()
    assert not rest.strip()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=3000), st.integers(1000, 1500))
def test_any_text_at_all_can_be_split(text: str, max_bytes: int) -> None:
    pieces = list(split_markdown(text, max_bytes=max_bytes))
    assert all(measure_content(piece.content) <= max_bytes for piece in pieces)
    kept = "".join("".join(piece.source.split()) for piece in pieces)
    assert kept == "".join(sanitise(text).split())


def test_short_text_is_one_message_with_its_html() -> None:
    (content,) = split_for_event("Hello **you**", max_event_bytes=55_000)
    assert content["formatted_body"] == "<p>Hello <strong>you</strong></p>"


@pytest.mark.parametrize("text", ["", " \n\n\t", "\n" * 5000])
def test_blank_text_is_no_message(text: str) -> None:
    assert split_for_event(text, max_event_bytes=4096) == []


def test_a_cut_goes_between_paragraphs() -> None:
    paragraph = "word " * 60 + "end."
    parts = bodies("\n\n".join([paragraph] * 20), 4000)
    assert len(parts) > 2
    assert all(part.endswith("end.") and part.startswith("word") for part in parts)


def test_a_cut_fence_is_closed_and_opened_again_with_its_language() -> None:
    code = "\n".join(f"print({number})" for number in range(500))
    parts = bodies(f"Look:\n\n```python title=x\n{code}\n```\n\nDone.", 4000)
    assert len(parts) > 3
    assert all(is_balanced(part) for part in parts)
    assert all(part.startswith("```python\nprint") for part in parts[1:])
    printed = [line for part in parts for line in part.splitlines() if line.startswith("print")]
    assert "\n".join(printed) == code


def test_a_short_fence_is_not_cut() -> None:
    filler, code = "word " * 150, "code line\n" * 20
    parts = bodies(f"{filler}\n\n```\n{code}```\n\n{filler}", 3000)
    assert all(is_balanced(part) for part in parts)
    assert [part.count("code line") for part in parts if "code line" in part] == [20]


def test_a_line_without_any_space_is_cut_anywhere() -> None:
    parts = bodies("x" * 10_000, 2000)
    assert "".join(parts) == "x" * 10_000


def test_text_that_grows_too_much_as_html_is_sent_without() -> None:
    contents = split_for_event('"&<>' * 3000, max_event_bytes=6000)
    assert "".join(str(content["body"]) for content in contents) == '"&<>' * 3000


def test_the_sender_can_add_its_key_and_stay_within_the_limit() -> None:
    contents = split_for_event("word *x* " * 20_000, max_event_bytes=55_000)
    assert len(contents) > 2
    assert all(measure_content(content) <= 55_000 - RESERVE_BYTES for content in contents)
    # Pieces are not needlessly small either.
    assert all(measure_content(content) > 30_000 for content in contents[:-1])


def test_a_limit_without_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1000"):
        list(split_markdown("x", max_bytes=999))


@pytest.mark.parametrize(
    "text",
    ["A paragraph with **bold** text.\n\n" * 8000, "```\n" + "x = 1\n" * 40_000, "x" * 250_000],
    ids=["prose", "code", "one line"],
)
def test_a_quarter_of_a_megabyte_is_split_in_linear_time(text: str) -> None:
    started = time.perf_counter()
    count = sum(1 for _ in split_markdown(text, max_bytes=53_000))
    # Measured: 0.3 s at most; a split that starts over for each piece would take a minute.
    assert time.perf_counter() - started < 20
    assert count < 30
