"""One plain HTTP request to an allowed target: sent anew from what was parsed, and its answer.

```
 client ─ body ─► move ─► h11 ─► target           one connection for each request,
 client ◄─ head, body ◄─ move ◄─ h11 ◄─ target    in clear, or with TLS for https
```

The same for a request in clear and for one that was read inside an opened tunnel. Redirects are
passed on: the client follows them, and asks for the next host here. Where the room has a secret for
the target, it is put into the request's headers, and taken out of the whole answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import h11

from orchestrator.core.chunked import ChunkedBody
from orchestrator.core.egress_http import MAX_HEAD_BYTES, Denial, DenialReason
from orchestrator.core.egress_rules import Scheme, Target
from orchestrator.core.proxy_http import ProxyRequest
from orchestrator.core.room_secret import hide_in_headers, is_searchable
from orchestrator.egress.day_budget import DAY_SPENT, DaySpentError
from orchestrator.egress.dialer import UnreachableError
from orchestrator.egress.idleness import Idleness
from orchestrator.egress.proxy_client import ClientGoneError, ClientSide
from orchestrator.egress.readiness import CHUNK_BYTES
from orchestrator.egress.secret_filter import SecretFilters

if TYPE_CHECKING:
    from orchestrator.core.proxy_policy import IpAddress
    from orchestrator.egress.proxy import Flow, RoomProxy

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END_OF_CHUNKS = b"0\r\n\r\n"
# A target's head; what ours may have, twice: sites set many cookies.
_MAX_ANSWER_HEAD_BYTES = 2 * MAX_HEAD_BYTES
_HANDSHAKE_S = 15.0
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"alternate-protocol",
        # Would send the client to another port, past the proxy's rules; it could not follow.
        b"alt-svc",
    }
)
_FOR_PROXY = b"proxy-"
_WITHOUT_BODY = frozenset({204, 304})


class _TargetFailedError(Exception):
    """The target could not be spoken to, or broke off."""


async def exchange(
    proxy: RoomProxy, request: ProxyRequest, client: ClientSide, *, may_keep: bool = False
) -> Denial | bool:
    """Pass a request on, and its answer back; a Denial where nothing was answered yet.

    The target is checked once more, resolved, and connected to at a checked address. With
    `may_keep` this may return True: the answer was given, and another request may follow.

    Raises:
        ClientGoneError: the client left, or the answer broke off, so that it must be cut.
    """
    denial = proxy.check_target(request.target)
    if denial is not None:
        return denial
    addresses = await proxy.dialer.find(request.target)
    if isinstance(addresses, Denial):
        return addresses
    async with proxy.flow(request.target, request.method) as flow:
        return await _Exchange(proxy, flow, request, client, may_keep=may_keep).run(addresses)


class _Exchange:
    """Invariant: a request is sent once; after the first byte of an answer no other is made."""

    def __init__(
        self,
        proxy: RoomProxy,
        flow: Flow,
        request: ProxyRequest,
        client: ClientSide,
        *,
        may_keep: bool,
    ) -> None:
        self._proxy = proxy
        self._flow = flow
        self._request = request
        self._sealed = proxy.seal(request.target, request.headers)
        self._filters = SecretFilters(self._sealed.hidden)
        flow.put_in = self._sealed.used
        self._client = client
        self._keeps = may_keep and request.keep_alive
        self._has_answered = self._is_body_sent = self._is_chunked = False
        self._gone: ClientGoneError | DaySpentError | None = None
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER_HEAD_BYTES)
        self._idleness = Idleness(proxy)

    async def run(self, addresses: tuple[IpAddress, ...]) -> Denial | bool:
        target = self._request.target
        try:
            async with _open(self._proxy, target, addresses) as (reader, writer), self._idleness:
                await self._converse(reader, writer)
        except _TargetFailedError as e:
            return self._fail(_unreachable(502, f"{target} {e}."))
        except TimeoutError:
            return self._fail(_unreachable(504, f"{target} did not answer in time."))
        except DaySpentError:
            return self._fail(DAY_SPENT)
        return self._keeps

    def _fail(self, denial: Denial) -> Denial:
        self._flow.ended_by = "day" if denial is DAY_SPENT else "target"
        if self._has_answered:
            # Only a cut tells the client that its answer is not whole.
            raise ClientGoneError
        return denial

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(writer), name="egress:body")
            failure: Exception | None = None
            try:
                await self._answer(reader)
            except (_TargetFailedError, ClientGoneError, DaySpentError) as e:
                failure = e  # raised below: a group would wrap it
            sending.cancel()
        if self._gone is not None:
            raise self._gone
        if failure is not None:
            raise failure

    # The request

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        """Head and body. What fails here ends the connection, and so the waiting for an answer."""
        try:
            await self._write(writer, self._parser.send(self._head()))
            async for data in self._body():
                await self._write(writer, self._parser.send(h11.Data(data=data)))
            await self._write(writer, self._parser.send(h11.EndOfMessage()))
            self._is_body_sent = True
        except (ClientGoneError, DaySpentError) as e:
            self._gone = e
            writer.transport.abort()
        except OSError:
            # The target may have answered before it stopped reading.
            return

    def _head(self) -> h11.Request:
        request = self._request
        headers = dict(self._sealed.headers)
        if request.length is None:
            headers["transfer-encoding"] = "chunked"
        headers["connection"] = "close"
        return h11.Request(
            method=request.method, target=request.path, headers=list(headers.items())
        )

    async def _body(self) -> AsyncIterator[bytes]:
        if self._request.expects_continue:
            await self._client.write(_CONTINUE)
        if self._request.length is None:
            async for data in self._chunks():
                yield data
            return
        left = self._request.length
        while left:
            data = await self._read()
            if len(data) > left:
                self._client.push_back(data[left:])
                data = data[:left]
            left -= len(data)
            yield data

    async def _chunks(self) -> AsyncIterator[bytes]:
        body = ChunkedBody()
        while not body.is_done:
            try:
                data = body.feed(await self._read())
            except ValueError:
                raise ClientGoneError from None
            if data:
                yield data
        if body.rest:
            self._client.push_back(body.rest)

    async def _read(self) -> bytes:
        if not (data := await self._client.read()):
            raise ClientGoneError
        return data

    async def _write(self, writer: asyncio.StreamWriter, data: bytes | None) -> None:
        if not data:
            return
        await self._move(len(data))
        writer.write(data)
        await writer.drain()
        self._flow.up += len(data)
        self._idleness.touch()

    # The answer

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                await self._receive(reader)
            elif isinstance(event, h11.Response):
                await self._pass_head(event)
            elif isinstance(event, h11.Data):
                await self._pass_data(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._pass_end()
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise _TargetFailedError("closed the connection without an answer")

    def _next_event(self) -> object:
        try:
            return self._parser.next_event()
        except h11.RemoteProtocolError:
            raise _TargetFailedError("gave an answer that can't be read") from None

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            data = await reader.read(CHUNK_BYTES)
        except OSError:  # a broken TLS stream is one, too
            raise _TargetFailedError("broke off") from None
        await self._move(len(data))
        self._flow.down += len(data)
        self._parser.receive_data(data)

    async def _pass_head(self, answer: h11.Response) -> None:
        headers, self._is_chunked = _filter(answer, is_head=self._request.method == "HEAD")
        headers, reason = self._search_head(headers, bytes(answer.reason))
        # A body that is still under way would be read as the next request.
        self._keeps = self._keeps and self._is_body_sent
        if self._is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if not self._keeps:
            headers.append((b"connection", b"close"))
        lines = [b"HTTP/1.1 %d %b" % (answer.status_code, reason)]
        lines += [name + b": " + value for name, value in headers]
        self._has_answered = True
        await self._pass(b"\r\n".join([*lines, b"", b""]))

    def _search_head(
        self, headers: list[tuple[bytes, bytes]], reason: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Both without a secret. An answer that can't be searched is none."""
        hidden = self._sealed.hidden
        if not hidden:
            return headers, reason
        text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        if not is_searchable(text):
            raise _TargetFailedError(
                "gave an answer that is compressed or in parts, so that it can't be searched for "
                "the room's secrets"
            )
        text = hide_in_headers([*text, ("reason", reason.decode("latin-1"))], hidden)
        *kept, last = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in text]
        return kept, last[1]

    async def _pass_data(self, data: bytes) -> None:
        await self._pass_piece(self._filters.feed(data))

    async def _pass_piece(self, data: bytes) -> None:
        if data:
            await self._pass(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def _pass_end(self) -> None:
        await self._pass_piece(self._filters.end())
        if self._is_chunked:
            await self._pass(_END_OF_CHUNKS)

    async def _pass(self, data: bytes) -> None:
        await self._client.write(data)
        self._idleness.touch()

    async def _move(self, size: int) -> None:
        await self._idleness.move(size)
        if not self._proxy.allows(self._request.target):
            # What allowed it has ended: it is cut where it is.
            raise ClientGoneError


@contextlib.asynccontextmanager
async def _open(
    proxy: RoomProxy, target: Target, addresses: tuple[IpAddress, ...]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the target; its certificate is checked where it is https."""
    try:
        sock = await proxy.dialer.connect(addresses, target.port)
    except UnreachableError:
        raise _TargetFailedError("could not be connected to") from None
    is_tls = target.scheme is Scheme.HTTPS
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=proxy.tls if is_tls else None,
                server_hostname=target.host if is_tls else None,
            )
    except ssl.SSLCertVerificationError as e:
        sock.close()
        raise _TargetFailedError(
            f"has a certificate that can't be trusted: {e.verify_message}"
        ) from None
    except OSError:
        sock.close()
        raise _TargetFailedError("broke off the TLS handshake") from None
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _unreachable(status: int, message: str) -> Denial:
    return Denial(status=status, reason=DenialReason.UNREACHABLE, message=message)


def _filter(answer: h11.Response, *, is_head: bool) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The headers that are the client's business, and whether its body is to come in chunks."""
    headers = [(bytes(name), bytes(value)) for name, value in answer.headers]
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    is_coded = any(name == b"transfer-encoding" for name, _ in headers)
    kept = [
        (name, value)
        for name, value in headers
        if name not in _HOP_BY_HOP
        and name not in named
        and not name.startswith(_FOR_PROXY)
        and not (name == b"content-length" and is_coded)
    ]
    has_body = not is_head and answer.status_code not in _WITHOUT_BODY
    has_length = any(name == b"content-length" for name, _ in kept)
    return kept, has_body and not has_length
