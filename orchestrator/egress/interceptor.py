"""TLS interception: a tunnel whose TLS ends here, and the requests inside of it, one by one.

```
 client ═ TLS of the installation's CA ═ head? host? ─ secrets in ─ exchange ═ verified TLS ═ host
```

Only for hosts that the room's policy intercepts, and only after the tunnel's own checks. What the
client says inside goes to the host that was checked, or nowhere: a request that names another host
is refused, on every request of the connection. Nothing but HTTP/1.1 is read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orchestrator.core.egress_http import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    Denial,
    DenialReason,
    head_too_large,
)
from orchestrator.core.egress_rules import Target
from orchestrator.core.proxy_http import parse_inner_head
from orchestrator.egress.exchange import exchange
from orchestrator.egress.proxy_client import ClientGoneError, ClientSide, render_refusal
from orchestrator.egress.tls_client import TlsClient

if TYPE_CHECKING:
    from orchestrator.egress.authority import Authority
    from orchestrator.egress.proxy import RoomProxy

_HANDSHAKE_S = 10.0
# A head comes in one write; a second would do.
_HEAD_S = 10.0

_TOO_SLOW = Denial(
    status=408,
    reason=DenialReason.TOO_SLOW,
    message="The request did not arrive in time.",
    kind="invalid_request_error",
)


class TlsInterceptor:
    """Serves intercepted tunnels of all rooms; what it knows of a room is in its proxy."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def __repr__(self) -> str:
        return f"TlsInterceptor({self._authority})"

    @property
    def certificate_pem(self) -> bytes:
        """See `proxy.Interceptor`."""
        return self._authority.certificate_pem

    async def serve(
        self, proxy: RoomProxy, target: Target, hello: bytes, client: ClientSide
    ) -> None:
        """See `proxy.Interceptor`."""
        context = self._authority.context_for(target.host)
        inner = TlsClient(client, context, hello=hello, charge=proxy.move)
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await inner.handshake()
        except TimeoutError:
            raise ClientGoneError from None
        while await _serve_request(proxy, target, inner):
            pass
        await inner.end()


async def _serve_request(proxy: RoomProxy, target: Target, client: TlsClient) -> bool:
    """One request; whether another one may follow."""
    raw = await _read_head(client, idle_s=proxy.policy.idle_s)
    if raw is None:
        return False
    await proxy.pace_request()
    request = raw if isinstance(raw, Denial) else parse_inner_head(raw, target)
    if isinstance(request, Denial):
        return await _refuse(proxy, target, client, request)
    try:
        done = await exchange(proxy, request, client, may_keep=True)
    except ClientGoneError:
        raise
    except Exception as e:  # noqa: BLE001 (whatever failed: nothing more gets out)
        proxy.note_failure(e)
        # Whether the answer has begun is not known: a cut is never taken for one.
        raise ClientGoneError from None
    if isinstance(done, Denial):
        return await _refuse(proxy, target, client, done, is_head=request.method == "HEAD")
    return done


async def _refuse(
    proxy: RoomProxy, target: Target, client: TlsClient, denial: Denial, *, is_head: bool = False
) -> bool:
    proxy.note_denial(denial, target)
    await client.write(render_refusal(denial, is_head=is_head))
    return False


async def _read_head(client: TlsClient, *, idle_s: float) -> bytes | Denial | None:
    """The head's bytes; None where the client said nothing more."""
    try:
        async with asyncio.timeout(idle_s):
            buffer = bytearray(await client.read())
    except TimeoutError:
        return None
    if not buffer:
        return None
    try:
        async with asyncio.timeout(_HEAD_S):
            return await _read_rest(client, buffer)
    except TimeoutError:
        return _TOO_SLOW


async def _read_rest(client: TlsClient, buffer: bytearray) -> bytes | Denial:
    searched = 0
    while (end := buffer.find(END_OF_HEAD, searched)) == -1:
        searched = max(0, len(buffer) - len(END_OF_HEAD) + 1)
        if len(buffer) > MAX_HEAD_BYTES:
            return head_too_large()
        if not (data := await client.read()):
            raise ClientGoneError
        buffer += data
    size = end + len(END_OF_HEAD)
    client.push_back(bytes(buffer[size:]))
    return bytes(buffer[:size])
