"""A proxy on loopback before a real homeserver, with every fault that a network or a proxy has.

    async with open_fault_proxy(synapse.base_url) as proxy:
        proxy.inject("GET /sync", Cut(body_bytes=100), times=1)
        proxy.inject("PUT */send/*", Answer(status=429, headers={"Retry-After": "1"}), times=3)
        await proxy.refuse()            # nobody listens
        await proxy.accept()            # somebody does again

It reads requests whole, so that a fault can be one request's: cut after the homeserver accepted it,
answered without asking it, stalled, slow. Paths are named without `/_matrix/client/v3`; `*` stands
for anything. Each request is a connection of its own to the homeserver.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_CLIENT_API = "/_matrix/client/v3"
_HOP = ("connection", "keep-alive", "host")
_CHUNK_BYTES = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answered by a proxy on the way: the homeserver is not asked."""

    status: int
    body: Any = b""
    """Bytes as they are; anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The homeserver has done it; the answer breaks off with a reset."""

    body_bytes: int = 0
    """How much of the answer's body is passed on before."""
    with_head: bool = True
    """Whether status and headers are passed on."""


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """As `Cut`, with an orderly end of the connection."""

    body_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stall:
    """Taken, and never answered, until `release` or until the client goes."""

    asks: bool = False
    """Whether the homeserver gets the request."""


@dataclass(frozen=True, kw_only=True)
class Slow:
    """The answer trickles."""

    bytes_per_s: float


Fault = Answer | Cut | Truncate | Stall | Slow


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request. `at` is monotonic time."""

    method: str
    path: str
    at: float
    fault: Fault | None


@dataclass(slots=True)
class _Rule:
    method: str
    path: str
    fault: Fault
    left: float
    skip: int

    def takes(self, method: str, path: str) -> bool:
        if self.left < 1 or self.method not in ("*", method):
            return False
        if not fnmatch.fnmatchcase(path, self.path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.left -= 1
        return True


class FaultProxy:
    """Passes everything on, but for what was injected. Invariant: `port` never changes."""

    def __init__(self, upstream: str, port: int) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port or 80)
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.seen: list[Seen] = []
        self._rules: list[_Rule] = []
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.base_url} seen={len(self.seen)} rules={len(self._rules)}>"

    def inject(
        self, endpoint: str, fault: Fault, *, times: float = float("inf"), skip: int = 0
    ) -> None:
        """The endpoint (`GET /sync`, `PUT */send/*`, `* *`) meets the fault so many times.

        Faults of the same endpoint come in the order of their injection, each when the ones before
        it are used up or let the request pass: `skip` counts the requests that this one lets pass.
        """
        method, _, path = endpoint.partition(" ")
        self._rules.append(_Rule(method, path, fault, times, skip))

    def clear(self) -> None:
        """No faults any more; what stalls is cut."""
        self._rules.clear()
        self.release()

    def release(self) -> None:
        """Cut what stalls."""
        self._released.set()
        self._released = asyncio.Event()

    def requests(self, endpoint: str, *, since: float = 0.0) -> list[Seen]:
        """What was asked of an endpoint since then (monotonic time)."""
        method, _, path = endpoint.partition(" ")
        return [
            seen
            for seen in self.seen
            if seen.at >= since
            and method in ("*", seen.method)
            and fnmatch.fnmatchcase(seen.path, path)
        ]

    async def refuse(self) -> None:
        """Nobody listens any more, and what was open is reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._connections):
            _reset(writer)

    async def accept(self) -> None:
        """Listen, on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, reuse_address=True
            )

    async def close(self) -> None:
        """End everything."""
        await self.refuse()
        self.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._handle(reader, writer)
        finally:
            self._connections.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        line, _, rest = head.partition(b"\r\n")
        method, target = line.decode().split(" ")[:2]
        path = urlsplit(target).path.removeprefix(_CLIENT_API)
        fault = next((r.fault for r in self._rules if r.takes(method, path)), None)
        self.seen.append(Seen(method=method, path=path, at=time.monotonic(), fault=fault))
        if isinstance(fault, Answer):
            await _answer(writer, fault)
            return
        request = line + b"\r\n" + _own_headers(rest, self._upstream) + body
        if isinstance(fault, Stall):
            await self._stall(reader, request if fault.asks else None)
            _reset(writer)
        elif isinstance(fault, Cut | Truncate):
            await self._break_off(writer, request, fault)
        else:
            await self._pass(reader, writer, request, fault)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: bytes,
        fault: Slow | None,
    ) -> None:
        """Piece by piece, until either side goes."""
        async with self._ask(request) as answer, asyncio.TaskGroup() as group:

            async def pump() -> None:
                with contextlib.suppress(OSError):
                    while data := await answer.read(_CHUNK_BYTES if fault is None else 64):
                        writer.write(data)
                        await writer.drain()
                        if fault is not None:
                            await asyncio.sleep(len(data) / fault.bytes_per_s)

            async def watch() -> None:
                with contextlib.suppress(OSError):
                    await reader.read(1)

            tasks = [group.create_task(pump()), group.create_task(watch())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _break_off(
        self, writer: asyncio.StreamWriter, request: bytes, fault: Cut | Truncate
    ) -> None:
        async with self._ask(request) as answer:
            whole = await answer.read()
        head, separator, body = whole.partition(b"\r\n\r\n")
        if isinstance(fault, Truncate) or fault.with_head:
            writer.write(head + separator + body[: fault.body_bytes])
            await writer.drain()
        if isinstance(fault, Cut):
            # What was written must be read before the reset overtakes it.
            await asyncio.sleep(0.05)
            _reset(writer)

    async def _stall(self, reader: asyncio.StreamReader, request: bytes | None) -> None:
        if request is not None:
            async with self._ask(request) as answer:
                await answer.read()
        released = self._released

        async def watch() -> None:
            with contextlib.suppress(OSError):
                await reader.read(1)

        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(released.wait()), group.create_task(watch())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()

    @asynccontextmanager
    async def _ask(self, request: bytes) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            await writer.drain()
            yield reader
        finally:
            writer.close()


@asynccontextmanager
async def open_fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy before `upstream` (http://host:port) until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxy = FaultProxy(upstream, port)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.close()


def _own_headers(headers: bytes, upstream: tuple[str, int]) -> bytes:
    """The request's headers for the next hop, which closes after its answer."""
    kept = [
        line
        for line in headers.removesuffix(b"\r\n\r\n").split(b"\r\n")
        if line.partition(b":")[0].decode().lower() not in _HOP
    ]
    host, port = upstream
    return b"\r\n".join([f"Host: {host}:{port}".encode(), b"Connection: close", *kept, b"", b""])


async def _answer(writer: asyncio.StreamWriter, answer: Answer) -> None:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"Content-Length": str(len(body)), "Connection": "close", **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Injected", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: a linger of zero does it."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
