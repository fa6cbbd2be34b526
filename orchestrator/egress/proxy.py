"""The forward proxy of one room's door: what is asked for, whether it may be, and what it costs.

```
 CONNECT ─ target? ─ place ─ day ─ addresses? ─ 200 ─ hello? ─┬─ connect ─ tunnel
                                                              └─ interceptor ─ exchange (https)
 http:// ─ target? ─ place ─ day ─ addresses? ─────────────────── exchange (http)
```

Connections, pace and bytes are the proxy's own, so that neither tunnels nor API requests keep the
other ones out. One request of a connection goes through the proxy, and it is its last.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from orchestrator import meters
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.core.egress_rules import Target, is_covered
from orchestrator.core.pace import Pace
from orchestrator.core.proxy_http import CONNECT, ProxyRequest, parse_proxy_head
from orchestrator.core.room_secret import Sealed, seal_headers, secrets_for
from orchestrator.egress import exchange, tunnel
from orchestrator.egress.day_budget import (
    DAY_SPENT,
    DayBook,
    DayBudget,
    DaySpentError,
    MemoryDayBook,
)
from orchestrator.egress.dialer import Dialer
from orchestrator.egress.proxy_client import (
    ClientGoneError,
    ClientSide,
    SocketClient,
    render_refusal,
)
from orchestrator.egress.resolver import Lookup, Resolver, look_up
from orchestrator.errors import AiAgentChatError

if TYPE_CHECKING:
    from orchestrator.egress.door import Door

T = TypeVar("T")

# A request of an installer, and again: npm asks for hundreds of packages in a row.
_REQUESTS_PER_S, _REQUESTS_BURST = 50.0, 200.0
# Seconds of reading bodies per second: in chunks of one byte they take 3 µs a byte, in large ones
# next to nothing.
_WORK_PER_S, _WORK_BURST = 0.2, 1.0
# For a place, while others work; then it is refused with words.
_PLACE_S = 30.0
# One short transaction.
_GIVE_BACK_S = 1.0
# Refused ones linger for a moment, and hold no place.
_MORE_PRESENT = 32

_OWN_FAILURE = Denial(
    status=502,
    reason=DenialReason.OWN_FAILURE,
    message="The proxy failed on this request, so nothing was sent.",
)
_CROWDED = Denial(
    status=503,
    reason=DenialReason.TOO_MANY,
    message="This room has as many connections as it may have. Try again when some have ended.",
)


class Interceptor(Protocol):
    """Opens the TLS of a tunnel to a host that the policy says so of."""

    @property
    def certificate_pem(self) -> bytes:
        """What a room has to trust for that; public."""
        ...

    async def serve(
        self, proxy: RoomProxy, target: Target, hello: bytes, client: ClientSide
    ) -> None:
        """Serve the client until it ends; `hello` is its ClientHello, read and checked.

        Requests inside are read with `parse_inner_head` and passed on with `exchange.exchange`.

        Raises:
            ClientGoneError: it ended in the middle.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyMeans:
    """What the rooms' proxies have in common, given once to the gateway."""

    book: DayBook = field(default_factory=MemoryDayBook)
    clock: Callable[[], float] = time.time
    """Unix time: which day it is."""
    lookup: Lookup = look_up
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    """How the certificates of intercepted hosts are checked."""
    interceptor: Interceptor | None = None


@dataclass(slots=True)
class Flow:
    """What one proxied connection moves, for its line in the log."""

    target: Target
    method: str
    began: float = field(default_factory=time.monotonic)
    up: int = 0
    down: int = 0
    ended_by: str = "end"
    put_in: tuple[str, ...] = ()
    """Names of the secrets that went along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStats:
    """What went through one door's proxy since it was opened."""

    allowed: int = 0
    denied: int = 0
    open: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    last_denial: str | None = None


class RoomProxy:
    """Serves one room. Invariant: nothing is connected to that `check_target` refused."""

    def __init__(self, door: Door, means: ProxyMeans) -> None:
        self.policy = door.room.proxy
        self.dialer = Dialer(Resolver(means.lookup, self.policy.hosts), self.policy)
        self.interceptor = means.interceptor
        self.tls = means.tls
        self.budget = DayBudget(door.room.slug, self.policy.bytes_per_day, means.book, means.clock)
        self._door = door
        self._requests = Pace(rate=_REQUESTS_PER_S, burst=_REQUESTS_BURST)
        self._bytes = Pace(rate=self.policy.bytes_per_s, burst=self.policy.bytes_per_s)
        self._work = Pace(rate=_WORK_PER_S, burst=_WORK_BURST)
        self._working = asyncio.Lock()
        self._places = asyncio.Semaphore(self.policy.connections)
        self._present = 0
        self._allowed = self._denied = self._up = self._down = 0
        self._open = 0
        self._last_denial: str | None = None

    def __repr__(self) -> str:
        return f"RoomProxy({self._door.room.slug}, {self.stats()})"

    def stats(self) -> ProxyStats:
        """The counts as they are now."""
        return ProxyStats(
            allowed=self._allowed,
            denied=self._denied,
            open=self._open,
            bytes_up=self._up,
            bytes_down=self._down,
            last_denial=self._last_denial,
        )

    async def serve(self, raw: bytes, client: SocketClient) -> None:
        """Serve the request with this head, and what follows on its connection, to the end."""
        self._present += 1
        try:
            if self._present > self.policy.connections + _MORE_PRESENT:
                self.note_denial(_CROWDED)
                return
            await self.pace_request()
            await self._serve(raw, client)
        except ClientGoneError:
            pass
        except Exception as e:  # noqa: BLE001 (whatever failed: nothing more gets out)
            self._door.note_failure(e)
            if not client.has_answered:
                await self._refuse(client, _OWN_FAILURE)
        finally:
            self._present -= 1

    def allows(self, target: Target) -> bool:
        """Whether the room may reach a target, as its rules are now."""
        return is_covered(target, (*self.policy.allow, *self._door.grants))

    def check_target(self, target: Target) -> Denial | None:
        """Whether the room may reach a target, as its rules are now; tells of one it may not."""
        if self.allows(target):
            return None
        if self.policy.asks:
            self._door.on_denied_host(self._door.room.slug, target)
        return _not_listed(target, asks=self.policy.asks)

    def seal(self, target: Target, headers: Mapping[str, str]) -> Sealed:
        """A request's headers with the room's secrets for this target in them."""
        held = secrets_for(target, self._door.room.secrets, intercept=self.policy.intercept)
        return seal_headers(list(headers.items()), held)

    async def pace_request(self) -> None:
        """Book a request at the room's pace, and wait as long as it says."""
        await self._door.wait_for(self._requests, 1)

    def note_failure(self, error: Exception) -> None:
        """Log a bug of ours."""
        self._door.note_failure(error)

    async def move(self, size: int) -> None:
        """Book bytes that are about to be moved, either way, and wait as long as the pace says.

        Raises:
            DaySpentError: the room has used up its day.
        """
        await self.budget.take(size)
        await self._door.wait_for(self._bytes, size)

    async def work(self, call: Callable[[], T]) -> T:
        """Call what takes time by what the room's bytes are, and wait as the pace of it says.

        One at a time: between two of a room's, everybody else has a turn.
        """
        async with self._working:
            await asyncio.sleep(0)
            start = time.perf_counter()
            result = call()
            await self._door.wait_for(self._work, time.perf_counter() - start)
            return result

    def note_denial(self, denial: Denial, target: Target | None = None) -> None:
        """Count a refusal, and log it unless there were many just now."""
        self._denied += 1
        meters.EGRESS.labels("denied").inc()
        self._last_denial = denial.reason.value
        named: dict[str, str | int] = {}
        if target is not None:
            named = {"host": target.host, "port": target.port}
        self._door.warn_paced(
            "a proxied connection was refused",
            action="egress_proxy_denied",
            reason=denial.reason.value,
            status=denial.status,
            audit=True,
            **named,
        )

    async def close(self) -> None:
        """Give back what was reserved of the day; nothing may be under way any more.

        Where that can't be stored now, it is lost to the room until the day's end.
        """
        with contextlib.suppress(AiAgentChatError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S):
                await self.budget.give_back()

    @contextlib.asynccontextmanager
    async def flow(self, target: Target, method: str) -> AsyncIterator[Flow]:
        """Count one connection to a target while it lasts, and log it once at its end."""
        flow = Flow(target, method)
        self._allowed += 1
        meters.EGRESS.labels("allowed").inc()
        self._open += 1
        try:
            yield flow
        except asyncio.CancelledError:
            flow.ended_by = "door"
            raise
        except ClientGoneError:
            flow.ended_by = "client"
            raise
        finally:
            self._open -= 1
            meters.EGRESS_BYTES.labels("up").inc(flow.up)
            meters.EGRESS_BYTES.labels("down").inc(flow.down)
            self._up += flow.up
            self._down += flow.down
            self._door.log.info(
                "a proxied connection ended",
                action="egress_proxy",
                decision="allowed",
                host=target.host,
                port=target.port,
                scheme=target.scheme.value,
                method=method,
                bytes_up=flow.up,
                bytes_down=flow.down,
                ended_by=flow.ended_by,
                put_in=",".join(flow.put_in),
                seconds=round(time.monotonic() - flow.began, 3),
                audit=True,
            )

    async def _serve(self, raw: bytes, client: SocketClient) -> None:
        request = parse_proxy_head(raw)
        if isinstance(request, Denial):
            await self._refuse(client, request)
            return
        if request.method == CONNECT and client.has_more():
            await self._refuse(client, tunnel.EARLY, request.target)
            return
        is_head = request.method == "HEAD"
        denial = self.check_target(request.target)
        if denial is not None:
            await self._refuse(client, denial, request.target, is_head=is_head)
            return
        async with self._place() as is_free:
            denial = await self._refuse_for(is_free=is_free, size=len(raw))
            if denial is not None:
                await self._refuse(client, denial, request.target, is_head=is_head)
                return
            await self._serve_request(request, client)

    async def _serve_request(self, request: ProxyRequest, client: SocketClient) -> None:
        if request.method == CONNECT:
            done: Denial | bool | None = await tunnel.serve_tunnel(self, request.target, client)
        else:
            done = await exchange.exchange(self, request, client)
        if isinstance(done, Denial):
            await self._refuse(client, done, request.target, is_head=request.method == "HEAD")
        else:
            await client.linger()

    async def _refuse_for(self, *, is_free: bool, size: int) -> Denial | None:
        if not is_free:
            return _CROWDED
        try:
            await self.budget.take(size)
        except DaySpentError:
            return DAY_SPENT
        return None

    async def _refuse(
        self,
        client: SocketClient,
        denial: Denial,
        target: Target | None = None,
        *,
        is_head: bool = False,
    ) -> None:
        self.note_denial(denial, target)
        with contextlib.suppress(ClientGoneError):
            await client.write(render_refusal(denial, is_head=is_head))
            await client.linger()

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[bool]:
        """One of the room's places while the context lasts; False: none became free in time."""
        try:
            async with asyncio.timeout(_PLACE_S):
                await self._places.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            self._places.release()


def _not_listed(target: Target, *, asks: bool) -> Denial:
    way = "Somebody who may approve can allow it in the room, or the operator"
    way = way if asks else "The operator can allow it"
    return Denial(
        status=403,
        reason=DenialReason.HOST,
        message=f"{target} may not be reached from this room. {way} in egress.allow.",
    )
