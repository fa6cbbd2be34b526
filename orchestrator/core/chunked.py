"""A body in chunks, read strictly: sizes in plain hexadecimal, no extensions, no trailers."""

from __future__ import annotations

import re

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_END = b"\r\n"
# The longest size and its line end.
_MAX_LINE = 10


class ChunkedBody:
    """Fed with bytes as they come, gives back those of the body.

    Invariant: after `is_done` nothing more is taken; `rest` is what came after the body.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._held = bytearray()
        self._left = 0
        """Bytes of the chunk that are still to come."""
        self._is_after_chunk = False

    def __repr__(self) -> str:
        return f"ChunkedBody(is_done={self.is_done}, left={self._left})"

    @property
    def rest(self) -> bytes:
        """What came after the body's end."""
        return bytes(self._held)

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in `data`.

        Raises:
            ValueError: the framing is not of the one form.
        """
        self._held += data
        body = bytearray()
        while not self.is_done and self._step(body):
            pass
        return bytes(body)

    def _step(self, body: bytearray) -> bool:
        """Take one piece; whether there may be another."""
        if self._left:
            piece = self._held[: self._left]
            body += piece
            del self._held[: len(piece)]
            self._left -= len(piece)
            self._is_after_chunk = self._left == 0
            return bool(piece)
        if self._is_after_chunk:
            return self._take_line_end()
        return self._take_size()

    def _take_line_end(self) -> bool:
        if not self._held.startswith(_END[: len(self._held)]):
            msg = "a chunk is longer than its size"
            raise ValueError(msg)
        if len(self._held) < len(_END):
            return False
        del self._held[: len(_END)]
        self._is_after_chunk = False
        return True

    def _take_size(self) -> bool:
        end = self._held.find(_END, 0, _MAX_LINE)
        if end == -1:
            if len(self._held) >= _MAX_LINE:
                msg = "a chunk's size is no plain number"
                raise ValueError(msg)
            return False
        if _SIZE.fullmatch(self._held, 0, end) is None:
            msg = "a chunk's size is no plain number"
            raise ValueError(msg)
        size = int(self._held[:end], 16)
        if size == 0:
            return self._take_last(end + len(_END))
        del self._held[: end + len(_END)]
        self._left = size
        return True

    def _take_last(self, at: int) -> bool:
        """The empty line after the last chunk; until it is there nothing is taken."""
        after = bytes(self._held[at : at + len(_END)])
        if not _END.startswith(after):
            msg = "trailers are not passed on"
            raise ValueError(msg)
        if after == _END:
            del self._held[: at + len(_END)]
            self.is_done = True
        return False
