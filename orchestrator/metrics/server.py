"""`GET /metrics`, `/healthz` and `/readyz` on the address of `observability.metrics`.

- `/healthz`: 200 while the database answers. 503: a restart may help.
- `/readyz`: 200 while a message that is sent now is answered: the homeserver and the engine answer,
  the disk takes what is written. 503 names what doesn't; a restart helps nothing.

Without a password, as Prometheus expects it: figures of the whole process, no room's name, no text.
Hence the default is loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web
from loguru import logger
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.errors import AiAgentChatError, PreconditionError
from orchestrator.metrics.figures import Figures, render_metrics

# Prometheus itself gives up after 10 s. Reading takes milliseconds, unless the disk is full.
_READ_S = 5.0
_MAX_BODY_BYTES = 1024
_SHUTDOWN_S = 1.0

Read = Callable[[], Awaitable[Figures]]


class Look(Protocol):
    """Names what is not well, or (not strict) only what a restart may help."""

    def __call__(self, *, is_strict: bool) -> Awaitable[tuple[str, ...]]:
        """Raises for nothing that it finds."""
        ...


@asynccontextmanager
async def open_metrics(
    address: str | None, read: Read, *, look: Look, required: bool
) -> AsyncIterator[None]:
    """Answer on `HOST:PORT` for as long as the context lasts, however it ends; None: nowhere.

    Args:
        address: where.
        read: gives the figures; called for each request.
        look: names what is not well; called for each request.
        required: whether an address that can't be had ends the start. A default that is taken
            (by another orchestrator on this host) only costs the metrics.

    Raises:
        PreconditionError: it is required, and can't be had.
    """
    if address is None:
        yield
        return
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/metrics", _build_handler(read), allow_head=False)
    for path, is_strict in (("/healthz", False), ("/readyz", True)):
        app.router.add_get(path, _build_health(look, is_strict=is_strict))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
    try:
        await runner.setup()
        await _listen(runner, address, required=required)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str, *, required: bool) -> None:
    host, _, port = address.rpartition(":")
    try:
        await web.TCPSite(runner, host, int(port)).start()
    except (OSError, OverflowError) as e:
        why = getattr(e, "strerror", None) or type(e).__name__
        msg = f"observability.metrics: {address} can't be used ({why})"
        if required:
            hint = "Name another address there, or null for none."
            raise PreconditionError(f"{msg}. {hint}") from None
        logger.bind(action="metrics.open", address=address, error=type(e).__name__).warning(
            f"{msg}; going on without metrics. Set another address, or null for none."
        )
    else:
        logger.bind(action="metrics.open", address=address).info("metrics open")


def _build_handler(read: Read) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_READ_S):
                figures = await read()
        except (AiAgentChatError, TimeoutError) as e:
            return web.Response(status=503, text=f"not now: {type(e).__name__}\n")
        return web.Response(
            body=render_metrics(figures), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    return handle


def _build_health(
    look: Look, *, is_strict: bool
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        problems = await look(is_strict=is_strict)
        text = "\n".join(problems or ("ok",))
        return web.Response(status=503 if problems else 200, text=f"{text}\n")

    return handle
