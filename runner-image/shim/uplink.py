"""The way up: stdout without ever blocking on it."""

from __future__ import annotations

import os
from collections import deque

from shim import frames, limits, memory
from shim.reactor import WRITE, Reactor

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shim.aside import Aside
    from shim.spool import Spool

# Pongs, faults and a welcome; more only gather while nobody reads, and then only the last matter.
_MAX_NOTES = 64
# Chunks that one turn of the loop writes: a fast reader must not keep it from its other work.
_WRITES_PER_TURN = 4


class Uplink:
    """Writes whole lines only: notes first, then in turns what the spool has and what is not kept.

    Silent until the first hello.
    """

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        spool: Spool,
        aside: Aside,
        when_broken: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._fd = fd
        self._spool = spool
        self._aside = aside
        self._is_asides_turn = False
        self._when_broken = when_broken
        self._notes: deque[bytes] = deque(maxlen=_MAX_NOTES)
        self._writing = memoryview(b"")
        self._is_attached = False
        self._is_waiting = False
        self._is_broken = False
        os.set_blocking(fd, False)

    def __repr__(self) -> str:
        return f"Uplink(attached={self._is_attached}, waiting={self._is_waiting}, {self._spool!r})"

    def is_drained(self) -> bool:
        """Whether nothing waits for being written (or nobody ever said hello)."""
        return not self._is_attached or not (
            self._writing or self._notes or self._spool.has_unsent() or self._aside.has_unsent()
        )

    def greet(self, welcome: Mapping[str, object]) -> None:
        """Answer a hello: forget notes for whoever was there before, then say all that is kept."""
        self._is_attached = True
        self._spool.rewind()
        self._aside.clear()
        self._notes.clear()
        self.note(welcome)

    def note(self, frame: Mapping[str, object]) -> None:
        """Say something that has no number and is not repeated."""
        self._is_attached = True
        self._notes.append(frames.encode(frame))

    def flush(self) -> None:
        """Write what can be written now; comes back by itself when the reader is slow."""
        if self._is_attached and not self._is_waiting and not self._is_broken:
            self._write()

    def _writable(self, _ready: int) -> None:
        self._is_waiting = False
        self._write()

    def _write(self) -> None:
        for _ in range(_WRITES_PER_TURN):
            if not self._writing:
                self._refill()
            if not self._writing or not self._write_once():
                break
        self._is_waiting = not self.is_drained() and not self._is_broken
        self._reactor.want(self._fd, WRITE if self._is_waiting else 0, self._writable)

    def _refill(self) -> None:
        if self._notes:
            self._writing = memoryview(self._notes.popleft())
            return
        # A session that says very much holds up neither the others' output nor its own end.
        self._is_asides_turn = self._aside.has_unsent() and (
            not self._is_asides_turn or not self._spool.has_unsent()
        )
        source = self._aside if self._is_asides_turn else self._spool
        self._writing = memoryview(source.take_unsent(limits.CHUNK_BYTES))
        if self._aside.take_emptied():
            memory.release()

    def _write_once(self) -> bool:
        try:
            written = os.write(self._fd, self._writing)
        except BlockingIOError:
            return False
        except OSError:
            self._is_broken = True
            self._reactor.drop(self._fd)
            self._when_broken()
            return False
        self._writing = self._writing[written:]
        return True
