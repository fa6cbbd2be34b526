"""Output that nobody needs again: said once, not numbered, gone when it is written. Bounded."""

from __future__ import annotations

from collections import deque

from shim import limits

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable


class Aside:
    """Invariant: `_bytes` is the size of what waits to be written.

    It may pass ASIDE_BYTES by one line. It shares nothing with the spool: a spool that is full,
    because what is in it is not acknowledged yet, does not hold it up.
    """

    __slots__ = ("_bytes", "_frames", "_when_room", "_wrote_bytes")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._wrote_bytes = 0
        self._when_room: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"Aside({self._bytes} bytes)"

    def call_when_room(self, callback: Callable[[], None]) -> None:
        """Who is told that there is room again."""
        self._when_room = callback

    def has_room(self) -> bool:
        """Whether a session's output may be read."""
        return self._bytes < limits.ASIDE_BYTES

    def has_unsent(self) -> bool:
        """Whether something waits for being written."""
        return bool(self._frames)

    def add(self, frame: bytes) -> None:
        """A whole frame; ask `has_room` before the first of a line."""
        self._frames.append(frame)
        self._bytes += len(frame)

    def take_unsent(self, max_bytes: int) -> bytes:
        """The next frames to be written, about `max_bytes` of them; b"" when there are none."""
        had_room = self.has_room()
        taken: list[bytes] = []
        size = 0
        while self._frames and size < max_bytes:
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self._bytes -= size
        self._wrote_bytes += size
        if not had_room and self.has_room():
            self._when_room()
        return b"".join(taken)

    def clear(self) -> None:
        """Whoever it was for is gone."""
        had_room = self.has_room()
        self._frames.clear()
        self._bytes = 0
        if not had_room:
            self._when_room()

    def take_emptied(self) -> bool:
        """Whether it is empty now and much was written since this was last true."""
        if self._frames or self._wrote_bytes < limits.BURST_BYTES:
            return False
        self._wrote_bytes = 0
        return True


def _nothing() -> None:
    """Nobody waits for room."""
