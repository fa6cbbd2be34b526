"""What was said and is not acknowledged yet: numbered, in memory, bounded."""

from __future__ import annotations

from collections import deque

from shim import frames, limits


class Spool:
    """Invariant: `first` … `next_q - 1` are kept, without a gap; those in `_sent` were written.

    Output counts against SPOOL_BYTES and may pass it by one line; answers to commands have their
    own room, SPOOL_RESERVE_BYTES.
    """

    __slots__ = (
        "_output_bytes",
        "_peak_bytes",
        "_reserved_bytes",
        "_sent",
        "_unsent",
        "first",
        "next_q",
    )

    def __init__(self) -> None:
        self.first = 1
        self.next_q = 1
        self._sent: deque[tuple[bytes, bool]] = deque()
        self._unsent: deque[tuple[bytes, bool]] = deque()
        self._output_bytes = 0
        self._reserved_bytes = 0
        self._peak_bytes = 0

    def __repr__(self) -> str:
        return f"Spool({self.first}..{self.next_q - 1}, {self._output_bytes} bytes)"

    def has_room(self) -> bool:
        """Whether a CLI's output may be read."""
        return self._output_bytes < limits.SPOOL_BYTES

    def has_reserve(self) -> bool:
        """Whether a command may be applied: its answers fit."""
        return self._reserved_bytes < limits.SPOOL_RESERVE_BYTES

    def has_unsent(self) -> bool:
        """Whether something waits for being written."""
        return bool(self._unsent)

    def add_output(self, body: bytes) -> None:
        """Number a frame that carries output; ask `has_room` first."""
        self._output_bytes += self._append(body, reserved=False)
        self._peak_bytes = max(self._peak_bytes, self._output_bytes)

    def add_answer(self, body: bytes) -> None:
        """Number a frame that answers a command or says that a session ended. Never refused."""
        self._reserved_bytes += self._append(body, reserved=True)

    def take_unsent(self, max_bytes: int) -> bytes:
        """The next frames to be written, about `max_bytes` of them; b"" when there are none."""
        taken: list[bytes] = []
        size = 0
        while self._unsent and size < max_bytes:
            entry = self._unsent.popleft()
            self._sent.append(entry)
            taken.append(entry[0])
            size += len(entry[0])
        return b"".join(taken)

    def rewind(self) -> None:
        """Everything that is kept will be written again, from the first."""
        self._sent.extend(self._unsent)
        self._sent, self._unsent = deque(), self._sent

    def forget(self, q: int) -> bool:
        """Drop up to and including `q`; False, and nothing dropped, if `q` was never given out."""
        if q >= self.next_q:
            return False
        while self.first <= q:
            frame, reserved = (self._sent or self._unsent).popleft()
            self._uncount(len(frame) + limits.FRAME_OVERHEAD_BYTES, reserved=reserved)
            self.first += 1
        return True

    def take_emptied(self) -> bool:
        """Whether it is empty now and held much since this was last true."""
        if self._output_bytes or self._peak_bytes < limits.BURST_BYTES:
            return False
        self._peak_bytes = 0
        return True

    def _append(self, body: bytes, *, reserved: bool) -> int:
        frame = frames.numbered(self.next_q, body)
        self.next_q += 1
        self._unsent.append((frame, reserved))
        return len(frame) + limits.FRAME_OVERHEAD_BYTES

    def _uncount(self, size: int, *, reserved: bool) -> None:
        if reserved:
            self._reserved_bytes -= size
        else:
            self._output_bytes -= size
