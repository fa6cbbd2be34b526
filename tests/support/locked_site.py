"""A web server over TLS that lets in who knows a token, and notes what each request brought."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class LockedSite:
    """Serves files; `seen` has every Authorization header, in order.

    `/open` is for everybody, and counted.
    """

    token: str
    port: int = 0
    opened: int = 0
    seen: list[str] = field(default_factory=list)

    def lets_in(self, authorization: str) -> bool:
        """Whether a header has the token: as it is, or as a password or a user."""
        self.seen.append(authorization)
        kind, _, rest = authorization.partition(" ")
        if kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                return self.token in base64.b64decode(rest).decode().split(":")
        return rest == self.token


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args: object, site: LockedSite, directory: str) -> None:
        self._site = site
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """A file, or 401."""
        if self.path == "/open":
            self._site.opened += 1
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"open\n")
            return
        if self._site.lets_in(self.headers.get("Authorization", "")):
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="locked"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def open_locked_site(root: Path, context: ssl.SSLContext, token: str) -> Iterator[LockedSite]:
    """On a free port of 127.0.0.1, in a thread."""
    site = LockedSite(token)
    handler = functools.partial(_Handler, site=site, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
