"""A stand-in for the Messages API on loopback that answers as a test scripted it.

Speaks the real streaming protocol (server-sent events). Requests of the main loop (those that offer
tools) take the next scripted reply; any other request of the CLI gets a short fixed text.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from orchestrator.model import JsonObject, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of the model: content blocks, streamed in small deltas."""

    blocks: tuple[JsonObject, ...]
    stop_reason: str = "end_turn"
    headers: tuple[tuple[str, str], ...] = ()
    hang_after_blocks: bool = False
    """Never finish the message: the stream stays open until the CLI closes it."""
    cut_after_blocks: bool = False
    """Close the connection in the middle of the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An HTTP error of the API."""

    status: int
    kind: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class ScriptedApi:
    """What was scripted, what was asked. `base_url` is for ANTHROPIC_BASE_URL."""

    base_url: str = ""
    replies: deque[Reply | Refusal] = field(default_factory=deque)
    requests: list[JsonObject] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    when_empty: Reply | Refusal | None = None


_API = web.AppKey("api", ScriptedApi)


def text(content: str) -> JsonObject:
    """A text block."""
    return {"type": "text", "text": content}


def thinking(content: str) -> JsonObject:
    """A thinking block."""
    return {"type": "thinking", "thinking": content, "signature": "c2lnbmF0dXJl"}


def tool_use(name: str, arguments: JsonObject, *, tool_id: str = "toolu_01") -> JsonObject:
    """A call of a tool."""
    return {"type": "tool_use", "id": tool_id, "name": name, "input": arguments}


@asynccontextmanager
async def open_scripted_api() -> AsyncIterator[ScriptedApi]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    api = ScriptedApi()
    app = web.Application(client_max_size=64 << 20)
    app[_API] = api
    app.router.add_route("*", "/{path:.*}", _handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        api.base_url = f"http://127.0.0.1:{port}"
        yield api
    finally:
        await runner.cleanup()


async def _handle(request: web.Request) -> web.StreamResponse:
    api = request.app[_API]
    api.paths.append(f"{request.method} {request.path_qs}")
    if request.method != "POST" or request.path != "/v1/messages":
        return web.json_response(
            {"type": "error", "error": {"type": "not_found_error"}}, status=404
        )
    body: JsonObject = await request.json()
    api.requests.append(body)
    if body.get("tools"):
        reply = api.replies.popleft() if api.replies else api.when_empty
    else:
        reply = Reply(blocks=(text("ok"),))
    if reply is None:
        reply = Refusal(status=500, kind="api_error", message="nothing was scripted")
    if isinstance(reply, Refusal):
        return _refusal(reply)
    if not body.get("stream"):
        return web.json_response(_whole(reply, body))
    return await _stream(request, reply, body)


def _refusal(reply: Refusal) -> web.Response:
    error: JsonObject = {"type": reply.kind, "message": reply.message}
    return web.json_response(
        {"type": "error", "error": error, "request_id": "req_scripted"},
        status=reply.status,
        headers={"request-id": "req_scripted", **dict(reply.headers)},
    )


def _whole(reply: Reply, body: JsonObject) -> JsonObject:
    return {
        **_message(body),
        "content": list(reply.blocks),
        "stop_reason": reply.stop_reason,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


def _message(body: JsonObject) -> JsonObject:
    return {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    }


async def _stream(request: web.Request, reply: Reply, body: JsonObject) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"content-type": "text/event-stream", "request-id": "req_scripted"}
        | dict(reply.headers)
    )
    await response.prepare(request)
    await _event(response, {"type": "message_start", "message": _message(body)})
    for index, block in enumerate(reply.blocks):
        for event in _block_events(index, block):
            await _event(response, event)
    if reply.hang_after_blocks:
        await asyncio.Event().wait()  # cancelled when the client goes
    if reply.cut_after_blocks:
        if request.transport is not None:
            request.transport.abort()
        return response
    delta: JsonObject = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    await _event(response, {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})
    await _event(response, {"type": "message_stop"})
    return response


def _block_events(index: int, block: JsonObject) -> list[JsonObject]:
    start: JsonObject
    deltas: list[JsonObject]
    if block["type"] == "text":
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": part} for part in _parts(str(block["text"]))]
    elif block["type"] == "thinking":
        start = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [
            {"type": "thinking_delta", "thinking": part} for part in _parts(str(block["thinking"]))
        ]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    else:
        start = {**block, "input": {}}
        deltas = [
            {"type": "input_json_delta", "partial_json": part}
            for part in _parts(json.dumps(block["input"]))
        ]
    events: list[JsonObject] = [
        {"type": "content_block_start", "index": index, "content_block": start}
    ]
    events.extend(
        {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
    )
    events.append({"type": "content_block_stop", "index": index})
    return events


def _parts(content: str) -> list[str]:
    half = (len(content) + 1) // 2
    return [part for part in (content[:half], content[half:]) if part]


async def _event(response: web.StreamResponse, event: JsonObject) -> None:
    data: JsonValue = event
    await response.write(f"event: {event['type']}\ndata: {json.dumps(data)}\n\n".encode())
