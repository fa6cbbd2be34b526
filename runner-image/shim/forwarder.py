"""127.0.0.1 in the runner, spliced to the egress socket. Of HTTP it knows nothing but a 502.

Each direction holds one chunk at most: a side is read when what came from it before has been
written to the other. The socket is looked up for each connection, so the gateway may restart: a
connection that finds none waits for it, unread, and gets the 502 when it does not come back.
"""

from __future__ import annotations

import contextlib
import socket

from shim import limits
from shim.reactor import READ, WRITE, Reactor

_NO_GATEWAY_TEXT = b"The egress gateway does not answer. It may be restarting; try again.\n"
_NO_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_NO_GATEWAY_TEXT), _NO_GATEWAY_TEXT)
)
# Between two attempts to accept when the process has no descriptor left.
_PAUSE_S = 0.1


class _Side:
    """One end of a connection. `pending` is on its way out of here."""

    __slots__ = ("is_read_out", "is_written_out", "pending", "socket")

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.pending = memoryview(b"")
        self.is_read_out = False
        self.is_written_out = False


class _Connection:
    """Invariant: closed, both ends and once, when both directions are over or one failed."""

    def __init__(
        self, forwarder: Forwarder, client: socket.socket, upstream: socket.socket
    ) -> None:
        self._forwarder = forwarder
        self._client = _Side(client)
        self._upstream = _Side(upstream)
        self._want()

    def close(self) -> None:
        """Close both ends. Idempotent."""
        for side in (self._client, self._upstream):
            if side.socket.fileno() >= 0:
                self._forwarder.reactor.drop(side.socket.fileno())
                side.socket.close()
        self._forwarder.forget(self)

    def _client_ready(self, ready: int) -> None:
        self._step(self._client, self._upstream, ready)

    def _upstream_ready(self, ready: int) -> None:
        self._step(self._upstream, self._client, ready)

    def _step(self, side: _Side, other: _Side, ready: int) -> None:
        try:
            if ready & WRITE:
                self._write(side)
            if ready & READ and not other.pending:
                self._read(side, other)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._pass_end(side, other)
        self._pass_end(other, side)
        if self._client.is_written_out and self._upstream.is_written_out:
            self.close()
        else:
            self._want()

    def _read(self, side: _Side, other: _Side) -> None:
        data = side.socket.recv(limits.CHUNK_BYTES)
        side.is_read_out = not data
        other.pending = memoryview(data)
        if data:
            self._write(other)

    def _write(self, side: _Side) -> None:
        if side.pending:
            side.pending = side.pending[side.socket.send(side.pending) :]

    def _pass_end(self, source: _Side, target: _Side) -> None:
        """Half-close: what one side ended ends on the other, after what is still on its way."""
        if source.is_read_out and not target.pending and not target.is_written_out:
            target.is_written_out = True
            with contextlib.suppress(OSError):  # the other side is gone already: nothing to tell it
                target.socket.shutdown(socket.SHUT_WR)

    def _want(self) -> None:
        want = self._forwarder.reactor.want
        client, upstream = self._client, self._upstream
        want(client.socket.fileno(), _mask(client, upstream), self._client_ready)
        want(upstream.socket.fileno(), _mask(upstream, client), self._upstream_ready)


def _mask(side: _Side, other: _Side) -> int:
    reads = READ if not side.is_read_out and not other.pending else 0
    return reads | (WRITE if side.pending else 0)


class _Waiting:
    """A connection that was accepted while there is no gateway."""

    def __init__(self, forwarder: Forwarder, client: socket.socket) -> None:
        self._forwarder = forwarder
        self._client = client
        self._give_up_at = forwarder.reactor.now() + limits.GATEWAY_WAIT_S
        forwarder.reactor.call_later(limits.GATEWAY_RETRY_S, self._try)

    def close(self) -> None:
        """Close it. Idempotent."""
        self._client.close()
        self._forwarder.forget(self)

    def _try(self) -> None:
        if self._client.fileno() < 0:
            return
        upstream = self._forwarder.open_upstream()
        if upstream is not None:
            self._forwarder.replace(self, _Connection(self._forwarder, self._client, upstream))
        elif self._forwarder.reactor.now() >= self._give_up_at:
            self._forwarder.replace(self, _Refusal(self._forwarder, self._client))
        else:
            self._forwarder.reactor.call_later(limits.GATEWAY_RETRY_S, self._try)


class _Refusal:
    """A connection that gets the 502; what it sends is thrown away, so that it reads the answer."""

    def __init__(self, forwarder: Forwarder, client: socket.socket) -> None:
        self._forwarder = forwarder
        self._client = client
        client.setblocking(False)
        with contextlib.suppress(OSError):  # it went away first
            client.send(_NO_GATEWAY)
            client.shutdown(socket.SHUT_WR)
        forwarder.reactor.want(client.fileno(), READ, self._readable)
        forwarder.reactor.call_later(limits.REFUSAL_S, self.close)

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._client.fileno() >= 0:
            self._forwarder.reactor.drop(self._client.fileno())
            self._client.close()
        self._forwarder.forget(self)

    def _readable(self, _ready: int) -> None:
        try:
            data = self._client.recv(limits.CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()


class Forwarder:
    """Listens on loopback; at most MAX_CONNECTIONS at once, more wait in the listener's backlog."""

    def __init__(self, reactor: Reactor, port: int, egress_path: str) -> None:
        """Start listening.

        Raises:
            OSError: the port is taken.
        """
        self.reactor = reactor
        self._egress_path = egress_path
        self._connections: set[_Connection | _Waiting | _Refusal] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=limits.MAX_CONNECTIONS)
        self._listener.setblocking(False)
        self._listen()

    def __repr__(self) -> str:
        return f"Forwarder({len(self._connections)} connections)"

    def forget(self, connection: _Connection | _Waiting | _Refusal) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        self._listen()

    def replace(self, waiting: _Waiting, connection: _Connection | _Refusal) -> None:
        """What was waiting goes on as something else."""
        self._connections.discard(waiting)
        self._connections.add(connection)

    def open_upstream(self) -> socket.socket | None:
        """A connection to the gateway; None where there is none, or no descriptor is left."""
        try:
            upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return None
        upstream.setblocking(False)  # on a unix socket, connect is done or fails: it never waits
        try:
            upstream.connect(self._egress_path)
        except OSError:
            upstream.close()
            return None
        return upstream

    def close(self) -> None:
        """Close everything."""
        for connection in list(self._connections):
            connection.close()
        self.reactor.drop(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            has_room = len(self._connections) < limits.MAX_CONNECTIONS
            self.reactor.want(self._listener.fileno(), READ if has_room else 0, self._acceptable)

    def _acceptable(self, _ready: int) -> None:
        try:
            client, _address = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it went away before it was accepted
        except OSError:
            self._pause()  # too many open files just now
            return
        upstream = self.open_upstream()
        self._connections.add(
            _Waiting(self, client) if upstream is None else _Connection(self, client, upstream)
        )
        self._listen()

    def _pause(self) -> None:
        self.reactor.drop(self._listener.fileno())
        self.reactor.call_later(_PAUSE_S, self._listen)
