"""A stand-in for the Messages API on loopback: the real protocol, answers from a `ScriptedModel`.

It serves `POST /v1/messages` (streaming and not) and `POST /v1/messages/count_tokens`; everything
else is refused in the API's own shape. Not an emulation of a
model, and not meant for other machines.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.embedded.messages_model import (
    HttpError,
    MessagesRequest,
    Reply,
    ScriptedModel,
    Stall,
    Tool,
)
from orchestrator.embedded.messages_stream import (
    Cut,
    Wait,
    estimate_tokens,
    render_error,
    render_message,
    render_stream,
)

# The real API's limit for a request.
_MAX_BODY_BYTES = 32 << 20
# For answers that are being sent; aiohttp reads 0 as: without end.
_SHUTDOWN_S = 0.1
_REQUEST_ID = web.RequestKey("request_id", str)

_log = logger.bind(component="messages_api")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One HTTP request as it arrived, whatever became of it. Header names are lower-case."""

    method: str
    path: str
    """With its query, as it was sent."""
    headers: dict[str, str]
    body: bytes


class _CountRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: str
    messages: list[object] = Field(min_length=1)
    tools: tuple[Tool, ...] = ()


@asynccontextmanager
async def open_messages_api(
    model: ScriptedModel,
    *,
    port: int = 0,
    on_request: Callable[[ReceivedRequest], None] | None = None,
) -> AsyncIterator[str]:
    """Serve the API on 127.0.0.1 while the context lasts; streams still open at its end are cut.

    Args:
        model: decides the answers.
        port: 0 for a free one.
        on_request: sees every request before it is judged.

    Yields:
        The base URL, without a slash at its end.
    """
    server = _MessagesServer(model, on_request)
    runner = web.AppRunner(
        server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        bound = runner.addresses[0][1]
        yield f"http://127.0.0.1:{bound}"
    finally:
        await runner.cleanup()


class _MessagesServer:
    def __init__(
        self, model: ScriptedModel, on_request: Callable[[ReceivedRequest], None] | None
    ) -> None:
        self._model = model
        self._on_request = on_request

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[self._guard])
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_get("/v1/models", self._models)
        return app

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Give every answer, refusals too, the API's shape."""
        request[_REQUEST_ID] = f"req_{uuid.uuid4().hex[:24]}"
        try:
            await self._record(request)
            refusal = _check_headers(request)
            return refusal if refusal is not None else await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _refuse(request, 413, "request_too_large", "Request exceeds the maximum size")
        except web.HTTPException as e:
            return _refuse(request, e.status, "not_found_error", "Not found")

    async def _record(self, request: web.Request) -> None:
        if self._on_request is None:
            return
        received = ReceivedRequest(
            method=request.method,
            path=request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
        )
        self._on_request(received)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            asked = MessagesRequest.model_validate_json(body)
        except ValidationError as e:
            return _refuse(request, 400, "invalid_request_error", _first_problem(e))
        reply = self._model.reply(asked)
        error = await _wait_for_error(reply)
        if error is not None:
            return _refuse(request, error.status, error.type, error.message, dict(error.headers))
        _log.debug("message answered", action="model_reply", stream=asked.stream)
        if asked.stream:
            return await _stream(request, reply, asked, len(body))
        answer = render_message(reply, asked, size_chars=len(body))
        return web.json_response(answer, headers={"request-id": request[_REQUEST_ID]})

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            _CountRequest.model_validate_json(body)
        except ValidationError as e:
            return _refuse(request, 400, "invalid_request_error", _first_problem(e))
        count = {"input_tokens": estimate_tokens(len(body))}
        return web.json_response(count, headers={"request-id": request[_REQUEST_ID]})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        """What anybody with a credential may read."""
        model = {"type": "model", "id": "claude-offline", "display_name": "Offline model"}
        answer = {"data": [model], "has_more": False}
        return web.json_response(answer, headers={"request-id": request[_REQUEST_ID]})


async def _wait_for_error(reply: Reply) -> HttpError | None:
    """The error that the reply is, after the stalls in front of it."""
    error = next((b for b in reply if isinstance(b, HttpError)), None)
    for block in reply:
        if error is None or not isinstance(block, Stall):
            break
        await asyncio.sleep(block.seconds)
    return error


async def _stream(
    request: web.Request, reply: Reply, asked: MessagesRequest, size_chars: int
) -> web.StreamResponse:
    headers = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "request-id": request[_REQUEST_ID],
    }
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for step in render_stream(reply, asked, size_chars=size_chars):
        match step:
            case Wait(seconds=seconds):
                await asyncio.sleep(seconds)
            case Cut():
                # The connection just ends: no end of the chunked body, as when a network fails.
                if request.transport is not None:
                    request.transport.abort()
                return response
            case bytes():
                await response.write(step)
    await response.write_eof()
    return response


def _check_headers(request: web.Request) -> web.Response | None:
    """What the real API refuses before it reads a body."""
    if "x-api-key" not in request.headers and "Authorization" not in request.headers:
        return _refuse(request, 401, "authentication_error", "x-api-key header is required")
    if "anthropic-version" not in request.headers:
        message = "anthropic-version: header is required"
        return _refuse(request, 400, "invalid_request_error", message)
    return None


def _refuse(
    request: web.Request,
    status: int,
    kind: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> web.Response:
    request_id = request[_REQUEST_ID]
    body = render_error(kind, message, request_id)
    return web.json_response(
        body, status=status, headers={"request-id": request_id, **(headers or {})}
    )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    return f"{where}: {first['msg']}"
