"""One room's door to the outside: its socket, its connections, its limits, its counts.

Everything that a room could use up (connections, memory for bodies, time of the event loop) is
counted here, per room, so that a room which spends all of it waits alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from loguru import logger

from orchestrator.core.api_policy import ApiPolicy
from orchestrator.core.egress_http import MAX_BODY_BYTES, Denial
from orchestrator.core.egress_rules import HostRule, Target
from orchestrator.core.pace import Pace
from orchestrator.core.proxy_policy import ProxyPolicy
from orchestrator.core.room_secret import RoomSecret
from orchestrator.egress.connection import Connection
from orchestrator.egress.ledger import Ledger
from orchestrator.egress.listener import Listener, open_listener
from orchestrator.egress.meter import Purse
from orchestrator.egress.proxy import ProxyMeans, ProxyStats, RoomProxy
from orchestrator.egress.readiness import wait_readable
from orchestrator.model import RoomSlug
from orchestrator.peer import read_peer

if TYPE_CHECKING:
    from orchestrator.egress.inspector import Inspector
    from orchestrator.egress.upstream import Upstream

# The CLI was seen with up to 10 requests at once (subagents); the rest wait in the backlog.
MAX_CONNECTIONS = 64
# Bodies held at once by one room: one of the largest size, and some of usual size beside it.
BODY_BUDGET_BYTES = MAX_BODY_BYTES + (8 << 20)
# A busy CLI makes about one request a second, a subagent as many; a loop over refused requests
# costs the process about 0.5 ms each, so 1 % of it.
_REQUESTS_PER_S, _REQUESTS_BURST = 20.0, 100.0
# A full context window is about 4 MB.
_BYTES_PER_S, _BYTES_BURST = 8.0 * (1 << 20), 2.0 * MAX_BODY_BYTES
# Seconds of checking per second. A usual body of 1 MB takes 0.015.
_CHECKING_PER_S, _CHECKING_BURST = 0.2, 1.0
# Streams that run get this long at the end; the daemon's whole shutdown is 10 s.
DRAIN_S = 5.0
# Out of file descriptors: wait instead of spinning.
_ACCEPT_RETRY_S = 0.2
# A line for each refusal, at most so often.
_LOG_PER_S, _LOG_BURST = 1.0, 20.0
_MAX_TAG_CHARS = 256


OnDeniedHost = Callable[[RoomSlug, Target], None]
"""Called for each refused host; must not block, and must bound what it remembers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDoor:
    """Which room may come through which socket, and as whom it is seen by the API."""

    slug: RoomSlug
    directory: Path
    uid: int
    """Who may connect, as this process sees it (core.id_plan); nobody else is heard."""
    gid: int
    placeholder: str = field(repr=False)
    user_tag: str
    """Sent as metadata.user_id: opaque, one for each room."""
    proxy: ProxyPolicy = field(default_factory=ProxyPolicy)
    secrets: tuple[RoomSecret, ...] = ()
    api: ApiPolicy = field(default_factory=ApiPolicy)
    budget_micro_usd: int | None = None
    """What the room may spend in a UTC day; None: as much as it likes."""

    def __post_init__(self) -> None:
        if not self.placeholder or not self.placeholder.isascii():
            msg = "a door needs a placeholder in ASCII"
            raise ValueError(msg)
        if not 0 < len(self.user_tag) <= _MAX_TAG_CHARS or not self.user_tag.isascii():
            msg = f"a door needs a user tag of 1 to {_MAX_TAG_CHARS} ASCII characters"
            raise ValueError(msg)
        if self.budget_micro_usd is not None and self.budget_micro_usd <= 0:
            msg = "a budget must be more than nothing"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorStats:
    """What went through one door since it was opened. No secret, no content."""

    requests_allowed: int = 0
    requests_denied: int = 0
    peers_refused: int = 0
    connections_open: int = 0
    streams_cut: int = 0
    """Answers that ended before their end: the upstream broke off, or the client left."""
    bytes_up: int = 0
    """Bytes of request bodies sent to the API."""
    bytes_down: int = 0
    """Bytes of response bodies sent to the room."""
    last_denial: str | None = None
    proxy: ProxyStats = field(default_factory=ProxyStats)
    """Of the connections to other hosts; none of them counts above, but as an open one."""


class Door:
    """Serves one room, within MAX_CONNECTIONS and BODY_BUDGET_BYTES at any time."""

    def __init__(
        self,
        room: RoomDoor,
        *,
        upstream: Upstream,
        inspector: Inspector,
        means: ProxyMeans,
        ledger: Ledger,
        on_denied_host: OnDeniedHost | None = None,
    ) -> None:
        """Binds the socket at once; raises EgressError where that fails."""
        self.room = room
        self.grants: tuple[HostRule, ...] = ()
        """What was granted in the room, besides the policy's rules; replaced as a whole."""
        self.on_denied_host = on_denied_host or _tell_nobody
        self.upstream = upstream
        self.inspector = inspector
        self.purse = Purse(room.slug, ledger, limit=room.budget_micro_usd)
        self.log = logger.bind(component="egress", room=room.slug)
        self.proxy = RoomProxy(self, means)
        self.requests = Pace(rate=_REQUESTS_PER_S, burst=_REQUESTS_BURST)
        self.bytes = Pace(rate=_BYTES_PER_S, burst=_BYTES_BURST)
        self.checking = Pace(rate=_CHECKING_PER_S, burst=_CHECKING_BURST)
        self.checking_turn = asyncio.Lock()
        self.session: aiohttp.ClientSession
        self.is_stopping = False
        self.allowed = self.denied = self.refused = self.cut = self.up = self.down = 0
        self._last_denial: str | None = None
        self._log_pace = Pace(rate=_LOG_PER_S, burst=_LOG_BURST)
        self._unlogged = 0
        self._body_bytes = 0
        self._body_freed = asyncio.Event()
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._handed_over: set[Connection] = set()
        self._stop = asyncio.Event()
        self._empty = asyncio.Event()
        self._closed = asyncio.Event()
        self._listener: Listener = open_listener(room.directory, gid=room.gid)

    def __repr__(self) -> str:
        return f"Door({self.room.slug}, {self.stats()})"

    def is_current(self) -> bool:
        """Whether the room's directory still shows this door's socket."""
        return not self.is_stopping and self._listener.is_current()

    def stats(self) -> DoorStats:
        """The counts as they are now."""
        return DoorStats(
            requests_allowed=self.allowed,
            requests_denied=self.denied,
            peers_refused=self.refused,
            connections_open=len(self._connections),
            streams_cut=self.cut,
            bytes_up=self.up,
            bytes_down=self.down,
            last_denial=self._last_denial,
            proxy=self.proxy.stats(),
        )

    def note_denial(self, denial: Denial) -> None:
        """Count a refusal, and log it unless there were many just now."""
        self.denied += 1
        self._last_denial = denial.reason.value
        self.warn_paced(
            "a request was refused",
            action="egress_denied",
            reason=denial.reason.value,
            status=denial.status,
        )

    def note_failure(self, error: Exception) -> None:
        """Log a bug of ours: which error, and where; not its text, which may quote a request."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        self.warn_paced(
            "the gateway failed",
            action="egress_failed",
            error=type(error).__name__,
            where=where,
        )

    def warn_paced(self, message: str, **fields: str | int) -> None:
        """Log a warning, unless there were many just now; the next says how many were left out."""
        if self._log_pace.spend(1, now=asyncio.get_running_loop().time()) > 0:
            self._unlogged += 1
            return
        self.log.bind(**fields, unlogged=self._unlogged).warning(message)
        self._unlogged = 0

    def hand_over(self, connection: Connection) -> None:
        """From here on the connection is the proxy's, which counts its own. Idempotent."""
        if connection not in self._handed_over:
            self._handed_over.add(connection)
            self._places.release()

    async def wait_for(self, pace: Pace, cost: float) -> None:
        """Book the cost at this room's pace, and wait as long as it says."""
        delay = pace.spend(cost, now=asyncio.get_running_loop().time())
        if delay > 0:
            await asyncio.sleep(delay)

    @contextlib.asynccontextmanager
    async def body_budget(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes of the room's budget for bodies; waits until they are free."""
        while self._body_bytes + size > BODY_BUDGET_BYTES:
            self._body_freed.clear()
            await self._body_freed.wait()
        self._body_bytes += size
        try:
            yield
        finally:
            self._body_bytes -= size
            self._body_freed.set()

    async def stop(self) -> None:
        """Take no more connections, give running answers DRAIN_S, close. Idempotent."""
        self.is_stopping = True
        self._stop.set()
        await self._closed.wait()

    async def serve(self) -> None:
        """Serve until `stop`, or until cancelled (then without the grace)."""
        try:
            async with self.upstream.open_session() as self.session, asyncio.TaskGroup() as group:
                accepting = group.create_task(self._accept(group), name=f"egress:{self.room.slug}")
                await self._stop.wait()
                accepting.cancel()
                self._listener.close()
                await self._drain()
            await self.proxy.close()
        finally:
            self.is_stopping = True
            self._listener.close()
            self._closed.set()

    async def _drain(self) -> None:
        for connection, task in list(self._connections.items()):
            if connection.is_idle or connection.is_quiet():
                task.cancel()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._empty.wait()
        for task in list(self._connections.values()):
            task.cancel()

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        while True:
            async with self._places:
                await wait_readable(self._listener.socket)
            try:
                sock, _ = self._listener.socket.accept()
            except BlockingIOError:
                continue
            except OSError as e:
                self.log.warning(
                    "no connection can be taken", action="egress_accept", errno=e.errno
                )
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            await self._admit(group, sock)
            await self.wait_for(self.requests, 1)

    async def _admit(self, group: asyncio.TaskGroup, sock: socket.socket) -> None:
        sock.setblocking(False)
        uid = read_peer(sock).uid
        if uid != self.room.uid:
            self.refused += 1
            sock.close()
            self.warn_paced("a foreign peer was refused", action="egress_peer", uid=uid)
            return
        # Only this loop takes places, and it has just seen a free one: this does not wait.
        await self._places.acquire()
        connection = Connection(sock, self)
        task = group.create_task(self._serve_one(connection), name=f"egress:{self.room.slug}:c")
        self._connections[connection] = task
        self._empty.clear()
        # A task that is cancelled before its first step runs none of its own `finally`.
        task.add_done_callback(lambda _: self._forget(connection))

    async def _serve_one(self, connection: Connection) -> None:
        try:
            await connection.serve()
        except Exception as e:  # noqa: BLE001 (a room's input must not end a door)
            self.note_failure(e)

    def _forget(self, connection: Connection) -> None:
        connection.close()
        if connection in self._handed_over:
            self._handed_over.remove(connection)
        else:
            self._places.release()
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()


def _tell_nobody(slug: RoomSlug, target: Target) -> None:
    """Where nobody listens for refused hosts."""
