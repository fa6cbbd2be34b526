"""Stdin and stdout of a main process in memory, with what a real engine does to them.

Rules: output that nobody is attached to is gone; output that an attached side does not read holds
the process back; a detach leaves stdin open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Final

from orchestrator.errors import WireClosedError

# As the real stream: this much is read at once, and twice of it waits before the process does.
_READ_BYTES: Final = 64 << 10
_BUFFER_BYTES: Final = 128 << 10


class Pipe:
    """Bytes in order. Invariant: a writer waits while `_BUFFER_BYTES` or more are unread."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._closed = False
        self._waiters: list[asyncio.Event] = []

    async def put(self, data: bytes) -> None:
        """Add all of it, after room for it was made. Raises WireClosedError when closed."""
        while len(self._data) >= _BUFFER_BYTES and not self._closed:
            await self._wait()
        if self._closed:
            raise WireClosedError
        self._data += data
        self._wake()

    async def take(self) -> bytes:
        """At most 64 KiB, as soon as there is any; b"" when closed and empty. Cancel-safe."""
        while not self._data and not self._closed:
            await self._wait()
        taken = bytes(self._data[:_READ_BYTES])
        del self._data[: len(taken)]
        self._wake()
        return taken

    def close(self) -> None:
        """No more comes; what is in it can still be taken."""
        self._closed = True
        self._wake()

    async def _wait(self) -> None:
        changed = asyncio.Event()
        self._waiters.append(changed)
        await changed.wait()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for changed in waiters:
            changed.set()


class MemoryStdio:
    """The main process's side: its stdin, its stdout, and the signal to end."""

    def __init__(self) -> None:
        self.terminated = asyncio.Event()
        """Set by a stop, as SIGTERM would arrive."""
        self._stdin = Pipe()
        self._attached: set[Pipe] = set()

    async def read(self) -> bytes:
        """The next bytes of stdin; waits for ever while nobody writes. Cancel-safe."""
        return await self._stdin.take()

    async def write(self, data: bytes) -> None:
        """Print: to every attached stream, waiting for slow ones; to nobody when none is."""
        for pipe in tuple(self._attached):
            with suppress(WireClosedError):
                await pipe.put(data)

    @asynccontextmanager
    async def attached(self) -> AsyncIterator[MemoryStream]:
        """A stream to this process; leaving detaches and ends nothing."""
        stdout = Pipe()
        self._attached.add(stdout)
        try:
            yield MemoryStream(self._stdin, stdout)
        finally:
            self._attached.discard(stdout)
            stdout.close()

    def close(self) -> None:
        """The process ended: streams end after what is still in them."""
        for pipe in (self._stdin, *self._attached):
            pipe.close()


MemoryProgram = Callable[[MemoryStdio], Coroutine[None, None, int]]
"""A main process: runs until it ends by itself with an exit code, or is told to by `terminated`."""


async def echo(stdio: MemoryStdio) -> int:
    """The simplest main process: prints what it reads, and ends with 0 when it is told to."""

    async def copy() -> None:
        while True:
            await stdio.write(await stdio.read())

    async with asyncio.TaskGroup() as group:
        copying = group.create_task(copy(), name="echo")
        await stdio.terminated.wait()
        copying.cancel()
    return 0


class MemoryStream:
    """`ports.ByteStream` in memory."""

    def __init__(self, stdin: Pipe, stdout: Pipe) -> None:
        self._stdin = stdin
        self._stdout = stdout

    async def read(self) -> bytes:
        """The next bytes of stdout, at most 64 KiB; b"" at the end. Cancel-safe."""
        return await self._stdout.take()

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting for the other side. Raises WireClosedError when it ended."""
        await self._stdin.put(data)
