"""Raw HTTP to the Docker Engine for what its client can't give to asyncio: attach, events, build.

Owns the address of the engine and one connection for each exchange. Imports nothing of docker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from orchestrator.errors import EngineRequestError, EngineUnavailableError, RunnerGoneError
from orchestrator.model import JsonObject

CALL_S: Final = 60.0
"""Seconds that one call may take; a stop may take its grace besides."""
_DEFAULT_SOCKET: Final = "/var/run/docker.sock"
_HTTP_ERROR: Final = 400
# One JSON line of a build, a pull or an event; an attach buffers twice this at most.
_LINE_BYTES: Final = 1 << 20
_ATTACH_BYTES: Final = 64 << 10
# How much of a refusal's reason is read.
_REASON_BYTES: Final = 4096
_TAR: Final = "application/x-tar"
_JSON: Final = "application/json"
# How long a stream that is being closed may take to send what it still holds.
_CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAddress:
    """Where the engine listens: a unix socket, or a TCP port without TLS."""

    socket: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix://{self.socket}" if self.socket else f"tcp://{self.host}:{self.port}"


def parse_address(docker_host: str | None) -> EngineAddress:
    """The address in DOCKER_HOST's form; None and "" mean the default socket.

    Raises:
        EngineUnavailableError: for what can't serve: TLS and ssh lead to other machines, and the
            rooms' directories are on this one.
    """
    if not docker_host:
        return EngineAddress(socket=_DEFAULT_SOCKET)
    url = urlsplit(docker_host)
    if url.scheme == "unix" and url.path:
        return EngineAddress(socket=url.path)
    if url.scheme in {"tcp", "http"} and url.hostname and url.port:
        return EngineAddress(host=url.hostname, port=url.port)
    msg = (
        f"DOCKER_HOST is {docker_host!r}; expected unix:///path or tcp://host:port."
        " The engine must be on this machine, because the rooms' directories are"
    )
    raise EngineUnavailableError(msg)


def explain_unreachable(address: EngineAddress, error: BaseException) -> EngineUnavailableError:
    """What to tell somebody whose engine could not be reached."""
    if "Permission denied" in str(error):
        return EngineUnavailableError(
            f"this user may not use the Docker Engine at {address}."
            " Run as root, or as a member of the group docker"
        )
    return EngineUnavailableError(f"{EngineUnavailableError.__doc__} (tried {address})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An answered request whose body is still on the connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def json_lines(self) -> AsyncIterator[JsonObject]:
        """Each line of a chunked body as an object, until the engine ends it.

        Raises:
            EngineRequestError: for a line that is not a JSON object, or longer than 1 MiB, and
                when the connection breaks before the end.
        """
        rest = b""
        try:
            while chunk := await self._next_chunk():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(bytes.strip, lines):
                    yield _json_object(line)
                _check_length(len(rest))
        except (ValueError, OSError, asyncio.IncompleteReadError) as e:
            msg = f"the Docker Engine's answer broke off: {type(e).__name__}"
            raise EngineRequestError(msg) from e

    async def _next_chunk(self) -> bytes:
        """The next chunk of HTTP/1.1's chunked coding; b"" is the last one's."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        _check_length(size)
        return (await self.reader.readexactly(size + 2))[:size]


def _check_length(size: int) -> None:
    if size > _LINE_BYTES:
        msg = "a line or a chunk is too long"
        raise ValueError(msg)


def _json_object(line: bytes) -> JsonObject:
    value = json.loads(line)
    if not isinstance(value, dict):
        msg = "not an object"
        raise ValueError(msg)  # noqa: TRY004 - one type for everything that is wrong with the line
    return value


async def check(address: EngineAddress) -> None:
    """Connect once and hang up.

    Raises:
        EngineUnavailableError: nobody listens there; says what to do.
    """
    async with open_connection(address, _LINE_BYTES):
        pass


@asynccontextmanager
async def exchange(
    address: EngineAddress,
    method: str,
    path: str,
    query: Mapping[str, str],
    *,
    body: bytes | AsyncIterator[bytes] = b"",
    body_bytes: int = 0,
) -> AsyncIterator[Exchange]:
    """A request whose answer is a stream of JSON lines; the caller bounds how long all of it takes.

    `body_bytes` is the length of a body that comes in pieces. Leaving the context closes the
    connection, which ends a build or a pull in the engine.

    Raises:
        EngineUnavailableError: no connection.
        EngineRequestError: a refusal, with the engine's reason.
    """
    length = len(body) if isinstance(body, bytes) else body_bytes
    # Kept alive: the engine then reads all of the body before it ends its answer. When it closes a
    # connection with some of it unread (an archive's padding), the kernel throws the answer away.
    head = _head(method, path, query, f"Content-Length: {length}")
    async with open_connection(address, _LINE_BYTES) as (reader, writer):
        with _translated(address):
            await _send(writer, head, body)
            await _read_head(reader, of_a_runner=False)
        yield Exchange(reader=reader, writer=writer)


@asynccontextmanager
async def upgrade(
    address: EngineAddress, path: str, query: Mapping[str, str], *, body: JsonObject | None = None
) -> AsyncIterator[Exchange]:
    """A POST (with a JSON body, if any) that turns its connection into a duplex byte stream.

    Raises:
        RunnerGoneError: the engine answered 404 or 409.
        EngineUnavailableError: no connection.
        EngineRequestError: another refusal, or no answer within CALL_S.
    """
    sent = b"" if body is None else json.dumps(body).encode()
    headers = ("Connection: Upgrade", "Upgrade: tcp", f"Content-Length: {len(sent)}")
    head = _head("POST", path, query, *headers, kind=_TAR if body is None else _JSON)
    async with open_connection(address, _ATTACH_BYTES) as (reader, writer):
        with _translated(address):
            async with asyncio.timeout(CALL_S):
                await _send(writer, head, sent)
                await _read_head(reader, of_a_runner=True)
        yield Exchange(reader=reader, writer=writer)


def _head(
    method: str, path: str, query: Mapping[str, str], *headers: str, kind: str = _TAR
) -> bytes:
    lines = (
        f"{method} {path}?{urlencode(query)} HTTP/1.1",
        "Host: docker",
        f"Content-Type: {kind}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


@asynccontextmanager
async def open_connection(
    address: EngineAddress, limit: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the engine, closed at exit; `limit` bytes may be read up to a separator.

    Raises:
        EngineUnavailableError: nobody listens there.
        EngineRequestError: it does not answer within CALL_S.
    """
    with _translated(address):
        async with asyncio.timeout(CALL_S):
            reader, writer = await _connect(address, limit)
    try:
        yield reader, writer
    finally:
        await _close(writer)


async def _connect(
    address: EngineAddress, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.socket:
        return await asyncio.open_unix_connection(address.socket, limit=limit)
    return await asyncio.open_connection(address.host, address.port, limit=limit)


@contextmanager
def _translated(address: EngineAddress) -> Iterator[None]:
    try:
        yield
    except TimeoutError as e:
        msg = f"the Docker Engine at {address} did not answer in time"
        raise EngineRequestError(msg) from e
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as e:
        msg = f"what answers at {address} does not speak as a Docker Engine does"
        raise EngineRequestError(msg) from e
    except OSError as e:
        raise explain_unreachable(address, e) from e


async def _send(
    writer: asyncio.StreamWriter, head: bytes, body: bytes | AsyncIterator[bytes]
) -> None:
    writer.write(head)
    try:
        if isinstance(body, bytes):
            writer.write(body)
            await writer.drain()
            return
        async for chunk in body:
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        # The engine answers some refusals before it has read everything: its answer says why.
        return


async def _read_head(reader: asyncio.StreamReader, *, of_a_runner: bool) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    _, status, *_ = head.split(b" ", 2)
    # Elsewhere a 404 is about something else: an image that no registry has.
    if of_a_runner and int(status) in {404, 409}:
        raise RunnerGoneError
    if int(status) >= _HTTP_ERROR:
        async with asyncio.timeout(CALL_S):
            body = await reader.read(_REASON_BYTES)
        msg = f"the Docker Engine refused: {_reason(body) or int(status)}"
        raise EngineRequestError(msg)


def _reason(body: bytes) -> str:
    """The engine writes `{"message": …}`; what stands between may write anything."""
    try:
        return str(_json_object(body)["message"])
    except (ValueError, KeyError):
        return body.decode(errors="replace").strip()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    except (TimeoutError, OSError):
        writer.transport.abort()
