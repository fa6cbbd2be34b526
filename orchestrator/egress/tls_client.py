"""The server's side of TLS inside a tunnel, where the ClientHello has been read already.

asyncio's own TLS takes a socket from its first byte. The proxy has read the ClientHello by then, to
see whether it may be answered at all; here those bytes are the first that TLS is fed with.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable

from orchestrator.egress.proxy_client import ClientGoneError, ClientSide

# A record holds 16 KiB at most; several at once save calls.
_PLAIN_BYTES = 64 * 1024
# Raw bytes that gave no plaintext. A record of 16 KiB has 22 or so; updates of keys are nothing
# else, and whoever sends them without end pays for them.
_FREE_OVERHEAD_BYTES = 32 * 1024

Charge = Callable[[int], Awaitable[None]]
"""Books bytes, and waits as long as the room's pace says."""


class TlsClient:
    """A `ClientSide` inside the client's TLS. Invariant: records go out in the order of writing.

    One task may read while another one writes. A broken or cut stream raises ClientGoneError, and
    is of no use then, as after a cancelled write.
    """

    def __init__(
        self, client: ClientSide, context: ssl.SSLContext, *, hello: bytes, charge: Charge
    ) -> None:
        """`hello` are the client's first bytes, which were read from it."""
        self._client = client
        self._charge = charge
        self._early = b""
        self._overhead = 0
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(hello)
        self._writing = asyncio.Lock()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def __repr__(self) -> str:
        return f"TlsClient({self._tls.version()}, overhead={self._overhead})"

    async def handshake(self) -> None:
        """Agree on keys. Raises ClientGoneError where that fails; the client has been told why."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                continue
            except ssl.SSLError:
                await self._flush()
                raise ClientGoneError from None
            await self._flush()
            return

    async def read(self) -> bytes:
        """See `ClientSide`; the end is one that the client has said, a cut raises."""
        if self._early:
            early, self._early = self._early, b""
            return early
        while True:
            # A record may hold one byte, and thousands of them be here: others have their turn.
            await asyncio.sleep(0)
            try:
                data = self._tls.read(_PLAIN_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                continue
            except ssl.SSLError:
                raise ClientGoneError from None
            self._overhead = max(0, self._overhead - len(data))
            return data

    def push_back(self, data: bytes) -> None:
        """See `ClientSide`."""
        self._early = data + self._early

    async def write(self, data: bytes) -> None:
        """See `ClientSide`."""
        left = memoryview(data)
        try:
            while left:
                # One record at a time.
                left = left[self._tls.write(left) :]
        except ssl.SSLError:
            raise ClientGoneError from None
        await self._flush()

    async def end(self) -> None:
        """Say that nothing more comes; does not wait for the client to say so."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        with contextlib.suppress(ClientGoneError):
            await self._flush()

    async def _fill(self) -> None:
        # All that came was decrypted before this is called: what is left over carried nothing.
        if self._overhead > _FREE_OVERHEAD_BYTES:
            owed, self._overhead = self._overhead, 0
            await self._charge(owed)
        data = await self._client.read()
        if not data:
            raise ClientGoneError
        self._incoming.write(data)
        self._overhead += len(data)

    async def _flush(self) -> None:
        async with self._writing:
            while data := self._outgoing.read():
                await self._client.write(data)
