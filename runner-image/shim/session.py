"""One session: a CLI process, its three pipes, and what becomes of its output."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque

from shim import frames, limits
from shim.lines import Cut, OutputLines, StderrTrickle
from shim.reactor import READ, WRITE, Pipe, Reactor

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.aside import Aside
    from shim.process import Child
    from shim.spool import Spool

# One read of stderr: even as six-byte escapes it fits into a frame.
_STDERR_CHUNK_BYTES = 16 * 1024


class Session:
    """Invariant: `exited` is said once, after all that the process wrote to stdout before it ended.

    States: running, then ending (the process is gone, its output is not all spooled), then ended.
    """

    def __init__(
        self,
        name: str,
        child: Child,
        reactor: Reactor,
        spool: Spool,
        when_ended: Callable[[], None],
        aside: Aside | None = None,
    ) -> None:
        """With `aside` its stdout goes there, and is not kept."""
        self.name = name
        self.pid = child.pid
        self.exit_code: int | None = None
        self.is_ended = False
        self.backlog_bytes = 0
        self._reactor = reactor
        self._spool = spool
        self._aside = aside
        self._when_ended = when_ended
        self._stdin = Pipe(reactor, child.stdin_fd)
        self._stdout = Pipe(reactor, child.stdout_fd)
        self._stderr = Pipe(reactor, child.stderr_fd)
        self._lines = OutputLines()
        self._trickle = StderrTrickle(reactor.now())
        self._backlog: deque[memoryview] = deque()
        self._closes_stdin = False
        self._is_stdout_over = False
        self._bytes_after_exit = 0
        self._stdout.want(READ, self._stdout_readable)
        self._stderr.want(READ, self._stderr_readable)

    def __repr__(self) -> str:
        return f"Session({self.name!r}, pid={self.pid}, exit_code={self.exit_code})"

    def is_running(self) -> bool:
        """Whether the process has not been reaped."""
        return self.exit_code is None

    def status(self) -> dict[str, object]:
        """What the welcome says of it."""
        code, by_signal = split_exit_code(self.exit_code if self.is_ended else None)
        state = "exited" if self.is_ended else "running"
        return {"state": state, "pid": self.pid, "code": code, "signal": by_signal}

    def takes_input(self) -> bool:
        """Whether stdin is open, as far as is known here."""
        return self._stdin.is_open() and not self._closes_stdin

    def write_line(self, line: bytes) -> None:
        """Queue a line for stdin; ask `takes_input` first."""
        self._backlog.append(memoryview(line))
        self.backlog_bytes += len(line)
        self._write_stdin(WRITE)

    def close_stdin(self) -> None:
        """Close stdin, after what is queued for it. Idempotent."""
        self._closes_stdin = True
        self._write_stdin(WRITE)

    def signal(self, number: int, *, group: bool) -> None:
        """Signal the process, or its group; only while it runs: the pid is still its own then."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
            (os.killpg if group else os.kill)(self.pid, number)

    def resume(self) -> None:
        """Go on reading, if the spool has room again."""
        if self.is_running():
            self._forward_lines()
        elif not self.is_ended:
            self._finish()

    def on_reaped(self, exit_code: int) -> None:
        """The process has ended; whatever it wrote is in the pipes by now."""
        self.exit_code = exit_code
        self._close_stdin_now()
        self._finish()

    def _stdout_readable(self, _ready: int) -> None:
        self._read_stdout()
        if not self.is_running():
            self._finish()

    def _read_stdout(self) -> bool:
        """One read; False when there was nothing (yet, or any more)."""
        data = self._stdout.read(limits.CHUNK_BYTES)
        self._lines.feed(data)
        self._bytes_after_exit += 0 if self.is_running() else len(data)
        self._forward_lines()
        return bool(data)

    def _has_room(self) -> bool:
        return self._spool.has_room() if self._aside is None else self._aside.has_room()

    def _forward_lines(self) -> bool:
        """Spool complete lines while there is room; False when some had to wait."""
        while self._has_room():
            line = self._lines.take_line()
            if line is None:
                self._forward_rest()
                break
            self._forward(line)
        has_room = self._has_room()
        self._stdout.want(READ if has_room else 0, self._stdout_readable)
        return has_room

    def _forward_rest(self) -> None:
        if not self._stdout.is_open() and not self._is_stdout_over:
            self._is_stdout_over = True
            rest = self._lines.take_rest()
            if rest is not None:
                self._forward(rest)

    def _forward(self, line: bytes | Cut) -> None:
        if self._aside is not None:
            text = line.head if isinstance(line, Cut) else line
            for whole in frames.aside_lines(self.name, text):
                self._aside.add(whole)
        elif isinstance(line, Cut):
            head = line.head.decode("utf-8", "replace")
            frame = {"t": "cut", "s": self.name, "bytes": line.size_bytes, "head": head}
            self._spool.add_output(frames.body(frame))
        else:
            for piece in frames.out_bodies(self.name, line):
                self._spool.add_output(piece)

    def _finish(self) -> None:
        """Take what the dead process left in its pipes, as far as there is room, then say goodbye.

        A pipe is first in, first out: once it is empty, or a whole pipe was read after the end, all
        of the process's own output was seen. Descendants that hold its other end are not awaited.
        """
        while self._forward_lines():
            if self._bytes_after_exit > limits.PIPE_MAX_BYTES or not self._read_stdout():
                break
        if not self._forward_lines() or self.is_ended:
            return
        self._stdout.close()
        self._forward_rest()
        self._finish_stderr()
        self.is_ended = True
        code, by_signal = split_exit_code(self.exit_code)
        goodbye = {"t": "exited", "s": self.name, "code": code, "signal": by_signal}
        self._spool.add_answer(frames.body(goodbye))
        self._when_ended()

    def _stderr_readable(self, _ready: int) -> None:
        self._read_stderr()

    def _read_stderr(self) -> bool:
        data = self._stderr.read(_STDERR_CHUNK_BYTES)
        text = self._trickle.take(data, self._reactor.now(), has_room=self._spool.has_room())
        if text:
            self._forward_stderr(text)
        return bool(data)

    def _forward_stderr(self, text: str) -> None:
        dropped = self._trickle.take_dropped()
        frame = {"t": "err", "s": self.name, "d": text, "dropped": dropped}
        self._spool.add_output(frames.body(frame))

    def _finish_stderr(self) -> None:
        for _ in range(limits.PIPE_MAX_BYTES // _STDERR_CHUNK_BYTES):
            if not self._read_stderr():
                break
        self._stderr.close()
        if self._trickle.dropped_bytes:
            self._forward_stderr("")

    def _write_stdin(self, _ready: int) -> None:
        while self._backlog:
            written = self._stdin.write(self._backlog[0])
            if not written:
                break
            self._consume(written)
        if not self._stdin.is_open() or (self._closes_stdin and not self._backlog):
            self._close_stdin_now()
        self._stdin.want(WRITE if self._backlog else 0, self._write_stdin)

    def _consume(self, written: int) -> None:
        self.backlog_bytes -= written
        rest = self._backlog[0][written:]
        if rest:
            self._backlog[0] = rest
        else:
            self._backlog.popleft()

    def _close_stdin_now(self) -> None:
        self._backlog.clear()
        self.backlog_bytes = 0
        self._stdin.close()


def split_exit_code(exit_code: int | None) -> tuple[int | None, int | None]:
    """(code, None), (None, signal), or (None, None) while it runs."""
    if exit_code is None:
        return None, None
    return (exit_code, None) if exit_code >= 0 else (None, -exit_code)


SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
"""The commands' words for what `Session.signal` sends; kill is the room's (it goes further)."""
