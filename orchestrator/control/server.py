"""The control socket, `STATE_DIR/control.sock`: for root and the daemon's own user.

Two guards, each enough alone: the directory is 0700 and the socket 0600, and the kernel's word on
who connected (SO_PEERCRED) is checked for each request.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from loguru import logger

from orchestrator.control.api import NO_PAGES, Pages, Reply, Text, refusal, reply_to
from orchestrator.control.models import ControlSource
from orchestrator.peer import read_peer
from orchestrator.private_socket import private_listener

SOCKET_NAME = "control.sock"
# Requests carry nothing; aiohttp's own bounds hold for the line and the headers (8 KiB each).
_MAX_BODY_BYTES = 1024
# Answers take milliseconds; one that takes longer is cut at the end of the daemon.
_SHUTDOWN_S = 1.0
_WHAT = "The control socket"
_HINT = "Mend the directory, or name another one with --state-dir."


@asynccontextmanager
async def open_control(
    state_dir: Path, source: ControlSource, pages: Pages = NO_PAGES
) -> AsyncIterator[None]:
    """Answer on `STATE_DIR/control.sock` for as long as the context lasts, however it ends.

    The caller holds the state directory's lock: a socket that is there was left by a dead daemon,
    and is replaced. At the end requests get one second more, and the socket is removed.

    Raises:
        PreconditionError: the socket can't be made.
    """
    allowed = frozenset({0, os.geteuid()})
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_route("*", "/{tail:.*}", _build_handler(source, pages, allowed))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
    with private_listener(state_dir / SOCKET_NAME, what=_WHAT, hint=_HINT) as listener:
        try:
            await runner.setup()
            await web.SockSite(runner, listener).start()
            logger.info("control socket open", action="control_open")
            yield
        finally:
            await runner.cleanup()


def _build_handler(
    source: ControlSource, pages: Pages, allowed: frozenset[int]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        connection = request.get_extra_info("socket")
        if connection is None or read_peer(connection).uid not in allowed:
            reply = refusal(403, "forbidden", "Only root and the orchestrator's own user may ask.")
        else:
            reply = await reply_to(source, request.method, request.path, pages=pages)
        return _response(reply)

    return handle


def _response(reply: Reply) -> web.Response:
    if isinstance(reply.body, Text):
        return web.Response(
            status=reply.status,
            text=reply.body.text,
            content_type=reply.body.media_type,
            charset="utf-8",
        )
    text = reply.body.model_dump_json()
    return web.Response(status=reply.status, text=text, content_type="application/json")
