"""Bytes into bounded lines, and stderr into a bounded trickle. Pure."""

from __future__ import annotations

import codecs

from shim import limits


class FrameLines:
    """Splits what comes down into lines; one above the limit becomes None, once, and is skipped."""

    __slots__ = ("_buffer", "_limit", "_skipping")

    def __init__(self, limit: int = limits.MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their line ends; empty ones are left out."""
        lines: list[bytes | None] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part, lines)
            if self._buffer:
                lines.append(bytes(self._buffer))
            self._buffer.clear()
            self._skipping = False
        self._add(rest, lines)
        return lines

    def _add(self, part: bytes, lines: list[bytes | None]) -> None:
        if self._skipping:
            return
        self._buffer += part
        if len(self._buffer) >= self._limit:
            self._buffer.clear()
            self._skipping = True
            lines.append(None)


class Cut:
    """A line above the limit: its size, and its first bytes."""

    __slots__ = ("head", "size_bytes")

    def __init__(self, size_bytes: int, head: bytes) -> None:
        self.size_bytes = size_bytes
        self.head = head


class OutputLines:
    """Splits a CLI's stdout. Lines are pulled, so that the reader can stop between two of them.

    Holds at most the limit plus what was fed since the last pull gave None.
    """

    __slots__ = ("_buffer", "_cut", "_limit", "_scanned")

    def __init__(self, limit: int = limits.MAX_LINE_BYTES) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._limit = limit
        self._cut: Cut | None = None

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""
        self._buffer += data

    def take_line(self) -> bytes | Cut | None:
        """The next complete line without its line end, or None when more bytes are needed."""
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._shorten()
            return None
        self._shorten_at(end)
        return self._take(end)

    def take_rest(self) -> bytes | Cut | None:
        """At the end of the stream: a last line without a line end, or None."""
        if not self._buffer and self._cut is None:
            return None
        self._shorten()
        return self._take(len(self._buffer))

    def _take(self, end: int) -> bytes | Cut:
        line: bytes | Cut = bytes(self._buffer[:end])
        if self._cut is not None:
            self._cut.size_bytes += end
            line, self._cut = self._cut, None
        del self._buffer[: end + 1]
        self._scanned = 0
        return line

    def _shorten_at(self, end: int) -> None:
        if self._cut is None and end > self._limit:
            self._cut = Cut(0, bytes(self._buffer[: min(limits.CUT_HEAD_BYTES, self._limit)]))

    def _shorten(self) -> None:
        """No line end in the buffer: drop what can't become a line any more."""
        self._shorten_at(len(self._buffer))
        if self._cut is not None:
            self._cut.size_bytes += len(self._buffer)
            self._buffer.clear()
        self._scanned = len(self._buffer)


class StderrTrickle:
    """Lets through a burst, then a rate, and counts what it drops."""

    __slots__ = ("_at", "_decoder", "_tokens", "dropped_bytes")

    def __init__(self, now: float) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens = float(limits.STDERR_BURST_BYTES)
        self._at = now
        self.dropped_bytes = 0

    def take(self, data: bytes, now: float, *, has_room: bool) -> str:
        """The text of what may pass now; the rest is added to `dropped_bytes`."""
        earned = (now - self._at) * limits.STDERR_BYTES_PER_S
        self._tokens = min(self._tokens + earned, float(limits.STDERR_BURST_BYTES))
        self._at = now
        passing = min(len(data), int(self._tokens)) if has_room else 0
        self._tokens -= passing
        self.dropped_bytes += len(data) - passing
        return self._decoder.decode(data[:passing])

    def take_dropped(self) -> int:
        """The bytes dropped since the last call."""
        dropped, self.dropped_bytes = self.dropped_bytes, 0
        return dropped
