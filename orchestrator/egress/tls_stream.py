"""TLS over a connected, non-blocking socket of which some bytes may have been read already.

asyncio's own TLS takes a socket from its first byte. The gateway has read the ClientHello by then,
to see whether it may be answered at all; here those bytes are the first that TLS is fed with.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

from orchestrator.egress.readiness import receive

# A record holds 16 KiB at most; several at once save calls.
_PLAIN_BYTES = 64 * 1024

Charge = Callable[[int], Awaitable[None]]
"""Books bytes that came, also those that carry no plaintext, and waits as long as that takes."""


async def _no_charge(_count: int) -> None:
    """Where nobody counts."""


class TlsStream:
    """One end of one connection. Invariant: what the TLS engine wants sent goes out in its order.

    One task may receive while another one sends. All methods raise OSError (ssl.SSLError is one)
    for a broken connection or a peer that breaks the protocol; the stream is of no use then.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        first: bytes = b"",
        charge: Charge = _no_charge,
    ) -> None:
        """The client's end with `server_hostname`, the server's without."""
        self._sock = sock
        self._charge = charge
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(first)
        self._sending = asyncio.Lock()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )

    def __repr__(self) -> str:
        return f"TlsStream({self._tls.version()}, server={self._tls.server_side})"

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on, if anything."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Agree on keys, and check the certificates as the context says."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    msg = "the peer left during the handshake"
                    raise ConnectionResetError(msg) from None
                continue
            except ssl.SSLError:
                # The peer is told by which alert; what went wrong is in the exception.
                with contextlib.suppress(OSError):
                    await self._flush()
                raise
            await self._flush()
            return

    async def receive(self) -> bytes:
        """The next plaintext; b"" at the end, which the peer has to say (a cut raises)."""
        while True:
            try:
                data = self._tls.read(_PLAIN_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    msg = "the stream was cut without an end"
                    raise ConnectionResetError(msg) from None
                continue
            except ssl.SSLZeroReturnError:
                return b""
            return data

    async def send(self, data: bytes) -> None:
        """Encrypt and send all of it."""
        left = memoryview(data)
        while left:
            # One record at a time.
            left = left[self._tls.write(left) :]
        await self._flush()

    async def end(self) -> None:
        """Say that nothing more comes; does not wait for the peer to say so. Never raises."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            await self._flush()

    async def _fill(self) -> int:
        data = await receive(self._sock)
        if data:
            # In this order: a cancelled wait loses nothing.
            self._incoming.write(data)
            await self._charge(len(data))
        return len(data)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._sending:
            while data := self._outgoing.read():
                await loop.sock_sendall(self._sock, data)
