"""What the tests of the egress gateway share: a raw client, and an upstream that tells all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr

from orchestrator.core.api_policy import ApiPolicy
from orchestrator.egress.gateway import ApiKey, EgressGateway, Ledger, RoomDoor, open_egress
from orchestrator.egress.listener import SOCKET_NAME
from orchestrator.model import JsonObject, RoomSlug

REAL_KEY = "sk-ant-api03-the-real-one-8f7d6c5b4a-do-not-show"
PLACEHOLDER = "sk-ant-api03-placeholder-of-room-a"
TAG = "tag-of-room-a"
ANSWER_S = 30.0
"""How long a test waits for an answer at most."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as the upstream got it."""

    method: str
    path: str
    headers: dict[str, str]
    raw_headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> JsonObject:
        """The body, parsed."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass(slots=True)
class Upstream:
    """A real HTTP server on loopback; `handler` decides the answers."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    handler: Handler | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Record the request, then answer."""
        raw = [(k.decode(), v.decode()) for k, v in request.raw_headers]
        self.seen.append(
            Seen(
                method=request.method,
                path=request.path_qs,
                headers={k.lower(): v for k, v in raw},
                raw_headers=raw,
                body=await request.read(),
            )
        )
        if self.handler is not None:
            return await self.handler(request)
        return web.json_response({"type": "message", "content": []}, headers={"request-id": "r1"})


@contextlib.asynccontextmanager
async def open_upstream() -> AsyncIterator[Upstream]:
    """An upstream on a free port."""
    upstream = Upstream()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield upstream
    finally:
        await runner.cleanup()


def room_door(
    directory: Path,
    *,
    slug: str = "room-a",
    uid: int | None = None,
    api: ApiPolicy | None = None,
    budget_micro_usd: int | None = None,
) -> RoomDoor:
    """A door for the uid of the tests, made in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    return RoomDoor(
        slug=RoomSlug(slug),
        directory=directory,
        uid=os.getuid() if uid is None else uid,
        gid=os.getgid(),
        placeholder=PLACEHOLDER,
        user_tag=TAG,
        api=api or ApiPolicy(),
        budget_micro_usd=budget_micro_usd,
    )


@contextlib.asynccontextmanager
async def open_room(
    directory: Path,
    upstream: str,
    *,
    api: ApiPolicy | None = None,
    budget_micro_usd: int | None = None,
    ledger: Ledger | None = None,
) -> AsyncIterator[tuple[EgressGateway, RoomDoor]]:
    """A gateway with one open door."""
    credential = ApiKey(SecretStr(REAL_KEY))
    async with open_egress(upstream=upstream, credential=credential, ledger=ledger) as gateway:
        door = room_door(directory, api=api, budget_micro_usd=budget_micro_usd)
        await gateway.open_door(door)
        yield gateway, door


@contextlib.asynccontextmanager
async def connect(
    directory: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection as the shim makes one."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, f"/proc/self/fd/{fd}/{SOCKET_NAME}")
    except OSError:
        sock.close()
        raise
    finally:
        os.close(fd)
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=1 << 20)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send_raw(directory: Path, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, and read until the gateway closes."""
    async with connect(directory) as (reader, writer), asyncio.timeout(ANSWER_S):
        with contextlib.suppress(OSError):
            writer.write(data)
            await writer.drain()
        if half_close:
            writer.write_eof()
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                answer += chunk
        return answer


def build_body(**fields: object) -> bytes:
    """A small valid body of POST /v1/messages, with `fields` over it."""
    usual = {
        "model": "m",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "hi"}],
    }
    return json.dumps({**usual, **fields}).encode()


def build_request(
    body: bytes | None = None,
    *,
    line: str = "POST /v1/messages?beta=true HTTP/1.1",
    headers: dict[str, str | None] | None = None,
    close: bool = True,
) -> bytes:
    """A valid request; a header of None is left out, others are added or replaced."""
    body = build_body() if body is None else body
    usual: dict[str, str | None] = {
        "Host": "127.0.0.1:8317",
        "x-api-key": PLACEHOLDER,
        "anthropic-version": "2023-06-01",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close" if close else "keep-alive",
    }
    lines = [f"{k}: {v}" for k, v in {**usual, **(headers or {})}.items() if v is not None]
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1") + body


def status_of(answer: bytes) -> int:
    """The status of the first answer; 0 where there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def body_of(answer: bytes) -> bytes:
    """The first answer's body, with chunks joined; ValueError where it is cut."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return rest
    chunks: list[bytes] = []
    at = 0
    while (end := rest.find(b"\r\n", at)) != -1:
        length = int(rest[at:end], 16)
        if length == 0:
            return b"".join(chunks)
        chunks.append(rest[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    msg = "the answer is cut"
    raise ValueError(msg)


def error_of(answer: bytes) -> tuple[str, str]:
    """The type and the message of an answer in the API's error shape."""
    value = json.loads(body_of(answer))
    assert value["type"] == "error"
    return value["error"]["type"], value["error"]["message"]
