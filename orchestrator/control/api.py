"""The control API without its transport: a path in, a status and a value out.

    GET /v1/status    Status
    GET /v1/runners   RunnersAnswer
    GET /v1/rooms     RoomsAnswer
    GET /v1/health    HealthAnswer      200 or 503
    GET /v1/page      the status page, as HTML; /v1/page.txt: as lines for a terminal

All of it reads; nothing here changes anything. Whatever a source raises becomes an answer: a failed
question must not end the daemon that was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from loguru import logger
from pydantic import BaseModel

from orchestrator.control.models import (
    ControlSource,
    ErrorAnswer,
    ErrorBody,
    HealthAnswer,
    RoomsAnswer,
    RunnersAnswer,
    Status,
    StoreState,
    SyncState,
)
from orchestrator.errors import AiAgentChatError

# Twenty runners' stats take the engine about 2 s each when asked one by one in the worst case, and
# less than 3 s together; a client waits 15 s (client.py), so that it still hears of this bound.
SOURCE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP status and the value that goes with it."""

    status: int
    body: BaseModel | Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text for people, in UTF-8."""

    media_type: str
    text: str


Pages = Mapping[str, Callable[[], Awaitable[Text]]]
"""Texts by their path."""
NO_PAGES: Pages = MappingProxyType({})


async def reply_to(
    source: ControlSource,
    method: str,
    path: str,
    *,
    pages: Pages = NO_PAGES,
    timeout_s: float = SOURCE_TIMEOUT_S,
) -> Reply:
    """Answer one request. Cancel-safe; never raises but for cancellation."""
    answer = _text(pages[path]) if path in pages else _ANSWERS.get(path)
    if answer is None:
        return refusal(404, "not_found", f"There is no {path[:100]} here; this is version 1.")
    if method not in {"GET", "HEAD"}:
        return refusal(405, "method_not_allowed", "Only GET is answered here.")
    try:
        async with asyncio.timeout(timeout_s):
            return await answer(source)
    except TimeoutError:
        return refusal(504, "timeout", f"The orchestrator did not answer within {timeout_s:g} s.")
    except AiAgentChatError as e:
        return refusal(503, "unavailable", str(e))
    except Exception:  # the boundary: a question must not end the daemon
        logger.exception("control request failed", action="control_request", path=path)
        return refusal(500, "internal", "The orchestrator failed to answer; its log says why.")


def refusal(status: int, code: str, message: str) -> Reply:
    """An answer in the error shape."""
    return Reply(status=status, body=ErrorAnswer(error=ErrorBody(code=code, message=message)))


def render_health(status: Status) -> HealthAnswer:
    """Healthy means: the homeserver answers us, and the disk takes what it says."""
    if status.store.state is not StoreState.OK:
        return HealthAnswer(ok=False, reason=status.store.reason)
    if status.sync.state is SyncState.CONNECTED:
        return HealthAnswer(ok=True)
    reason = status.sync.reason or "no answer"
    return HealthAnswer(ok=False, reason=f"The homeserver can't be synced with: {reason}")


def _text(page: Callable[[], Awaitable[Text]]) -> Callable[[ControlSource], Awaitable[Reply]]:
    async def answer(_: ControlSource) -> Reply:
        return Reply(status=200, body=await page())

    return answer


async def _status(source: ControlSource) -> Reply:
    return Reply(status=200, body=await source.status())


async def _runners(source: ControlSource) -> Reply:
    return Reply(status=200, body=RunnersAnswer(runners=await source.runners()))


async def _rooms(source: ControlSource) -> Reply:
    return Reply(status=200, body=RoomsAnswer(rooms=await source.rooms()))


async def _health(source: ControlSource) -> Reply:
    health = render_health(await source.status())
    return Reply(status=200 if health.ok else 503, body=health)


_ANSWERS: dict[str, Callable[[ControlSource], Awaitable[Reply]]] = {
    "/v1/status": _status,
    "/v1/runners": _runners,
    "/v1/rooms": _rooms,
    "/v1/health": _health,
}
