"""One connection from a runner: reads a request strictly, answers it, waits for the next.

Order: head, decision by the head alone, body, decision by the body, then the API. A request's
body is held in full, because it is one JSON value and is checked as one; an answer is passed on
as it comes, piece by piece, and a runner that does not read holds the API's answer back.

A client that closes its side is gone: HTTP clients do not half-close, and the shim's forwarder
can't tell the two apart. The request to the API is then ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from orchestrator.core.egress_http import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    Denial,
    DenialReason,
    RequestHead,
    head_too_large,
    parse_head,
)
from orchestrator.core.egress_policy import UpstreamRequest, check_request, render_error
from orchestrator.core.proxy_http import is_for_proxy
from orchestrator.egress.proxy_client import SocketClient
from orchestrator.egress.readiness import receive, wait_for_end
from orchestrator.egress.upstream import (
    Answer,
    UpstreamFailedError,
    UpstreamSilentError,
)

if TYPE_CHECKING:
    from orchestrator.egress.door import Door

# A client's pool keeps idle connections for a minute or two; ours ends later than most.
_IDLE_S = 150.0
# The head comes in one write; a second would do.
_HEAD_S = 10.0
# 32 MiB at the room's own pace, 8 MB/s, with room to spare; and waiting for the budget.
_BODY_S = 60.0
# A runner that reads nothing for so long is stuck: the CLI's own limit for a request.
_WRITE_S = 600.0
# After a refusal the rest of the request is read and dropped, so that the client sees the answer
# before an error of its own write.
_LINGER_S = 2.0

_END_OF_CHUNKS = b"0\r\n\r\n"
_TOO_SLOW = Denial(
    status=408,
    reason=DenialReason.TOO_SLOW,
    message="The request did not arrive in time.",
    kind="invalid_request_error",
)
_OWN_FAILURE = Denial(
    status=403,
    reason=DenialReason.OWN_FAILURE,
    message="The egress gateway failed on this request, so nothing was sent.",
)


class _ClientGoneError(Exception):
    """The client closed or broke the connection; there is nobody to answer."""


class Connection:
    """Serves one accepted socket of a room. Not reusable.

    A request for the proxy (`egress.proxy`) takes the connection over, to its end.
    """

    def __init__(self, sock: socket.socket, door: Door) -> None:
        self._sock = sock
        self._door = door
        self._buffer = bytearray()
        self._has_answered = False
        self._proxied: SocketClient | None = None
        self.is_idle = True
        """Whether no request is being read or answered, so that nothing is lost by closing."""

    def is_quiet(self) -> bool:
        """Whether it is a proxied connection on which nothing moves just now."""
        return self._proxied is not None and self._proxied.is_quiet()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._sock.close()

    async def serve(self) -> None:
        """Serve requests one after another until one side ends it."""
        with contextlib.suppress(_ClientGoneError):
            while await self._serve_request():
                pass

    async def _serve_request(self) -> bool:
        """One request; whether another may follow."""
        self.is_idle, self._has_answered = not self._buffer, False
        raw = await self._read_head()
        if raw is None:
            return False
        if not isinstance(raw, Denial) and is_for_proxy(raw):
            self._door.hand_over(self)
            self._proxied = SocketClient(self._sock, self._take(len(self._buffer)))
            await self._door.proxy.serve(raw, self._proxied)
            return False
        try:
            await self._door.wait_for(self._door.requests, 1)
            head = raw if isinstance(raw, Denial) else parse_head(raw)
            if isinstance(head, Denial):
                return await self._refuse(head, is_last=True)
            return await self._serve_head(head)
        except (_ClientGoneError, asyncio.CancelledError):
            raise
        except Exception as e:  # noqa: BLE001 (whatever failed: nothing gets out)
            self._door.note_failure(e)
            return await self._refuse(_OWN_FAILURE, is_last=True)

    async def _serve_head(self, head: RequestHead) -> bool:
        request = check_request(head, placeholder=self._door.room.placeholder)
        if isinstance(request, Denial):
            return await self._refuse(request, is_last=True, is_head=head.method == "HEAD")
        async with self._body(request.content_length) as raw:
            if isinstance(raw, Denial):
                return await self._refuse(raw, is_last=True)
            body = await self._rewrite(raw, request)
            del raw
            if isinstance(body, Denial):
                return await self._refuse(body, is_last=not self._keeps(head))
            return await self._forward(head, request, body)

    # Reading

    async def _read_head(self) -> bytes | Denial | None:
        """The head's bytes; None where the client said nothing more."""
        if not self._buffer:
            try:
                async with asyncio.timeout(_IDLE_S):
                    if not await self._fill():
                        return None
            except TimeoutError:
                return None
        self.is_idle = False
        try:
            async with asyncio.timeout(_HEAD_S):
                return await self._read_rest_of_head()
        except TimeoutError:
            return _TOO_SLOW

    async def _read_rest_of_head(self) -> bytes | Denial | None:
        searched = 0
        while (end := self._buffer.find(END_OF_HEAD, searched)) == -1:
            searched = max(0, len(self._buffer) - len(END_OF_HEAD) + 1)
            if len(self._buffer) > MAX_HEAD_BYTES:
                return head_too_large()
            if not await self._fill():
                return None
        return self._take(end + len(END_OF_HEAD))

    @contextlib.asynccontextmanager
    async def _body(self, size: int) -> AsyncIterator[bytes | Denial]:
        """The body, counted against the room's budget while the context lasts."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_BODY_S):
                    await stack.enter_async_context(self._door.body_budget(size))
                    await self._read_body(size)
            except TimeoutError:
                yield _TOO_SLOW
                return
            yield self._take(size)

    async def _read_body(self, size: int) -> None:
        while len(self._buffer) < size:
            if not (count := await self._fill()):
                raise _ClientGoneError
            await self._door.wait_for(self._door.bytes, count)

    async def _fill(self) -> int:
        """Read more into the buffer; how many bytes, 0 at the end."""
        try:
            data = await receive(self._sock)
        except OSError:
            return 0
        self._buffer += data
        return len(data)

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data

    # Deciding and passing on

    async def _rewrite(self, raw: bytes, request: UpstreamRequest) -> bytes | Denial:
        door = self._door
        async with door.checking_turn:
            checked = await door.inspector.rewrite(
                raw, route=request.route, user_tag=door.room.user_tag
            )
            await door.wait_for(door.checking, checked.seconds)
        return checked.body

    async def _forward(self, head: RequestHead, request: UpstreamRequest, body: bytes) -> bool:
        door = self._door
        start, before, status = time.monotonic(), door.down, 0
        door.allowed += 1
        door.up += len(body)
        try:
            async with (
                self._ended_with_client(),
                door.upstream.post(door.session, request, body) as answer,
            ):
                status = answer.status
                await self._pass_on(head, answer)
            await self._write(_END_OF_CHUNKS)
        except UpstreamFailedError as e:
            status = await self._fail(e)
            return False
        except _ClientGoneError:
            door.cut += 1
            raise
        finally:
            door.log.info(
                "a request left the room",
                action="egress_allowed",
                route=request.route.value,
                status=status,
                bytes_up=len(body),
                bytes_down=door.down - before,
                seconds=round(time.monotonic() - start, 3),
            )
        return self._keeps(head)

    def _keeps(self, head: RequestHead) -> bool:
        return head.keep_alive and not self._door.is_stopping

    @contextlib.asynccontextmanager
    async def _ended_with_client(self) -> AsyncIterator[None]:
        """Cancels what it wraps when the client leaves; _ClientGoneError then."""
        failure: Exception | None = None
        is_gone = False
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._raise_when_gone(), name="egress:watch")
                try:
                    yield
                except Exception as e:  # noqa: BLE001 (raised below: a group would wrap it)
                    failure = e
                watch.cancel()
        except* _ClientGoneError:
            is_gone = True
        if failure is not None:
            raise failure
        if is_gone:
            raise _ClientGoneError

    async def _raise_when_gone(self) -> None:
        await wait_for_end(self._sock)
        raise _ClientGoneError

    async def _pass_on(self, head: RequestHead, answer: Answer) -> None:
        """Everything but the end mark, which is written when nobody watches for early bytes."""
        last = [] if self._keeps(head) else [("connection", "close")]
        headers = [*answer.headers, ("transfer-encoding", "chunked"), *last]
        await self._write(_render_head(answer.status, headers))
        async for data in answer.chunks:
            await self._write(b"%x\r\n%b\r\n" % (len(data), data))
            self._door.down += len(data)

    async def _fail(self, error: UpstreamFailedError) -> int:
        """Answer for an API that did not; a broken answer stays broken for the client."""
        self._door.log.warning(
            "the Messages API failed",
            action="egress_upstream",
            error=type(error).__name__,
            why=str(error),
        )
        if self._has_answered:
            self._door.cut += 1
            return 0
        status = 504 if isinstance(error, UpstreamSilentError) else 502
        await self._answer(status, "api_error", str(error))
        return status

    # Answering

    async def _refuse(self, denial: Denial, *, is_last: bool, is_head: bool = False) -> bool:
        """Say why, where nothing was said yet; whether the connection may go on."""
        self._door.note_denial(denial)
        if self._has_answered:
            return False
        await self._answer(
            denial.status,
            denial.kind,
            denial.message,
            # The CLI's client repeats a request unless it is told not to.
            headers=[("x-should-retry", "false")],
            is_last=is_last,
            is_head=is_head,
        )
        return not is_last

    async def _answer(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        is_last: bool = True,
        is_head: bool = False,
    ) -> None:
        body = render_error(kind, message)
        last = [("connection", "close")] if is_last else []
        length = ("content-length", str(len(body)))
        own = [("content-type", "application/json"), length, *headers, *last]
        await self._write(_render_head(status, own) + (b"" if is_head else body))
        if is_last:
            await self._linger()

    async def _write(self, data: bytes) -> None:
        self._has_answered = True
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_WRITE_S):
                await loop.sock_sendall(self._sock, data)
        except OSError:  # TimeoutError is one
            raise _ClientGoneError from None

    async def _linger(self) -> None:
        self._buffer.clear()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER_S):
                while data := await receive(self._sock):
                    await self._door.wait_for(self._door.bytes, len(data))


def _render_head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{n}: {v}" for n, v in headers), "", ""]
    return "\r\n".join(lines).encode("ascii")


def _phrase(status: int) -> str:
    """The status in words; the API has codes of its own, such as 529."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
