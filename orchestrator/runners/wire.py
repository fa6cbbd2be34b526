"""The wire's frames: what the shim may say, what we say, and the checks that make it trustworthy.

Pure; `docs/protocol.md` is the specification. All that comes from a runner is hostile input: it is
bounded before it is parsed, parsed strictly, and counted. Errors never carry any of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from orchestrator.errors import RunnerError, WireProtocolError, WireVersionError
from orchestrator.model import Epoch, JsonValue, Seq

VERSION: Final = 1
# The same numbers as in runner-image/shim/limits.py, with their reasons; a test compares them.
MAX_FRAME_BYTES: Final = 256 * 1024
MAX_LINE_BYTES: Final = 4 * 1024 * 1024
CUT_HEAD_BYTES: Final = 4096
MAX_INPUT_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_KNOWN_SESSIONS: Final = 32
SPOOL_BYTES: Final = 8 * 1024 * 1024
FRAME_OVERHEAD_BYTES: Final = 128
MAX_NAME_CHARS: Final = 64
MAX_ID_CHARS: Final = 128
# Behind the quotes of a text: the names, numbers and ids of its frame.
_TEXT_ROOM: Final = MAX_FRAME_BYTES - 1024
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@~!$-]{1,128}")

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_CommandId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/+=@~!$-]{1,128}$")]
# Said by the shim itself, so plain text; the bound keeps it fit for a log field.
_Reason = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,200}$")]
# 2**53: exact in every JSON reader.
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Pid = Annotated[int, Field(ge=1, le=2**31)]
_Code = Annotated[int, Field(ge=0, le=255)]
_Signal = Annotated[int, Field(ge=1, le=64)]


class _Frame(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=False
    )


class _Numbered(_Frame):
    q: Annotated[int, Field(ge=1, le=2**53)]


class OutFrame(_Numbered):
    """A line of a CLI's stdout, or a piece of one."""

    t: Literal["out"]
    s: _Name
    d: str
    more: bool = False


class ErrFrame(_Numbered):
    """Some of a CLI's stderr, and how much of it was dropped before."""

    t: Literal["err"]
    s: _Name
    d: str
    dropped: _Count


class CutFrame(_Numbered):
    """A line above MAX_LINE_BYTES."""

    t: Literal["cut"]
    s: _Name
    bytes: _Count
    head: Annotated[str, StringConstraints(max_length=CUT_HEAD_BYTES)]


class StartedFrame(_Numbered):
    """A session's process runs."""

    t: Literal["started"]
    s: _Name
    pid: _Pid


class ExitedFrame(_Numbered):
    """A session's process has ended, and all of its output was said."""

    t: Literal["exited"]
    s: _Name
    code: _Code | None
    signal: _Signal | None


class AppliedFrame(_Numbered):
    """A command was applied, now or (`dup`) before."""

    t: Literal["applied"]
    id: _CommandId
    dup: bool


class RefusedFrame(_Numbered):
    """A command was not applied, and why."""

    t: Literal["refused"]
    id: _CommandId
    why: _Reason


class AsideFrame(_Frame):
    """A line of a session that is not kept, or a piece of one; said once."""

    t: Literal["aside"]
    s: _Name
    d: str
    more: bool = False


class PongFrame(_Frame):
    """The answer to a ping."""

    t: Literal["pong"]
    token: _Name


class FaultFrame(_Frame):
    """The shim ignores this attach from here on."""

    t: Literal["fault"]
    why: _Reason


class SessionStatus(_Frame):
    """What the shim knows of a session; `code` and `signal` are None while it runs."""

    state: Literal["running", "exited"]
    pid: _Pid
    code: _Code | None
    signal: _Signal | None

    @property
    def is_running(self) -> bool:
        """Whether more can come from it: its process runs, or its last output is not all said."""
        return self.state == "running"


class Welcome(_Frame):
    """The answer to our hello. Frames `first` to `next - 1` are kept and follow."""

    t: Literal["welcome"]
    v: Literal[1]
    nonce: _Name
    epoch: Annotated[Epoch, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    first: Annotated[Seq, Field(ge=1, le=2**53)]
    next: Annotated[Seq, Field(ge=1, le=2**53)]
    sessions: Annotated[dict[_Name, SessionStatus], Field(max_length=MAX_KNOWN_SESSIONS)]


class _AnyWelcome(BaseModel):
    """What a welcome of any version has."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    t: Literal["welcome"]
    v: int
    nonce: _Name


NumberedFrame = (
    OutFrame | ErrFrame | CutFrame | StartedFrame | ExitedFrame | AppliedFrame | RefusedFrame
)
UpFrame = NumberedFrame | AsideFrame | PongFrame | FaultFrame
_UP_FRAME: TypeAdapter[UpFrame] = TypeAdapter(Annotated[UpFrame, Field(discriminator="t")])


class LineSplitter:
    """Splits a byte stream into lines; one above the limit becomes None, once, and is skipped.

    Invariant: holds less than `limit` bytes, whatever is fed in whatever pieces.
    """

    __slots__ = ("_buffer", "_is_skipping", "_limit")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._is_skipping = False

    def __repr__(self) -> str:
        return f"LineSplitter({len(self._buffer)} bytes, skipping={self._is_skipping})"

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their ends; empty ones are left out."""
        lines: list[bytes | None] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part, lines)
            if self._buffer:
                lines.append(bytes(self._buffer))
            self._buffer.clear()
            self._is_skipping = False
        self._add(rest, lines)
        return lines

    def _add(self, part: bytes, lines: list[bytes | None]) -> None:
        if self._is_skipping:
            return
        self._buffer += part
        if len(self._buffer) >= self._limit:
            self._buffer.clear()
            self._is_skipping = True
            lines.append(None)


def parse_frame(line: bytes | None) -> UpFrame:
    """A line after the welcome (None: one over the limit).

    Raises:
        WireProtocolError: it is not a frame that may stand here.
    """
    if line is None:
        msg = "the runner sent a line over the limit"
        raise WireProtocolError(msg)
    try:
        return _UP_FRAME.validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        # Not chained: pydantic's error holds what was sent.
        msg = "the runner sent something that is not a frame"
        raise WireProtocolError(msg) from None


def is_welcome(line: bytes | None) -> bool:
    """Whether this is a welcome of any version, for anyone."""
    return _any_welcome(line) is not None


def parse_welcome(line: bytes | None, nonce: str) -> Welcome | None:
    """The welcome that answers our hello; None for anything else (it is from before our attach).

    Raises:
        WireVersionError: it answers ours, in another version.
        WireProtocolError: it answers ours, and is malformed.
    """
    if line is None or nonce.encode("ascii") not in line:
        return None
    answer = _any_welcome(line)
    if answer is None or answer.nonce != nonce:
        return None
    if answer.v != VERSION:
        msg = f"the runner speaks version {answer.v} of the wire protocol, this program {VERSION}"
        raise WireVersionError(msg)
    try:
        return Welcome.model_validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        msg = "the runner sent a malformed welcome"
        raise WireProtocolError(msg) from None


def _any_welcome(line: bytes | None) -> _AnyWelcome | None:
    if line is None:
        return None
    try:
        return _AnyWelcome.model_validate_json(line)
    except (ValidationError, ValueError, RecursionError):
        return None


def first_expected(welcome: Welcome, *, epoch: Epoch | None, acked: Seq) -> Seq:
    """The number that the first replayed frame must have.

    Raises:
        WireProtocolError: the welcome contradicts what we have stored of this epoch.
    """
    if welcome.first > welcome.next:
        msg = "the runner's numbers contradict each other"
        raise WireProtocolError(msg)
    if welcome.epoch == epoch and welcome.first != acked + 1:
        msg = f"the runner keeps frames from {welcome.first}, but {acked + 1} is the next to store"
        raise WireProtocolError(msg)
    return welcome.first


def check_name(name: str) -> None:
    """Raise ValueError unless `name` can be a session's name."""
    if not _NAME.fullmatch(name):
        msg = "a session's name is 1 to 64 of A-Z a-z 0-9 . _ -"
        raise ValueError(msg)


def check_command_id(command_id: str) -> None:
    """Raise ValueError unless `command_id` can be one."""
    if not _COMMAND_ID.fullmatch(command_id):
        msg = "a command's id is 1 to 128 of A-Z a-z 0-9 . _ : / + = @ ~ ! $ -"
        raise ValueError(msg)


def render_frame(frame: Mapping[str, JsonValue]) -> bytes:
    """One line for the shim.

    Raises:
        RunnerError: it is over the limit of a frame.
    """
    line = json.dumps(frame, separators=(",", ":")).encode("ascii") + b"\n"
    if len(line) > MAX_FRAME_BYTES:
        msg = f"a frame for the runner has {len(line)} bytes; {MAX_FRAME_BYTES} are allowed"
        raise RunnerError(msg)
    return line


def render_hello(nonce: str, *, epoch: Epoch | None, acked: Seq) -> bytes:
    """The first frame of an attach, behind a line end that ends whatever another one left half."""
    frame: dict[str, JsonValue] = {"t": "hello", "v": VERSION, "nonce": nonce}
    return b"\n" + render_frame({**frame, "epoch": epoch, "ack": acked})


def split_input(line: str) -> list[str]:
    """The pieces of an input line that each fit into a frame; together they are the line.

    Raises:
        RunnerError: the line is over MAX_INPUT_LINE_BYTES.
        ValueError: it has a line end in it.
    """
    if "\n" in line:
        msg = "an input line has a line end in it"
        raise ValueError(msg)
    size = len(line.encode("utf-8", "replace"))
    if size > MAX_INPUT_LINE_BYTES:
        msg = f"an input line has {size} bytes; {MAX_INPUT_LINE_BYTES} are allowed"
        raise RunnerError(msg)
    return _halve(line)


def _halve(text: str) -> list[str]:
    # A character takes one to twelve bytes in a frame: halving ends.
    if len(text) <= _TEXT_ROOM and len(json.dumps(text)) <= _TEXT_ROOM:
        return [text]
    middle = len(text) // 2
    return [*_halve(text[:middle]), *_halve(text[middle:])]
