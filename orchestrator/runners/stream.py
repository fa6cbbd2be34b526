"""The attached stdio of a runner, out of the engine's frames: stdout is the wire, stderr a log.

Rules: reading loses nothing on a cancel; closing detaches and ends nothing; what a runner writes to
stderr is untrusted, so it is bounded in length and in rate before it reaches a log.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Final

from orchestrator.errors import WireClosedError

# The engine's frame: the number of the stream, three empty bytes, the length.
_HEADER: Final = struct.Struct(">BxxxI")
_STDOUT: Final = 1
_STDERR: Final = 2
_READ_BYTES: Final = 64 << 10
# A traceback of the shim is about 20 lines; a third one in a minute says nothing new.
_LINE_CHARS: Final = 400
_LINES_PER_WINDOW: Final = 40
_WINDOW_S: Final = 60.0


class DiagnosticLines:
    """Bytes of stderr in, bounded lines out.

    Invariant: at most 40 lines of 400 characters leave in a minute. Control characters and
    everything beyond ASCII come out escaped.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._window_ends = 0.0
        self._left = 0
        self.dropped = 0
        """Lines that the limit kept back, since the beginning."""

    def __repr__(self) -> str:
        return f"DiagnosticLines(left={self._left}, dropped={self.dropped})"

    def feed(self, data: bytes, *, now: float) -> None:
        """Take what arrived; `now` is a monotonic clock's time in seconds."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_LINE_CHARS]
        for line in lines:
            self._emit(line, now)

    def close(self, *, now: float) -> None:
        """Give out the last line, if it had no end."""
        if self._rest:
            self._emit(self._rest, now)
            self._rest = b""

    def _emit(self, line: bytes, now: float) -> None:
        if now >= self._window_ends:
            self._window_ends, self._left = now + _WINDOW_S, _LINES_PER_WINDOW
        if self._left <= 0:
            self.dropped += 1
            return
        self._left -= 1
        text = line[:_LINE_CHARS].decode("ascii", "backslashreplace")
        self._on_line(text.encode("unicode_escape").decode("ascii")[:_LINE_CHARS])


class AttachedStream:
    """`ports.ByteStream` over an upgraded connection.

    Invariant: between reads, `_left` bytes of a frame of the stream `_stream` are still to come.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        diagnostics: DiagnosticLines,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._diagnostics = diagnostics
        self._stream = 0
        self._left = 0

    def __repr__(self) -> str:
        return f"AttachedStream(stream={self._stream}, left={self._left})"

    async def read(self) -> bytes:
        """The next bytes of stdout, at most 64 KiB; b"" at the end. Cancel-safe.

        Raises:
            WireClosedError: the connection failed, or broke off inside a frame.
        """
        try:
            while await self._next_frame():
                data = await self._reader.read(min(self._left, _READ_BYTES))
                self._left -= len(data)
                if not data:
                    raise WireClosedError
                if self._stream == _STDOUT:
                    return data
                self._diagnostics.feed(data, now=time.monotonic())
        except OSError as e:
            raise WireClosedError from e
        self._diagnostics.close(now=time.monotonic())
        return b""

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting for the runner as long as the caller does.

        Raises:
            WireClosedError: the connection failed or ended.
        """
        if self._writer.is_closing():
            raise WireClosedError
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as e:
            raise WireClosedError from e

    async def _next_frame(self) -> bool:
        """Make `_left` positive; False at the end of the stream."""
        while self._left == 0:
            try:
                header = await self._reader.readexactly(_HEADER.size)
            except asyncio.IncompleteReadError as e:
                if e.partial:
                    raise WireClosedError from e
                return False
            self._stream, self._left = _HEADER.unpack(header)
            if self._stream not in {_STDOUT, _STDERR}:
                msg = "the engine's stream is not framed as expected"
                raise WireClosedError(msg)
        return True
