"""A stand-in for a homeserver, for what a real one can't be made to do: proxies' pages, cut and
stalled answers, limits in every form, answers that break the specification.

It answers the login and the checks of a session by itself; everything else is scripted per
endpoint: the last part of the script stays.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

USER_ID = "@agent:scripted.example"
TOKEN = "scripted-token"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or the way in which there is none."""

    body: Any = field(default_factory=dict)
    """Sent as JSON; bytes are sent as they are."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    end: Literal["whole", "reset", "truncated", "stall", "trickle"] = "whole"
    """reset: RST after half the body; truncated: half of it as if it were all; stall: nothing ever;
    trickle: one byte every 50 ms."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    """What JSON says; bytes where it is something else."""
    at: float


class ScriptedHomeserver:
    """Answers from scripts, and remembers what it was asked."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self.requests: list[Request] = []
        self.logins: Counter[str] = Counter()
        self._scripts: defaultdict[str, list[Reply]] = defaultdict(list)
        self.valid_tokens = {TOKEN}

    def script(self, endpoint: str, *replies: Reply) -> None:
        """What the endpoint (`GET /sync`, without the version) answers from now on, in order."""
        self._scripts[endpoint] = list(replies)

    def asked(self, endpoint: str) -> list[Request]:
        """The requests to an endpoint; a `*` at its end stands for anything."""
        method, _, path = endpoint.partition(" ")
        prefix = path.removesuffix("*")
        return [
            r
            for r in self.requests
            if r.method == method
            and (r.path.startswith(prefix) if path.endswith("*") else r.path == path)
        ]

    def reply_to(self, request: Request) -> Reply:
        """The scripted answer, or the built-in one."""
        for key in self._keys(request):
            if script := self._scripts.get(key):
                return script.pop(0) if len(script) > 1 else script[0]
        if request.path == "/login":
            self.logins[request.body.get("device_id", "")] += 1
            token = f"{TOKEN}-{sum(self.logins.values())}"
            self.valid_tokens = {token}
            device = request.body.get("device_id")
            return Reply(body={"user_id": USER_ID, "device_id": device, "access_token": token})
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.valid_tokens:
            return Reply(status=401, body={"errcode": "M_UNKNOWN_TOKEN"})
        if request.path == "/account/whoami":
            return Reply(body={"user_id": USER_ID, "device_id": "SCRIPTED"})
        if request.path == "/keys/upload":
            return Reply(body={"one_time_key_counts": {"signed_curve25519": 50}})
        return Reply(status=404, body={"errcode": "M_NOT_FOUND"})

    def _keys(self, request: Request) -> list[str]:
        whole = f"{request.method} {request.path}"
        return [whole, *(k for k in self._scripts if k.endswith("*") and whole.startswith(k[:-1]))]


@asynccontextmanager
async def run_scripted_homeserver() -> AsyncIterator[ScriptedHomeserver]:
    """Serve on a free port until the end of the block."""
    open_writers: set[asyncio.StreamWriter] = set()
    closing, idle = asyncio.Event(), asyncio.Event()
    idle.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        idle.clear()
        try:
            while request := await _read_request(reader):
                server.requests.append(request)
                if not await _answer(writer, server.reply_to(request), closing):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            open_writers.discard(writer)
            writer.close()
            if not open_writers:
                idle.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = ScriptedHomeserver(listener.sockets[0].getsockname()[1])
    async with listener:
        try:
            yield server
        finally:
            closing.set()
            for writer in list(open_writers):
                writer.transport.abort()
            # The handlers end with their connections.
            await idle.wait()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (header := (await reader.readline()).decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    is_json = headers.get("content-type", "").startswith("application/json")
    parts = urlsplit(target)
    return Request(
        method=method,
        path=unquote(parts.path).removeprefix("/_matrix/client/v3"),
        query={k: v[0] for k, v in parse_qs(parts.query).items()},
        headers=headers,
        body=json.loads(body) if body and is_json else body or None,
        at=time.monotonic(),
    )


async def _answer(writer: asyncio.StreamWriter, reply: Reply, closing: asyncio.Event) -> bool:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    announced = len(body) // 2 if reply.end == "truncated" else len(body)
    headers = {"Content-Type": "application/json", "Content-Length": str(announced)}
    lines = [f"HTTP/1.1 {reply.status} Scripted"]
    lines += [f"{k}: {v}" for k, v in (headers | dict(reply.headers)).items()]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    if reply.end == "stall":
        await closing.wait()
        return False
    if reply.end == "reset":
        writer.write(head + body[: len(body) // 2])
        await writer.drain()
        # A linger of zero makes close() send RST.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        return False
    if reply.end == "trickle":
        writer.write(head)
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        return True
    writer.write(head + body[:announced])
    await writer.drain()
    return True
