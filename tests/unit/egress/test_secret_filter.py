"""Several texts are taken out of one stream, and what is held back tells nothing of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.room_secret import Hidden
from orchestrator.egress.secret_filter import SecretFilter, SecretFilters

SECRET, MARK = "ghp_Zq3vXw8Yt5Rb", "ghp_Aa1aAa1Aa1Aa"
HIDDEN = (Hidden(text=SECRET, mark=MARK), Hidden(text="s3cret-two", mark="a1bcde-fgh"))


@given(
    st.lists(
        st.sampled_from([SECRET, SECRET[:5], SECRET[5:], "s3cret-two", "s3cret-", "two", " ", "x"])
    ),
    st.integers(1, 7),
)
def test_no_text_gets_through_however_the_pieces_are_cut_and_the_length_stays(
    pieces: list[str], size: int
) -> None:
    whole = "".join(pieces).encode()
    filters = SecretFilters(HIDDEN)
    fed = [filters.feed(whole[n : n + size]) for n in range(0, len(whole), size)]
    out = b"".join([*fed, filters.end()])
    assert len(out) == len(whole)
    assert not any(item.text.encode() in out for item in HIDDEN)
    assert out == whole.replace(SECRET.encode(), MARK.encode()).replace(
        b"s3cret-two", b"a1bcde-fgh"
    )


@pytest.mark.parametrize("guess", [SECRET[:n] for n in range(1, len(SECRET))])
def test_a_right_guess_is_held_back_as_long_as_a_wrong_one(guess: str) -> None:
    wrong = guess[:-1] + ("x" if guess[-1] != "x" else "y")
    right_out = SecretFilter(SECRET, MARK).feed(f"data: {guess}".encode())
    wrong_out = SecretFilter(SECRET, MARK).feed(f"data: {wrong}".encode())
    assert right_out == wrong_out == b"data: "


def test_lines_are_not_held_back() -> None:
    assert SecretFilters(HIDDEN).feed(b"data: {}\n\n") == b"data: {}\n\n"


def test_no_more_is_held_back_than_the_text_is_long() -> None:
    assert len(SecretFilter(SECRET, MARK).feed(b"x" * 1000)) == 1000 - len(SECRET) + 1
