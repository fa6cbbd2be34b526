"""The codec: hostile lines, counting, and that both sides mean the same by a frame."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import RunnerError, WireProtocolError, WireVersionError
from orchestrator.model import Epoch, Seq
from orchestrator.runners import wire
from orchestrator.runners.event import (
    MAX_LINE_VALUES,
    Applied,
    AsideLine,
    AsidePieces,
    CliLine,
    CliStderr,
    LineCut,
    Reassembler,
    Refused,
    SessionExited,
    SessionStarted,
    UpEvent,
)
from shim import frames, limits

NONCE = "0123456789abcdef"


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def line_of(**frame: object) -> bytes:
    return json.dumps(frame).encode()


def welcome_line(**changes: object) -> bytes:
    frame: dict[str, object] = {"t": "welcome", "v": 1, "nonce": NONCE, "epoch": "e1"}
    return line_of(**{**frame, "first": 4, "next": 9, "sessions": {}, **changes})


def welcome_of(**changes: object) -> wire.Welcome:
    welcome = wire.parse_welcome(welcome_line(**changes), NONCE)
    assert welcome is not None
    return welcome


@given(st.lists(st.binary(max_size=30)), st.lists(st.integers(0, 400)))
def test_any_chunking_gives_the_same_lines(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    whole = wire.LineSplitter(limit=16).feed(data)
    splitter = wire.LineSplitter(limit=16)
    assert [line for chunk in chunks_of(data, cuts) for line in splitter.feed(chunk)] == whole


@given(st.lists(st.binary(min_size=1, max_size=15).filter(lambda b: b"\n" not in b)))
def test_lines_within_the_limit_come_out_as_they_went_in(lines: list[bytes]) -> None:
    assert wire.LineSplitter(limit=16).feed(b"".join(x + b"\n" for x in lines)) == lines


def test_a_line_over_the_limit_is_told_at_once_and_its_successor_is_intact() -> None:
    splitter = wire.LineSplitter(limit=16)
    assert splitter.feed(b"x" * 16) == [None]
    assert splitter.feed(b"x" * 10_000) == []
    assert splitter.feed(b"\nnext\n") == [b"next"]


POISON = {
    "not utf-8": b'{"t":"pong","token":"\xff"}',
    "nul": b"\0" * 40,
    "lone surrogate": b'{"q":1,"t":"out","s":"m","d":"\\ud800"}',
    "huge integer": b'{"q":' + b"9" * 5000 + b',"t":"out","s":"m","d":""}',
    "above 2**53": b'{"q":9007199254740993,"t":"out","s":"m","d":""}',
    "deep": b'{"q":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nan": b'{"q":NaN,"t":"out","s":"m","d":""}',
    "float": b'{"q":1.0,"t":"out","s":"m","d":""}',
    "boolean number": b'{"q":true,"t":"out","s":"m","d":""}',
    "number as text": b'{"q":"1","t":"out","s":"m","d":""}',
    "zero": b'{"q":0,"t":"out","s":"m","d":""}',
    "negative": b'{"q":-1,"t":"out","s":"m","d":""}',
    "extra field": b'{"q":1,"t":"out","s":"m","d":"","x":1}',
    "missing field": b'{"q":1,"t":"out","s":"m"}',
    "unknown type": b'{"q":1,"t":"result","s":"m","d":""}',
    "no type": b'{"q":1}',
    "path as name": b'{"q":1,"t":"out","s":"../x","d":""}',
    "line end in name": b'{"q":1,"t":"out","s":"m\\n","d":""}',
    "terminal codes in reason": b'{"t":"fault","why":"\\u001b[2J"}',
    "list": b"[1,2]",
    "null": b"null",
    "two objects": b'{"t":"pong","token":"a"}{"t":"pong","token":"a"}',
    "cut off": b'{"q":1,"t":"out","s":"m","d":"',
    "long head": line_of(q=1, t="cut", s="m", bytes=1, head="x" * 5000),
    "welcome": welcome_line(),
}


@pytest.mark.parametrize("line", POISON.values(), ids=POISON.keys())
def test_what_is_not_a_frame_is_refused_without_repeating_it(line: bytes) -> None:
    with pytest.raises(WireProtocolError) as caught:
        wire.parse_frame(line)
    assert str(caught.value) == "the runner sent something that is not a frame"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@given(st.binary() | st.from_regex(rb'\{"q":[0-9]{1,30},"t":"[a-z]{3,8}".*\}'))
def test_no_bytes_raise_anything_but_a_protocol_error(line: bytes) -> None:
    with contextlib.suppress(WireProtocolError):
        wire.parse_frame(line)


def test_a_line_over_the_limit_is_a_protocol_error() -> None:
    with pytest.raises(WireProtocolError, match="over the limit"):
        wire.parse_frame(None)


FRAMES: list[tuple[dict[str, object], UpEvent]] = [
    (
        {"t": "err", "s": "m", "d": "oh", "dropped": 3},
        CliStderr(q=Seq(1), session="m", text="oh", dropped_bytes=3),
    ),
    (
        {"t": "cut", "s": "m", "bytes": 5_000_000, "head": "{"},
        LineCut(q=Seq(1), session="m", size_bytes=5_000_000, head="{"),
    ),
    ({"t": "started", "s": "m", "pid": 7}, SessionStarted(q=Seq(1), session="m", pid=7)),
    (
        {"t": "exited", "s": "m", "code": None, "signal": 9},
        SessionExited(q=Seq(1), session="m", code=None, signal=9),
    ),
    (
        {"t": "applied", "id": "t1:input", "dup": True},
        Applied(q=Seq(1), command_id="t1:input", duplicate=True),
    ),
    (
        {"t": "refused", "id": "c", "why": "no"},
        Refused(q=Seq(1), command_id="c", why="no"),
    ),
]


@pytest.mark.parametrize(("frame", "event"), FRAMES)
def test_a_frame_that_the_shim_builds_becomes_its_event(
    frame: dict[str, object], event: UpEvent
) -> None:
    line = frames.numbered(1, frames.body(frame)).rstrip(b"\n")
    parsed = wire.parse_frame(line)
    assert not isinstance(parsed, wire.PongFrame | wire.FaultFrame)
    assert Reassembler(Seq(1)).accept(parsed) == event


@given(st.binary(max_size=2000))
def test_a_line_of_any_bytes_arrives_with_what_is_not_utf8_replaced(line: bytes) -> None:
    assert arrived(line) == line.decode("utf-8", "replace")


@pytest.mark.parametrize("char", ["x", "\0", "é", "\U0001f600", '"'])
def test_a_long_line_arrives_whole_in_frames_within_the_limit(char: str) -> None:
    assert arrived((char * 300_000).encode()) == char * 300_000


def arrived(line: bytes) -> str:
    """What comes out of our side for a line that goes into the shim's."""
    reassembler = Reassembler(Seq(1))
    event: UpEvent | None = None
    for q, body in enumerate(frames.out_bodies("main", line), start=1):
        assert event is None
        data = frames.numbered(q, body)
        assert len(data) <= wire.MAX_FRAME_BYTES
        (frame,) = wire.LineSplitter().feed(data)
        parsed = wire.parse_frame(frame)
        assert isinstance(parsed, wire.OutFrame)
        event = reassembler.accept(parsed)
    assert isinstance(event, CliLine)
    assert event.q == reassembler.expected - 1
    return event.line


def out(q: int, *, s: str = "a", d: str = "", more: bool = False) -> wire.OutFrame:
    return wire.OutFrame(t="out", q=q, s=s, d=d, more=more)


@pytest.mark.parametrize("q", [1, 4, 6, 2**53])
def test_a_gap_or_a_repeat_is_a_protocol_error(q: int) -> None:
    with pytest.raises(WireProtocolError, match="where 5 was expected"):
        Reassembler(Seq(5)).accept(out(q))


def test_pieces_of_two_lines_are_not_mixed() -> None:
    reassembler = Reassembler(Seq(1))
    assert reassembler.accept(out(1, s="a", more=True)) is None
    with pytest.raises(WireProtocolError, match="mixed two lines"):
        reassembler.accept(out(2, s="b"))


def test_a_line_is_not_broken_off() -> None:
    reassembler = Reassembler(Seq(1))
    assert reassembler.accept(out(1, more=True)) is None
    with pytest.raises(WireProtocolError, match="broke a line off"):
        reassembler.accept(wire.StartedFrame(t="started", q=2, s="a", pid=1))


def test_an_endless_line_is_stopped_at_the_limit() -> None:
    reassembler = Reassembler(Seq(1))
    piece = "x" * (wire.MAX_LINE_BYTES // 4)
    for q in range(1, 5):
        assert reassembler.accept(out(q, d=piece, more=True)) is None
    with pytest.raises(WireProtocolError, match="over the limit"):
        reassembler.accept(out(5, d="x", more=True))


def aside(*, s: str = "files", d: str = "", more: bool = False) -> wire.AsideFrame:
    return wire.AsideFrame(t="aside", s=s, d=d, more=more)


def test_pieces_without_a_number_make_a_line_and_are_neither_mixed_nor_endless() -> None:
    pieces = AsidePieces()
    assert pieces.accept(aside(d="a", more=True)) is None
    assert pieces.accept(aside(d="b")) == AsideLine(session="files", line="ab")
    assert pieces.accept(aside(d="c")) == AsideLine(session="files", line="c")
    assert pieces.accept(aside(more=True)) is None
    with pytest.raises(WireProtocolError, match="mixed two lines"):
        pieces.accept(aside(s="other"))
    endless = AsidePieces()
    for _ in range(4):
        endless.accept(aside(d="x" * (wire.MAX_LINE_BYTES // 4), more=True))
    with pytest.raises(WireProtocolError, match="over the limit"):
        endless.accept(aside(d="x", more=True))


def test_a_line_without_a_number_that_has_too_many_values_is_not_read() -> None:
    line = AsidePieces().accept(aside(d="[" * (MAX_LINE_VALUES + 1)))
    assert line == AsideLine(session="files", line=None)


@given(st.text(max_size=500))
def test_input_pieces_together_are_the_input(text: str) -> None:
    line = text.replace("\n", "")
    assert "".join(wire.split_input(line)) == line


@pytest.mark.parametrize("char", ["x", "\0", "\U0001f600", "\ud800"])
def test_a_long_input_is_split_into_frames_within_the_limit(char: str) -> None:
    line = char * 1_000_000
    pieces = wire.split_input(line)
    assert "".join(pieces) == line
    for piece in pieces:
        wire.render_frame({"n": 2**53, "id": "i" * 128, "s": "s" * 64, "line": piece, "more": True})


def test_an_input_over_the_limit_is_refused_in_bytes() -> None:
    assert wire.split_input("x" * wire.MAX_INPUT_LINE_BYTES)
    with pytest.raises(RunnerError, match="8388610 bytes"):
        wire.split_input("é" * (wire.MAX_INPUT_LINE_BYTES // 2 + 1))


def test_an_input_with_a_line_end_is_refused() -> None:
    with pytest.raises(ValueError, match="line end"):
        wire.split_input("a\nb")


def test_a_frame_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(RunnerError, match="bytes"):
        wire.render_frame({"x": "y" * wire.MAX_FRAME_BYTES})


@pytest.mark.parametrize(
    "line",
    [None, b"garbage", b'{"q":1,"t":"out","s":"m","d":""}', welcome_line(nonce="another")],
    ids=["over the limit", "garbage", "frame", "other nonce"],
)
def test_what_is_not_our_welcome_is_skipped(line: bytes | None) -> None:
    assert wire.parse_welcome(line, NONCE) is None


def test_a_quoted_welcome_in_the_rest_of_a_frame_is_not_a_welcome() -> None:
    frame = frames.out_bodies("main", welcome_line())[0].rstrip(b"\n")
    for start in range(len(frame)):
        assert wire.parse_welcome(frame[start:], NONCE) is None


def test_another_version_is_named() -> None:
    with pytest.raises(WireVersionError, match="version 2 of the wire protocol, this program 1"):
        wire.parse_welcome(line_of(t="welcome", v=2, nonce=NONCE, what="ever"), NONCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"first": 0},
        {"epoch": "a b"},
        {"sessions": {"../x": {"state": "running", "pid": 1, "code": None, "signal": None}}},
        {"sessions": {"m": {"state": "asleep", "pid": 1, "code": None, "signal": None}}},
        {
            "sessions": {
                f"s{n}": {"state": "running", "pid": 1, "code": None, "signal": None}
                for n in range(33)
            }
        },
    ],
)
def test_a_malformed_answer_to_our_hello_is_a_protocol_error(changes: dict[str, object]) -> None:
    with pytest.raises(WireProtocolError, match="malformed welcome"):
        wire.parse_welcome(welcome_line(**changes), NONCE)


def test_in_the_same_epoch_the_replay_starts_behind_what_was_stored() -> None:
    assert wire.first_expected(welcome_of(), epoch=Epoch("e1"), acked=Seq(3)) == 4


@pytest.mark.parametrize("epoch", [None, Epoch("e0")])
def test_in_another_epoch_the_replay_starts_at_the_first_that_is_kept(epoch: Epoch | None) -> None:
    assert wire.first_expected(welcome_of(), epoch=epoch, acked=Seq(77)) == 4


@pytest.mark.parametrize("acked", [0, 2, 4, 8, 9, 77])
def test_a_shim_that_lost_or_invented_frames_is_not_trusted(acked: int) -> None:
    with pytest.raises(WireProtocolError):
        wire.first_expected(welcome_of(), epoch=Epoch("e1"), acked=Seq(acked))


def test_numbers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(WireProtocolError, match="contradict"):
        wire.first_expected(welcome_of(first=10), epoch=None, acked=Seq(0))


def test_both_sides_have_the_same_limits() -> None:
    ours = {name: value for name, value in vars(wire).items() if name.startswith("MAX_")}
    assert ours == {name: getattr(limits, name) for name in ours}
    assert (wire.VERSION, wire.CUT_HEAD_BYTES) == (limits.VERSION, limits.CUT_HEAD_BYTES)
    assert wire.SPOOL_BYTES == limits.SPOOL_BYTES
    assert wire.FRAME_OVERHEAD_BYTES == limits.FRAME_OVERHEAD_BYTES


@given(st.text(max_size=140))
def test_both_sides_agree_on_what_is_a_name_and_what_is_an_id(text: str) -> None:
    for check, field in ((wire.check_name, frames._name), (wire.check_command_id, command_id)):
        try:
            check(text)
        except ValueError:
            with pytest.raises(frames.FrameError):
                field({"s": text, "id": text}, "s")
        else:
            assert field({"s": text, "id": text}, "s") == text


def command_id(frame: frames.Frame, _key: str) -> str:
    return frames._command_id(frame)


def test_a_hello_ends_a_line_that_another_attach_left_half() -> None:
    lines = frames_after(b'{"n":7,"t":"inp' + wire.render_hello("n1", epoch=None, acked=Seq(0)))
    assert json.loads(lines[-1]) == {"t": "hello", "v": 1, "nonce": "n1", "epoch": None, "ack": 0}


def frames_after(data: bytes) -> list[bytes]:
    return [line for line in wire.LineSplitter().feed(data) if line is not None]


def out_frames(line: str) -> list[wire.UpFrame]:
    bodies = frames.out_bodies("main", line.encode())
    return [wire.parse_frame(frames.numbered(q, b)[:-1]) for q, b in enumerate(bodies, start=1)]


def whole(line: str) -> UpEvent | None:
    reassembler = Reassembler(Seq(1))
    event: UpEvent | None = None
    for frame in out_frames(line):
        assert isinstance(frame, wire.OutFrame)
        event = reassembler.accept(frame)
    return event


@pytest.mark.parametrize("value", ["{}", "[]", "1", '""', '{"a":[]}'])
def test_a_line_of_very_many_values_is_cut_before_anything_reads_it(value: str) -> None:
    """One of 4 MiB took 16 s and 1 GB to read, and all rooms waited."""
    line = '{"type":"assistant","message":{"content":[' + ",".join([value] * 500_000) + "]}}"
    event = whole(line[: wire.MAX_LINE_BYTES])
    assert isinstance(event, LineCut)
    assert event.head.startswith('{"type":"assistant"')
    assert len(event.head) == 4096
    assert event.size_bytes == min(len(line), wire.MAX_LINE_BYTES)


def test_what_stands_in_strings_does_not_count_as_values() -> None:
    line = json.dumps({"type": "user", "text": '[{"a": 1}, "b\\\\"],' * 100_000})
    assert whole(line) == CliLine(q=Seq(len(out_frames(line))), session="main", line=line)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("tail", ['"' + "\\" * 3_000_000, '"' * 3_000_001, '"' + "a" * 3_000_000])
def test_a_string_without_an_end_is_looked_at_once(tail: str) -> None:
    assert isinstance(whole("{," * 50_000 + tail), LineCut)
