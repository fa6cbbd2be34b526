"""What comes down one attach after the other: a hello, then frames counted from 1.

Rules: nothing counts before a hello; the first mistake of an attach is reported, and everything
after it is ignored until the next hello, because what the orchestrator believes to have said is no
longer known. Commands have ids and are offered again after a new hello, so nothing is lost by that.
"""

from __future__ import annotations

from shim import frames, limits
from shim.frames import FrameError
from shim.lines import FrameLines

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from shim.room import Room


class _Pieces:
    """An input that is not complete yet."""

    __slots__ = ("command", "session", "size", "texts")

    def __init__(self, command: str, session: str) -> None:
        self.command = command
        self.session = session
        self.texts: list[str] = []
        self.size = 0


class Downlink:
    """Invariant: `_next` is the count of the next frame, or None while frames are ignored."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lines = FrameLines()
        self._next: int | None = None
        self._pieces: _Pieces | None = None

    def __repr__(self) -> str:
        return f"Downlink(next={self._next})"

    def feed(self, data: bytes) -> None:
        """Act on the frames that `data` completes."""
        for line in self._lines.feed(data):
            try:
                self._take(line)
            except FrameError as error:
                self._complain(str(error))

    def _take(self, line: bytes | None) -> None:
        if line is None:
            msg = "a line is over the limit"
            raise FrameError(msg)
        frame = frames.parse(line)
        if frame.get("t") != "hello":
            if self._next is None:
                return
            self._count(frame)
        frames.dispatch(frame, self)

    def _count(self, frame: frames.Frame) -> None:
        if frame.get("n") != self._next or isinstance(frame.get("n"), bool):
            msg = f"frame {self._next} was expected"
            raise FrameError(msg)
        self._next = (self._next or 0) + 1

    def _complain(self, why: str) -> None:
        if self._next is not None:
            self._next = None
            self._pieces = None
            self._room.fault(why)

    def hello(self, version: int, nonce: str, epoch: str | None, acked: int) -> None:
        """A new attach begins."""
        self._pieces = None
        if version != limits.VERSION:
            self._next = None
            self._room.refused_version(nonce)
            return
        self._next = 1
        self._room.attached(nonce, epoch, acked)

    def ack(self, q: int) -> None:
        """Frames up to `q` are stored on the other side."""
        if not self._room.ack(q):
            msg = "an acknowledgement is ahead of what was sent"
            raise FrameError(msg)

    def ping(self, token: str) -> None:
        """Prove that the loop turns."""
        self._room.ping(token)

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
        """Start a session's process."""
        self._begin_command()
        self._room.open(command, session, argv, env, cwd, kept=kept)

    def input(self, command: str, session: str, text: str, *, more: bool) -> None:
        """A line for a session's stdin, or a piece of one."""
        pieces = self._pieces or _Pieces(command, session)
        if (pieces.command, pieces.session) != (command, session):
            msg = "an input was not completed"
            raise FrameError(msg)
        pieces.texts.append(text)
        pieces.size += len(text)
        self._pieces = pieces
        if pieces.size > limits.MAX_INPUT_LINE_BYTES:
            msg = "an input is over the limit"
            raise FrameError(msg)
        if not more:
            self._complete(pieces)

    def _complete(self, pieces: _Pieces) -> None:
        self._pieces = None
        self._begin_command()
        text = "".join(pieces.texts)
        if "\n" in text:
            msg = "an input has a line end in it"
            raise FrameError(msg)
        self._room.input(pieces.command, pieces.session, text.encode("utf-8", "replace") + b"\n")

    def signal(self, command: str, session: str, how: str) -> None:
        """Signal a session's processes."""
        self._begin_command()
        self._room.signal(command, session, how)

    def close(self, command: str, session: str) -> None:
        """Close a session's stdin."""
        self._begin_command()
        self._room.close(command, session)

    def _begin_command(self) -> None:
        if self._pieces is not None:
            msg = "an input was not completed"
            raise FrameError(msg)
        if not self._room.has_reserve():
            msg = "too many answers are not acknowledged"
            raise FrameError(msg)
