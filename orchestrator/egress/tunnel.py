"""A tunnel: the client's own TLS, from its ClientHello on, to the host that CONNECT named.

Nothing is connected to before the hello was read and names that host. What a tunnel carries can't
be read; that it is TLS with that host's name, and how much it is, can be known, and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from orchestrator.core.client_hello import (
    HelloGuard,
    HelloReader,
    HelloRefusedError,
    check_server_name,
)
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_rules import Target, is_covered
from orchestrator.egress.day_budget import DaySpentError
from orchestrator.egress.dialer import UnreachableError
from orchestrator.egress.idleness import Idleness
from orchestrator.egress.proxy_client import ClientGoneError, SocketClient
from orchestrator.egress.readiness import receive

if TYPE_CHECKING:
    from orchestrator.core.proxy_policy import IpAddress
    from orchestrator.egress.proxy import Flow, RoomProxy

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
# A client says hello at once.
_HELLO_S = 10.0
# Fatal alerts in a record of TLS 1.2, which clients show in words: access denied, internal error.
_ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"
_INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"

EARLY = Denial(
    status=400,
    reason=DenialReason.EARLY_DATA,
    message="Nothing may follow CONNECT before it was answered.",
)


class _GrantEndedError(Exception):
    """What allowed the tunnel's host holds no more, by its time or by somebody's word."""


async def serve_tunnel(proxy: RoomProxy, target: Target, client: SocketClient) -> Denial | None:
    """Serve a CONNECT whose target may be reached; a Denial where nothing was answered yet.

    Raises:
        ClientGoneError: the client left.
    """
    addresses = await proxy.dialer.find(target)
    if isinstance(addresses, Denial):
        return addresses
    if client.has_more():
        return EARLY
    await client.write(_ESTABLISHED)
    hello = await _read_hello(proxy, target, client)
    if hello is None:
        return None
    if is_covered(target, proxy.policy.intercept):
        # The seam of TLS interception: from here on the interceptor has the client.
        if proxy.interceptor is None:
            await _fail(proxy, client, target, DenialReason.OWN_FAILURE, _INTERNAL_ERROR)
        else:
            await proxy.interceptor.serve(proxy, target, hello, client)
        return None
    async with proxy.flow(target, "CONNECT") as flow:
        await _connect_and_relay(proxy, flow, client, addresses, hello)
    return None


async def _read_hello(proxy: RoomProxy, target: Target, client: SocketClient) -> bytes | None:
    """The bytes of a ClientHello that may pass; None: refused, and the client was told."""
    reader, hello = HelloReader(), bytearray()
    try:
        async with asyncio.timeout(_HELLO_S):
            is_whole = False
            while not is_whole:
                if not (data := await client.read()):
                    raise ClientGoneError
                hello += data
                is_whole = reader.feed(data)
        check_server_name(reader.server_names, target)
    except (HelloRefusedError, TimeoutError):
        await _fail(proxy, client, target, DenialReason.SERVER_NAME, _ACCESS_DENIED)
        return None
    return bytes(hello)


async def _fail(
    proxy: RoomProxy, client: SocketClient, target: Target, reason: DenialReason, alert: bytes
) -> None:
    """Refuse within the tunnel: in TLS's own words, because HTTP's are over."""
    proxy.note_denial(Denial(status=403, reason=reason, message=""), target)
    await client.write(alert)


async def _connect_and_relay(
    proxy: RoomProxy,
    flow: Flow,
    client: SocketClient,
    addresses: tuple[IpAddress, ...],
    hello: bytes,
) -> None:
    try:
        upstream = await proxy.dialer.connect(addresses, flow.target.port)
    except UnreachableError:
        flow.ended_by = "unreachable"
        await client.write(_INTERNAL_ERROR)
        return
    with contextlib.closing(upstream):
        try:
            await _Relay(proxy, flow, client, upstream).run(hello)
        except* (DaySpentError, HelloRefusedError, _GrantEndedError, OSError) as group:
            flow.ended_by = _why(group)


def _why(group: BaseExceptionGroup) -> str:
    first = group.exceptions[0]
    if isinstance(first, DaySpentError):
        return "day"
    if isinstance(first, HelloRefusedError):
        return "hello"
    if isinstance(first, _GrantEndedError):
        return "grant"
    return "idle" if isinstance(first, TimeoutError) else "broken"


class _Relay:
    """Both directions of a tunnel. Each holds one piece, so a slow reader holds its writer back."""

    def __init__(
        self, proxy: RoomProxy, flow: Flow, client: SocketClient, upstream: socket.socket
    ) -> None:
        self._proxy = proxy
        self._flow = flow
        self._client = client
        self._upstream = upstream
        self._idleness = Idleness(proxy)

    async def run(self, hello: bytes) -> None:
        """Until both sides have ended theirs, or one broke, or nothing moved for too long."""
        async with self._idleness:
            await self._send_up(hello)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump_up(), name="egress:up")
                group.create_task(self._pump_down(), name="egress:down")

    async def _pump_up(self) -> None:
        guard = HelloGuard(self._flow.target)
        while data := await receive(self._client.socket):
            if passed := guard.feed(data):
                await self._send_up(passed)
        _end(self._upstream)

    async def _pump_down(self) -> None:
        while data := await receive(self._upstream):
            await self._send(self._client.socket, data)
            self._flow.down += len(data)
        _end(self._client.socket)

    async def _send_up(self, data: bytes) -> None:
        await self._send(self._upstream, data)
        self._flow.up += len(data)

    async def _send(self, sock: socket.socket, data: bytes) -> None:
        await self._idleness.move(len(data))
        if not self._proxy.allows(self._flow.target):
            raise _GrantEndedError
        await asyncio.get_running_loop().sock_sendall(sock, data)
        self._client.note_moved()
        self._idleness.touch()


def _end(sock: socket.socket) -> None:
    """Half-close: what one side ended ends on the other, which may still speak."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
