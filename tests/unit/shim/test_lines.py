"""Bytes into bounded lines, on the runner's side."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shim import limits
from shim.lines import Cut, FrameLines, OutputLines, StderrTrickle


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def output_of(chunks: list[bytes], *, limit: int) -> list[bytes | tuple[int, bytes]]:
    """All that comes out of the chunks, a cut line as (size, head)."""
    lines = OutputLines(limit)
    taken: list[bytes | Cut | None] = []
    for chunk in chunks:
        lines.feed(chunk)
        while (line := lines.take_line()) is not None:
            taken.append(line)
    taken.append(lines.take_rest())
    return [
        (line.size_bytes, line.head) if isinstance(line, Cut) else line
        for line in taken
        if line is not None
    ]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_frames_are_the_same_for_any_chunking(data: bytes, cuts: list[int]) -> None:
    whole = FrameLines(limit=16).feed(data)
    lines = FrameLines(limit=16)
    assert [line for chunk in chunks_of(data, cuts) for line in lines.feed(chunk)] == whole


newlines = st.lists(st.sampled_from([b"\n", b"a", b"bcd", b"x" * 20]), max_size=60).map(b"".join)


@given(newlines, st.lists(st.integers(0, 600)))
def test_output_lines_are_sized_the_same_for_any_chunking(data: bytes, cuts: list[int]) -> None:
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    got = output_of(chunks_of(data, cuts), limit=16)
    sizes = [item[0] if isinstance(item, tuple) else len(item) for item in got]
    assert sizes == [len(line) for line in expected]
    for item, line in zip(got, expected, strict=True):
        assert isinstance(item, tuple) == (len(line) > 16)
        assert (item[1] if isinstance(item, tuple) else item) == line[:16]


def test_a_line_of_any_length_is_counted_without_being_kept() -> None:
    lines = OutputLines(limit=1000)
    for _ in range(100):
        lines.feed(b"x" * 1000)
        assert lines.take_line() is None
        assert len(lines._buffer) <= 1000
    lines.feed(b"\nnext\n")
    cut = lines.take_line()
    assert isinstance(cut, Cut)
    assert cut.size_bytes == 100_000
    assert lines.take_line() == b"next"


def test_the_head_of_a_cut_line_is_its_beginning() -> None:
    line = b'{"type":"user",' + b"x" * 10_000
    ((size, head),) = [item for item in output_of([line], limit=5000) if isinstance(item, tuple)]
    assert size == len(line)
    assert head == line[: limits.CUT_HEAD_BYTES]


def test_stderr_passes_up_to_the_burst_and_then_at_the_rate() -> None:
    trickle = StderrTrickle(now=0.0)
    assert len(trickle.take(b"x" * 200_000, 0.0, has_room=True)) == limits.STDERR_BURST_BYTES
    assert trickle.take_dropped() == 200_000 - limits.STDERR_BURST_BYTES
    passed = trickle.take(b"x" * 200_000, 1.0, has_room=True)
    assert len(passed) == limits.STDERR_BYTES_PER_S


def test_stderr_is_counted_not_kept_when_there_is_no_room() -> None:
    trickle = StderrTrickle(now=0.0)
    assert trickle.take(b"oh", 0.0, has_room=False) == ""
    assert trickle.take_dropped() == 2
    assert trickle.take_dropped() == 0


def test_a_character_of_stderr_may_come_in_two_reads() -> None:
    trickle = StderrTrickle(now=0.0)
    first, second = "é".encode()[:1], "é".encode()[1:]
    texts = [trickle.take(data, 0.0, has_room=True) for data in (first, second)]
    assert "".join(texts) == "é"
