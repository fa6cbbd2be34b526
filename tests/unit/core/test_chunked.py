"""Bodies in chunks: any cutting gives the same body, and anything odd is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.chunked import ChunkedBody


def _encode(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def _decode(data: bytes, cuts: list[int]) -> tuple[bytes, bool, bytes]:
    body, got = ChunkedBody(), b""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        got += body.feed(data[start:end])
    return got, body.is_done, body.rest


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.binary(max_size=20),
    st.lists(st.integers(0, 300), max_size=30),
)
def test_any_cutting_gives_the_same_body(
    pieces: list[bytes], after: bytes, cuts: list[int]
) -> None:
    assert _decode(_encode(pieces) + after, cuts) == (b"".join(pieces), True, after)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=10))
def test_any_bytes_are_read_or_refused_the_same_however_cut(data: bytes, cuts: list[int]) -> None:
    def outcome(places: list[int]) -> object:
        try:
            return _decode(data, places)
        except ValueError:
            return "refused"

    assert outcome(cuts) == outcome([])


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(0, 300))
def test_a_body_that_is_cut_short_is_never_done(pieces: list[bytes], size: int) -> None:
    data = _encode(pieces)
    assert _decode(data[: min(size, len(data) - 1)], [])[1] is False


@pytest.mark.parametrize("size", [b"5" * 9, b"5" * 200])
def test_a_size_without_an_end_is_refused_before_it_grows(size: bytes) -> None:
    with pytest.raises(ValueError, match="size"):
        ChunkedBody().feed(size + b"5")
