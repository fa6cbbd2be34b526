"""The room's end of one proxied connection: bytes in, bytes out, and a refusal in words."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from http import HTTPStatus
from typing import Protocol

from orchestrator.core.egress_http import Denial
from orchestrator.egress.readiness import receive

# A runner that reads nothing for so long is stuck.
_WRITE_S = 120.0
_QUIET_S = 1.0
# After a refusal the rest is read and dropped, so that the client sees the answer before an error
# of its own write.
_LINGER_S, _LINGER_BYTES = 2.0, 1 << 20
# Python and apt show nothing of a refusal but the words in its first line.
_MAX_PHRASE_CHARS = 300
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")


class ClientGoneError(Exception):
    """The client closed or broke the connection, or reads nothing; nobody is there to answer."""


class ClientSide(Protocol):
    """Where a proxied request comes from: a room's socket, or a stream inside an opened tunnel."""

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Cancel-safe. Raises ClientGoneError."""
        ...

    def push_back(self, data: bytes) -> None:
        """What the next `read` is to give first."""
        ...

    async def write(self, data: bytes) -> None:
        """All of it, when the client takes it. Raises ClientGoneError."""
        ...


class SocketClient:
    """A room's socket as a `ClientSide`. The socket is closed by whoever accepted it."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        """`early` was read from the socket already."""
        self.socket = sock
        self.has_answered = False
        """Whether anything was written: then it is too late for a refusal in HTTP."""
        self._early = early
        self._moved_at = asyncio.get_running_loop().time()

    def __repr__(self) -> str:
        return f"SocketClient(early={len(self._early)})"

    def note_moved(self) -> None:
        """Bytes have moved, either way."""
        self._moved_at = asyncio.get_running_loop().time()

    def is_quiet(self) -> bool:
        """Whether nothing has moved for a moment: then little is lost by closing it."""
        return asyncio.get_running_loop().time() - self._moved_at > _QUIET_S

    async def read(self) -> bytes:
        """See `ClientSide`."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            data = await receive(self.socket)
        except OSError:
            raise ClientGoneError from None
        self.note_moved()
        return data

    def push_back(self, data: bytes) -> None:
        """See `ClientSide`."""
        self._early = data + self._early

    async def write(self, data: bytes) -> None:
        """See `ClientSide`."""
        self.has_answered = True
        self.note_moved()
        try:
            async with asyncio.timeout(_WRITE_S):
                await asyncio.get_running_loop().sock_sendall(self.socket, data)
        except OSError:  # TimeoutError is one
            raise ClientGoneError from None

    def has_more(self) -> bool:
        """Whether the client has sent more than was read."""
        try:
            return bool(self._early) or bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def linger(self) -> None:
        """End our side, and read and drop for a moment what the client still sends."""
        dropped = 0
        with contextlib.suppress(OSError, ClientGoneError):
            self.socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER_S):
                while dropped < _LINGER_BYTES and (data := await self.read()):
                    dropped += len(data)


def render_refusal(denial: Denial, *, is_head: bool = False) -> bytes:
    """A whole answer that says why: in its first line, and in its body."""
    text = _NOT_PLAIN.sub("?", denial.message)
    phrase = f"{HTTPStatus(denial.status).phrase}: {text}"[:_MAX_PHRASE_CHARS]
    body = f"{text}\n"
    head = (
        f"HTTP/1.1 {denial.status} {phrase}\r\nContent-Type: text/plain; charset=us-ascii\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return (head if is_head else head + body).encode("ascii")
