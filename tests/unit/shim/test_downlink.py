"""What the shim accepts from above: the greeting, the count, the checks, and its distrust."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import limits
from shim.downlink import Downlink
from shim.room import Room


class RecordingRoom(Room):
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.reserve = True
        self.sent = 10

    def attached(self, nonce: str, epoch: str | None, acked: int) -> None:
        self.asked.append(("attached", nonce, epoch, acked))

    def refused_version(self, nonce: str) -> None:
        self.asked.append(("refused_version", nonce))

    def fault(self, why: str) -> None:
        self.asked.append(("fault", why))

    def ack(self, q: int) -> bool:
        self.asked.append(("ack", q))
        return q <= self.sent

    def ping(self, token: str) -> None:
        self.asked.append(("ping", token))

    def has_reserve(self) -> bool:
        return self.reserve

    def open(
        self,
        command: str,
        session: str,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        *,
        kept: bool,
    ) -> None:
        self.asked.append(("open", command, session, argv, env, cwd, kept))

    def input(self, command: str, session: str, line: bytes) -> None:
        self.asked.append(("input", command, session, line))

    def signal(self, command: str, session: str, how: str) -> None:
        self.asked.append(("signal", command, session, how))

    def close(self, command: str, session: str) -> None:
        self.asked.append(("close", command, session))


HELLO = {"t": "hello", "v": 1, "nonce": "abc", "epoch": None, "ack": 0}
ATTACHED = ("attached", "abc", None, 0)


def lines(*frames: dict[str, object]) -> bytes:
    return b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)


def asked_by(*frames: dict[str, object]) -> list[tuple[object, ...]]:
    """What a hello and these frames, counted, ask for; the answer to the hello left out."""
    room = RecordingRoom()
    counted = [{"n": n, **frame} for n, frame in enumerate(frames, start=1)]
    Downlink(room).feed(lines(HELLO, *counted))
    assert room.asked[0] == ATTACHED
    return room.asked[1:]


OPEN: dict[str, object] = {"t": "open", "id": "c1", "s": "m", "argv": ["a"], "env": {}, "cwd": "/"}
INPUT: dict[str, object] = {"t": "input", "id": "c2", "s": "m", "line": "hä"}
SIGNAL: dict[str, object] = {"t": "signal", "id": "c3", "s": "m", "how": "kill"}
CLOSE: dict[str, object] = {"t": "close", "id": "c4", "s": "m"}


def test_each_frame_asks_for_what_it_says() -> None:
    assert asked_by(
        OPEN,
        {**OPEN, "kept": False},
        INPUT,
        SIGNAL,
        CLOSE,
        {"t": "ack", "q": 3},
        {"t": "ping", "token": "x"},
    ) == [
        ("open", "c1", "m", ["a"], {}, "/", True),
        ("open", "c1", "m", ["a"], {}, "/", False),
        ("input", "c2", "m", "hä\n".encode()),
        ("signal", "c3", "m", "kill"),
        ("close", "c4", "m"),
        ("ack", 3),
        ("ping", "x"),
    ]


def test_nothing_is_done_before_a_hello() -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines({"n": 1, **OPEN}) + b"garbage\n\n" + lines({"n": 2, **OPEN}))
    assert room.asked == []


@pytest.mark.parametrize("n", [0, 1, 3, -1, "2", None, True, 2.5])
def test_a_wrong_count_is_reported_once_and_the_rest_ignored(n: object) -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines(HELLO, {"n": 1, **CLOSE}, {"n": n, **CLOSE}, {"n": 2, **CLOSE}))
    assert room.asked == [ATTACHED, ("close", "c4", "m"), ("fault", "frame 2 was expected")]


def test_true_is_not_one() -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines(HELLO, {"n": True, **CLOSE}))
    assert room.asked[1:] == [("fault", "frame 1 was expected")]


def test_a_new_hello_begins_anew_after_a_fault() -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines(HELLO, {"n": 9, **CLOSE}, HELLO, {"n": 1, **CLOSE}))
    assert [asked[0] for asked in room.asked] == ["attached", "fault", "attached", "close"]


def test_another_version_is_answered_and_then_ignored() -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines({**HELLO, "v": 2}, {"n": 1, **CLOSE}))
    assert room.asked == [("refused_version", "abc")]


BROKEN: dict[str, dict[str, object]] = {
    "unknown type": {"t": "reboot", "id": "c", "s": "m"},
    "no type": {"id": "c", "s": "m"},
    "type is a list": {"t": [], "id": "c", "s": "m"},
    "no id": {"t": "close", "s": "m"},
    "long id": {**CLOSE, "id": "x" * 129},
    "id with a blank": {**CLOSE, "id": "a b"},
    "session with a slash": {**CLOSE, "s": "a/b"},
    "empty session": {**CLOSE, "s": ""},
    "session with NUL": {**CLOSE, "s": "a\0"},
    "no arguments": {**OPEN, "argv": []},
    "argument is a number": {**OPEN, "argv": ["a", 1]},
    "argument with NUL": {**OPEN, "argv": ["a\0b"]},
    "environment is a list": {**OPEN, "env": []},
    "environment name with =": {**OPEN, "env": {"A=B": "c"}},
    "environment value is null": {**OPEN, "env": {"A": None}},
    "no directory": {**OPEN, "cwd": None},
    "unknown signal": {**SIGNAL, "how": "hup"},
    "input is a number": {**INPUT, "line": 1},
    "input with a line end": {**INPUT, "line": "a\nb"},
    "negative ack": {"t": "ack", "q": -1},
    "ack ahead": {"t": "ack", "q": 11},
    "ack is true": {"t": "ack", "q": True},
    "hello without a nonce": {"t": "hello", "v": 1, "epoch": None, "ack": 0},
}


@pytest.mark.parametrize("frame", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_frame_is_reported_and_not_applied(frame: dict[str, object]) -> None:
    asked = asked_by(frame, CLOSE)
    assert asked[-1][0] == "fault"
    assert not {"open", "input", "signal", "close"} & {str(one[0]) for one in asked}


@pytest.mark.parametrize("line", [b"{", b"[1]", b"9" * 5000, b"[" * 100_000, b"\xff", b"null"])
def test_a_line_that_is_no_object_is_reported(line: bytes) -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines(HELLO) + line + b"\n")
    assert [asked[0] for asked in room.asked] == ["attached", "fault"]


def test_a_line_over_the_limit_is_reported_and_the_next_hello_heard() -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines(HELLO) + b"x" * limits.MAX_FRAME_BYTES + b"\n" + lines(HELLO))
    assert room.asked == [ATTACHED, ("fault", "a line is over the limit"), ATTACHED]


def test_pieces_become_one_input_and_acks_may_stand_between_them() -> None:
    pieces = [{**INPUT, "line": "a", "more": True}, {"t": "ack", "q": 1}, {**INPUT, "line": "b"}]
    assert asked_by(*pieces) == [("ack", 1), ("input", "c2", "m", b"ab\n")]


@pytest.mark.parametrize("other", [{**INPUT, "id": "c9"}, {**INPUT, "s": "n"}, CLOSE, OPEN])
def test_another_command_may_not_stand_between_pieces(other: dict[str, object]) -> None:
    asked = asked_by({**INPUT, "more": True}, other)
    assert asked == [("fault", "an input was not completed")]


def test_a_new_hello_forgets_half_an_input() -> None:
    room = RecordingRoom()
    half = {"n": 1, **INPUT, "line": "half", "more": True}
    Downlink(room).feed(lines(HELLO, half, HELLO, {"n": 1, **INPUT, "line": "whole"}))
    assert room.asked == [ATTACHED, ATTACHED, ("input", "c2", "m", b"whole\n")]


def test_an_input_over_the_limit_is_reported() -> None:
    piece = {**INPUT, "line": "x" * 250_000, "more": True}
    asked = asked_by(*[piece] * (limits.MAX_INPUT_LINE_BYTES // 250_000 + 1))
    assert asked == [("fault", "an input is over the limit")]


def test_a_lone_surrogate_of_an_input_is_replaced() -> None:
    assert asked_by({**INPUT, "line": "\ud800"}) == [("input", "c2", "m", b"?\n")]


def test_a_command_is_not_applied_when_its_answer_has_no_room() -> None:
    room = RecordingRoom()
    room.reserve = False
    Downlink(room).feed(lines(HELLO, {"n": 1, **CLOSE}))
    assert room.asked == [ATTACHED, ("fault", "too many answers are not acknowledged")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)
keys = st.sampled_from(["t", "n", "id", "s", "argv", "env", "cwd", "line", "more", "how", "q", "v"])
kinds = st.sampled_from(["open", "input", "signal", "close", "ack", "ping", "hello"])


@given(st.dictionaries(keys, json_values), kinds)
def test_no_object_makes_it_fail(frame: dict[str, object], kind: str) -> None:
    asked_by({**frame, "t": kind, "n": 1})


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    room = RecordingRoom()
    Downlink(room).feed(lines(HELLO) + data + b"\n")
    assert room.asked[0] == ATTACHED
