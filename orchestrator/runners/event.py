"""What the shim said, as events: frames counted, and pieces of lines put together.

Pure. Nothing is skipped and nothing repeated, or the link is broken.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import WireProtocolError
from orchestrator.model import Seq
from orchestrator.runners.wire import (
    MAX_LINE_BYTES,
    AppliedFrame,
    CutFrame,
    ErrFrame,
    ExitedFrame,
    NumberedFrame,
    OutFrame,
    RefusedFrame,
    StartedFrame,
)


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
    """A line that was too long; only its `head` was kept."""

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


UpEvent = CliLine | CliStderr | LineCut | SessionStarted | SessionExited | Applied | Refused


class Reassembler:
    """Frames into events. Invariant: `expected` is the number that the next frame must have."""

    __slots__ = ("_line_chars", "_pieces", "_session", "expected")

    def __init__(self, expected: Seq) -> None:
        self.expected = expected
        self._session: str | None = None
        self._pieces: list[str] = []
        self._line_chars = 0

    def __repr__(self) -> str:
        return f"Reassembler(expected={self.expected}, chars={self._line_chars})"

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
            return self._accept_piece(frame)
        if self._session is not None:
            msg = "the runner broke a line off"
            raise WireProtocolError(msg)
        return _event(frame)

    def _accept_piece(self, frame: OutFrame) -> CliLine | None:
        if self._session not in (None, frame.s):
            msg = "the runner mixed two lines"
            raise WireProtocolError(msg)
        self._line_chars += len(frame.d)
        if self._line_chars > MAX_LINE_BYTES:  # a character is a byte or more
            msg = "the runner sent a line over the limit"
            raise WireProtocolError(msg)
        self._pieces.append(frame.d)
        self._session = frame.s
        if frame.more:
            return None
        line = "".join(self._pieces)
        self._pieces, self._session, self._line_chars = [], None, 0
        return CliLine(q=Seq(frame.q), session=frame.s, line=line)


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
