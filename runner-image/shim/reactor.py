"""One selector, callbacks by file descriptor, and a few timers."""

from __future__ import annotations

import heapq
import os
import selectors
import time

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class _Interest:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[int], None]) -> None:
        self.callback = callback


class Reactor:
    """Calls back what is ready, once each turn. Drop a descriptor before you close it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()

    def want(self, fd: int, mask: int, callback: Callable[[int], None]) -> None:
        """Call back with what is ready of `mask`; 0 ends it. Cheap when nothing changes."""
        known = self._selector.get_map().get(fd)
        if known is None:
            if mask:
                self._selector.register(fd, mask, _Interest(callback))
        elif not mask:
            self._selector.unregister(fd)
        elif known.events != mask:
            self._selector.modify(fd, mask, _Interest(callback))

    def drop(self, fd: int) -> None:
        """No longer watch it. Idempotent."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back once, after `delay_s` seconds."""
        self._timer_count += 1
        heapq.heappush(self._timers, (self.now() + delay_s, self._timer_count, callback))

    def turn(self) -> None:
        """Wait for something to be ready or due, and call it back."""
        for key, ready in self._selector.select(self._wait_s()):
            current = self._selector.get_map().get(key.fd)
            # A callback of the same turn may have dropped it, and its number may be in use again.
            if current is not None and current.data is key.data:
                key.data.callback(ready)
        self._call_due()

    def _wait_s(self) -> float | None:
        return max(self._timers[0][0] - self.now(), 0.0) if self._timers else None

    def _call_due(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()


class Pipe:
    """Our end of a pipe, non-blocking. Invariant: watched only while it is open."""

    __slots__ = ("_fd", "_reactor")

    def __init__(self, reactor: Reactor, fd: int) -> None:
        os.set_blocking(fd, False)
        self._reactor = reactor
        self._fd: int | None = fd

    def is_open(self) -> bool:
        """Whether it was neither closed nor has ended."""
        return self._fd is not None

    def want(self, mask: int, callback: Callable[[int], None]) -> None:
        """As Reactor.want; nothing when it is closed."""
        if self._fd is not None:
            self._reactor.want(self._fd, mask, callback)

    def read(self, max_bytes: int) -> bytes:
        """What is there, or b"" when nothing is; at its end (or broken) it closes itself."""
        if self._fd is None:
            return b""
        try:
            data = os.read(self._fd, max_bytes)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.close()
        return data

    def write(self, data: memoryview) -> int:
        """The bytes that were taken; closes itself when nobody reads at the other end."""
        if self._fd is None:
            return 0
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._fd is not None:
            self._reactor.drop(self._fd)
            os.close(self._fd)
            self._fd = None
