"""The engine's frames: any chunking gives the same bytes, stderr is bounded, a cut is an error."""

from __future__ import annotations

import asyncio
import struct
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import WireClosedError
from orchestrator.runners.stream import AttachedStream, DiagnosticLines

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=12)


def frame(number: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", number, len(data)) + data


def attached(lines: list[str] | None = None) -> tuple[asyncio.StreamReader, AttachedStream]:
    reader = asyncio.StreamReader()
    sink = DiagnosticLines((lines if lines is not None else []).append)
    # Reading needs no writer.
    return reader, AttachedStream(reader, cast("Any", None), sink)


async def read_all(stream: AttachedStream) -> bytes:
    data = b""
    while part := await stream.read():
        data += part
    return data


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_any_chunking_gives_the_same_stdout(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(frame(number, data) for number, data in frames)
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})

    async def run() -> bytes:
        reader, stream = attached()
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_all(stream))
            for start, end in pairwise(edges):
                reader.feed_data(wire[start:end])
                await asyncio.sleep(0)
            reader.feed_eof()
        return reading.result()

    expected = b"".join(data for number, data in frames if number == 1)
    assert asyncio.run(run()) == expected


async def test_a_large_frame_comes_in_pieces_of_64_kib_at_most() -> None:
    reader, stream = attached()
    reader.feed_data(frame(1, b"x" * 200_000))
    reader.feed_eof()
    sizes = []
    while part := await stream.read():
        sizes.append(len(part))
    assert sum(sizes) == 200_000
    assert max(sizes) <= 65536


@pytest.mark.parametrize("cut", [3, 8, 10])
async def test_a_stream_that_breaks_off_inside_a_frame_is_an_error(cut: int) -> None:
    reader, stream = attached()
    reader.feed_data(frame(1, b"whole")[:cut])
    reader.feed_eof()
    with pytest.raises(WireClosedError):
        await read_all(stream)


async def test_bytes_that_are_not_the_engines_frames_are_an_error() -> None:
    reader, stream = attached()
    reader.feed_data(b"HTTP/1.1 500 oops")
    with pytest.raises(WireClosedError):
        await stream.read()


async def test_a_connection_that_is_reset_is_an_error() -> None:
    reader, stream = attached()
    reader.set_exception(ConnectionResetError())
    with pytest.raises(WireClosedError):
        await stream.read()


async def test_stderr_goes_to_the_log_and_not_to_the_wire() -> None:
    lines: list[str] = []
    reader, stream = attached(lines)
    reader.feed_data(frame(2, b"one\ntw") + frame(1, b"data") + frame(2, b"o\nlast"))
    reader.feed_eof()
    assert await read_all(stream) == b"data"
    assert lines == ["one", "two", "last"]


def test_a_line_of_stderr_can_not_carry_control_characters_into_a_log() -> None:
    lines: list[str] = []
    DiagnosticLines(lines.append).feed(b"\x1b[2Jevil\r\x00\xff\n", now=0)
    assert lines == ["\\x1b[2Jevil\\r\\x00\\\\xff"]


def test_a_line_of_stderr_is_cut_at_400_characters_however_long_it_is() -> None:
    lines: list[str] = []
    sink = DiagnosticLines(lines.append)
    for _ in range(100):
        sink.feed(b"x" * 100_000, now=0)
    sink.feed(b"\n", now=0)
    assert [len(line) for line in lines] == [400]


def test_a_flood_of_stderr_is_40_lines_a_minute_and_the_rest_is_counted() -> None:
    lines: list[str] = []
    sink = DiagnosticLines(lines.append)
    sink.feed(b"x\n" * 1000, now=0)
    assert (len(lines), sink.dropped) == (40, 960)
    sink.feed(b"y\n", now=59.9)
    assert len(lines) == 40
    sink.feed(b"z\n", now=60.0)
    assert lines[-1] == "z"
