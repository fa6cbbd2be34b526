"""What the shim said, as events: frames counted, and pieces of lines put together.

Pure. Nothing is skipped and nothing repeated, or the link is broken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import WireProtocolError
from orchestrator.model import Seq
from orchestrator.runners.wire import (
    MAX_LINE_BYTES,
    AppliedFrame,
    AsideFrame,
    CutFrame,
    ErrFrame,
    ExitedFrame,
    NumberedFrame,
    OutFrame,
    RefusedFrame,
    StartedFrame,
)

# Values in a line that is read. Nothing seen has a thousand; a line of 4 MiB can hold 1.4 million,
# which took 16 s and 1 GB to read (measured), and all rooms waited. This many take about 0.2 s.
MAX_LINE_VALUES = 40_000
# As much as the shim keeps of a line that it cuts.
_HEAD_CHARS = 4096
# Possessive: without going back, a string that does not end costs its length once.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class CliLine:
    """A whole line that the CLI of `session` printed; `q` is that of its last piece."""

    q: Seq
    session: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CliStderr:
    """Some of the CLI's stderr; `dropped_bytes` were dropped since the last of these."""

    q: Seq
    session: str
    text: str
    dropped_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCut:
    """A line that was too long, or had too many values in it; only its `head` was kept."""

    q: Seq
    session: str
    size_bytes: int
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted:
    """The session's CLI runs as `pid` (in the runner's own numbering)."""

    q: Seq
    session: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExited:
    """The session's CLI has ended, by itself (`code`) or by a `signal`; its output is complete."""

    q: Seq
    session: str
    code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The command was applied; `duplicate`: already earlier in this epoch, and not again."""

    q: Seq
    command_id: str
    duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The command was not applied. The same id may be offered again."""

    q: Seq
    command_id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AsideLine:
    """A whole line of a session that is not kept: no replay brings it again.

    `line` is None where it had too many values in it to be read.
    """

    session: str
    line: str | None


UpEvent = CliLine | CliStderr | LineCut | SessionStarted | SessionExited | Applied | Refused
"""What has a number."""
LinkEvent = UpEvent | AsideLine


class Reassembler:
    """Frames into events. Invariant: `expected` is the number that the next frame must have."""

    __slots__ = ("_pieces", "expected")

    def __init__(self, expected: Seq) -> None:
        self.expected = expected
        self._pieces = _Pieces()

    def __repr__(self) -> str:
        return f"Reassembler(expected={self.expected}, {self._pieces!r})"

    def accept(self, frame: NumberedFrame) -> UpEvent | None:
        """The event that the frame completes, or None in the middle of a line.

        Raises:
            WireProtocolError: a gap, a repeat, a line over the limit, or one broken off.
        """
        if frame.q != self.expected:
            msg = f"the runner sent frame {frame.q} where {self.expected} was expected"
            raise WireProtocolError(msg)
        self.expected = Seq(frame.q + 1)
        if isinstance(frame, OutFrame):
            line = self._pieces.add(frame)
            return None if line is None else _line(Seq(frame.q), frame.s, line)
        if self._pieces.session is not None:
            msg = "the runner broke a line off"
            raise WireProtocolError(msg)
        return _event(frame)


class AsidePieces:
    """Pieces of lines that have no number, put together. Numbered frames may stand between them."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces = _Pieces()

    def __repr__(self) -> str:
        return f"AsidePieces({self._pieces!r})"

    def accept(self, frame: AsideFrame) -> AsideLine | None:
        """The line that the frame completes, or None in the middle of one.

        Raises:
            WireProtocolError: a line over the limit, or two that were mixed.
        """
        line = self._pieces.add(frame)
        if line is None:
            return None
        is_readable = _count_values(line) <= MAX_LINE_VALUES
        return AsideLine(session=frame.s, line=line if is_readable else None)


class _Pieces:
    """Of one line. Invariant: `session` is set while a line is begun and not complete."""

    __slots__ = ("_chars", "_texts", "session")

    def __init__(self) -> None:
        self.session: str | None = None
        self._texts: list[str] = []
        self._chars = 0

    def __repr__(self) -> str:
        return f"chars={self._chars}"

    def add(self, frame: OutFrame | AsideFrame) -> str | None:
        """The line that the piece completes; None: more follows. Raises a WireProtocolError."""
        if self.session not in (None, frame.s):
            msg = "the runner mixed two lines"
            raise WireProtocolError(msg)
        self._chars += len(frame.d)
        if self._chars > MAX_LINE_BYTES:  # a character is a byte or more
            msg = "the runner sent a line over the limit"
            raise WireProtocolError(msg)
        self._texts.append(frame.d)
        self.session = frame.s
        if frame.more:
            return None
        line = "".join(self._texts)
        self._texts, self.session, self._chars = [], None, 0
        return line


def _line(q: Seq, session: str, line: str) -> CliLine | LineCut:
    if _count_values(line) <= MAX_LINE_VALUES:
        return CliLine(q=q, session=session, line=line)
    size_bytes = len(line.encode("utf-8", "surrogatepass"))
    return LineCut(q=q, session=session, size_bytes=size_bytes, head=line[:_HEAD_CHARS])


def _count_values(line: str) -> int:
    """An upper bound of the JSON values in the line; what stands in strings counts only at first.

    The first count settles nearly every line; 4 MiB of strings take 30 ms more.
    """
    count = _count_structure(line)
    return count if count <= MAX_LINE_VALUES else _count_structure(_STRING.sub("", line))


def _count_structure(text: str) -> int:
    return 1 + text.count(",") + text.count("[") + text.count("{")


def _event(frame: NumberedFrame) -> UpEvent:
    """The event of a frame that is one by itself."""
    q = Seq(frame.q)
    match frame:
        case OutFrame():
            return CliLine(q=q, session=frame.s, line=frame.d)
        case ErrFrame():
            return CliStderr(q=q, session=frame.s, text=frame.d, dropped_bytes=frame.dropped)
        case CutFrame():
            return LineCut(q=q, session=frame.s, size_bytes=frame.bytes, head=frame.head)
        case StartedFrame():
            return SessionStarted(q=q, session=frame.s, pid=frame.pid)
        case ExitedFrame():
            return SessionExited(q=q, session=frame.s, code=frame.code, signal=frame.signal)
        case AppliedFrame():
            return Applied(q=q, command_id=frame.id, duplicate=frame.dup)
        case RefusedFrame():
            return Refused(q=q, command_id=frame.id, why=frame.why)
