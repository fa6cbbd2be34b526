"""Connections to the status page: few at once, short, one request each.

How long aiohttp listens to half a request is a matter of its version. Here each connection is cut
some seconds after it was made, whatever it did until then.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

MAX_CONNECTIONS: Final = 32
MOST_S: Final = 15.0


class BriefConnection(web.RequestHandler):
    """Invariant: it is in the server's list, or was cut when it was made."""

    def __init__(
        self, server: web.Server, *, loop: asyncio.AbstractEventLoop, most_s: float
    ) -> None:
        no_log: Any = None  # as aiohttp's own runner gives it
        super().__init__(server, loop=loop, access_log=no_log)
        self._server = server
        self._own_loop = loop
        self._most_s = most_s
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more, unless there are too many."""
        is_full = len(self._server.connections) >= MAX_CONNECTIONS
        super().connection_made(transport)
        if isinstance(transport, asyncio.Transport):
            if is_full:
                transport.abort()
            else:
                self._end = self._own_loop.call_later(self._most_s, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Its time is of no interest any more."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)
