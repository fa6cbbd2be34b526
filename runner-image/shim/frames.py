"""The wire's lines: building those that go up, checking those that come down. No state, no I/O."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii

from shim import limits

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim.downlink import Downlink

Frame = dict[str, object]
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_ID_CHARS = _NAME_CHARS | frozenset(":/+=@~!$")
_COMPACT = json.JSONEncoder(separators=(",", ":"))
# The number, the names and the punctuation of an `out` frame: below 200 bytes.
_OUT = b'"t":"out",'
_TEXT_ROOM = limits.MAX_FRAME_BYTES - 512


class FrameError(Exception):
    """A frame from the orchestrator is not what the protocol says."""


def encode(frame: Mapping[str, object]) -> bytes:
    """One line, for a frame without a number."""
    return _COMPACT.encode(frame).encode("ascii") + b"\n"


def body(frame: Mapping[str, object]) -> bytes:
    """The line of a numbered frame behind its number; `numbered` puts that in front."""
    return encode(frame)[1:]


def numbered(q: int, rest: bytes) -> bytes:
    """The whole line of a numbered frame."""
    return b'{"q":%d,' % q + rest


def out_bodies(session: str, line: bytes) -> list[bytes]:
    """A line of a CLI's stdout as one frame or several, all but the last with `more`."""
    pieces = _pieces(line.decode("utf-8", "replace"))
    last = len(pieces) - 1
    return [
        b'%s"s":"%s","d":%s%s}\n'
        % (_OUT, session.encode("ascii"), piece, b',"more":true' if index < last else b"")
        for index, piece in enumerate(pieces)
    ]


def aside_lines(session: str, line: bytes) -> list[bytes]:
    """The same of a session that is not kept: whole frames, without a number."""
    return [b'{"t":"aside",' + body[len(_OUT) :] for body in out_bodies(session, line)]


def _pieces(text: str) -> list[bytes]:
    """The text as JSON strings that each fit into a frame."""
    # Six bytes a character at most (twelve above U+FFFF): halving ends.
    if len(text) <= _TEXT_ROOM:
        quoted = encode_basestring_ascii(text)
        if len(quoted) <= _TEXT_ROOM:
            return [quoted.encode("ascii")]
    middle = len(text) // 2
    return _pieces(text[:middle]) + _pieces(text[middle:])


def parse(line: bytes) -> Frame:
    """The frame in a line from the orchestrator.

    Raises:
        FrameError: not a JSON object.
    """
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError):
        msg = "a line is not JSON"
        raise FrameError(msg) from None
    if not isinstance(frame, dict):
        msg = "a line is not a JSON object"
        raise FrameError(msg)
    return frame


def dispatch(frame: Frame, handler: Downlink) -> None:
    """Check a frame's fields and hand them to the handler.

    Raises:
        FrameError: an unknown type, or a field that is missing or of the wrong form.
    """
    kind = frame.get("t")
    if kind == "hello":
        epoch = None if frame.get("epoch") is None else _name(frame, "epoch")
        handler.hello(_number(frame, "v"), _name(frame, "nonce"), epoch, _number(frame, "ack"))
    elif kind == "ack":
        handler.ack(_number(frame, "q"))
    elif kind == "ping":
        handler.ping(_name(frame, "token"))
    else:
        _dispatch_command(kind, frame, handler)


def _dispatch_command(kind: object, frame: Frame, handler: Downlink) -> None:
    command, session = _command_id(frame), _name(frame, "s")
    if kind == "open":
        argv, env, cwd = _texts(frame, "argv"), _text_map(frame, "env"), _text(frame, "cwd")
        handler.open(command, session, argv, env, cwd, kept=frame.get("kept") is not False)
    elif kind == "input":
        handler.input(command, session, _text(frame, "line"), more=frame.get("more") is True)
    elif kind == "signal":
        handler.signal(command, session, _choice(frame, "how", "interrupt", "terminate", "kill"))
    elif kind == "close":
        handler.close(command, session)
    else:
        msg = "a frame has an unknown type"
        raise FrameError(msg)


def _text(frame: Frame, key: str) -> str:
    value = frame.get(key)
    if not isinstance(value, str):
        msg = f"{key} is not a text"
        raise FrameError(msg)
    return value


def _number(frame: Frame, key: str) -> int:
    value = frame.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        msg = f"{key} is not a number from 0"
        raise FrameError(msg)
    return value


def _name(frame: Frame, key: str) -> str:
    value = _text(frame, key)
    if not 0 < len(value) <= limits.MAX_NAME_CHARS or not _NAME_CHARS.issuperset(value):
        msg = f"{key} is not a name"
        raise FrameError(msg)
    return value


def _command_id(frame: Frame) -> str:
    value = _text(frame, "id")
    if not 0 < len(value) <= limits.MAX_ID_CHARS or not _ID_CHARS.issuperset(value):
        msg = "id is not an id"
        raise FrameError(msg)
    return value


def _choice(frame: Frame, key: str, *allowed: str) -> str:
    value = _text(frame, key)
    if value not in allowed:
        msg = f"{key} is not one of {', '.join(allowed)}"
        raise FrameError(msg)
    return value


def _texts(frame: Frame, key: str) -> list[str]:
    value = frame.get(key)
    if not isinstance(value, list) or not value or not all(_is_argument(item) for item in value):
        msg = f"{key} is not a list of texts"
        raise FrameError(msg)
    return value


def _text_map(frame: Frame, key: str) -> dict[str, str]:
    value = frame.get(key)
    if not isinstance(value, dict) or not all(_is_argument(item) for item in value.values()):
        msg = f"{key} is not a map of texts"
        raise FrameError(msg)
    if any(not name or "=" in name or "\0" in name for name in value):
        msg = f"{key} has an impossible name"
        raise FrameError(msg)
    return value


def _is_argument(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value
