"""Watches over a probe that is started in a hostile room, from the host.

While a process enters a container it has the room's uid for a moment, and the room can stop it
there: the engine then waits, and answers nothing about that container until somebody helps (seen
with Docker 20.10). So whatever enters from outside and is stopped is killed at once, and all of it
at the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.1
_STOPPED: Final = "Tt"


class ProbeGuard:
    """Of one probe in one runner.

    Invariant: kills nothing but processes in the runner's process namespace that came from outside
    after the guard was made; the runner's own are never touched.
    """

    def __init__(self, init: int, word: str) -> None:
        self._init = init
        self._word = word.encode()
        """Stands in the probe's arguments, and in no other process's."""
        self._namespace = _namespace(init)
        self._before = frozenset(self._entered())

    @asynccontextmanager
    async def watching(self, deadline_s: float) -> AsyncIterator[None]:
        """Watch as long as the context is open; nothing of the probe is left at its end."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(deadline_s), name="probe guard")
            try:
                yield
            finally:
                watch.cancel()
                await asyncio.to_thread(self._kill, self._is_the_probe)

    async def _watch(self, deadline_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while True:
                    await asyncio.to_thread(self._kill, _is_stopped)
                    await asyncio.sleep(_POLL_S)
        while True:
            await asyncio.to_thread(self._kill, lambda _: True)
            await asyncio.sleep(_POLL_S)

    def _kill(self, which: Callable[[int], bool]) -> None:
        for pid in set(self._entered()) - self._before:
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(pid)
                try:
                    # Looked at again: a number may be another process's by now.
                    if which(pid) and self._has_entered(pid):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)

    def _is_the_probe(self, pid: int) -> bool:
        return self._word in _read(f"/proc/{pid}/cmdline") or _is_stopped(pid)

    def _entered(self) -> Iterator[int]:
        numbers = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - no paths
        yield from (pid for pid in numbers if self._has_entered(pid))

    def _has_entered(self, pid: int) -> bool:
        """In the runner's process namespace, and with a parent that is not."""
        if self._namespace is None or pid == self._init or _namespace(pid) != self._namespace:
            return False
        parent = _fields(pid)[1:2]
        return bool(parent) and _namespace(int(parent[0])) != self._namespace


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - no path
    except OSError:
        return None


def _is_stopped(pid: int) -> bool:
    return any(state in _STOPPED for state in _fields(pid)[:1])


def _fields(pid: int) -> list[str]:
    """State, parent and so on; what stands before them holds a name that may be anything."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode("ascii", "replace").split()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
