"""A gateway whose proxy a test attacks, and witnesses at every place that it must not reach."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import SecretStr

from orchestrator.core.egress_rules import Target, parse_rule
from orchestrator.core.proxy_policy import IpAddress, ProxyPolicy
from orchestrator.egress import dialer
from orchestrator.egress.day_budget import DayBook, MemoryDayBook
from orchestrator.egress.gateway import ApiKey, EgressGateway, ProxyMeans, RoomDoor, open_egress
from orchestrator.egress.proxy import Interceptor, RewriteHeaders
from tests.support.egress import (
    ANSWER_S,
    REAL_KEY,
    Upstream,
    connect,
    open_upstream,
    room_door,
    send_raw,
)
from tests.support.tls_site import Authority, Site, make_authority, open_site

SITE_ADDRESS = ipaddress.ip_address("127.0.0.77")
_TOKEN = re.compile(rb"@[A-Z]+@")
_numbers = itertools.count()


@dataclass(slots=True)
class Rig:
    """Everything that an attempt could have reached, and what it did reach."""

    gateway: EgressGateway
    directory: Path
    authority: Authority
    tls: Site
    plain: Site
    api: Upstream
    inside: Site
    addresses: dict[str, tuple[IpAddress, ...]] = field(default_factory=dict)
    """What names resolve to; any other name is the site."""
    later: dict[str, dict[str, tuple[IpAddress, ...]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    dialed: list[str] = field(default_factory=list)
    denied: list[Target] = field(default_factory=list)

    def fill(self, data: bytes) -> bytes:
        """The ports of this run in the places of their names."""
        ports = {
            b"@TLS@": self.tls.port,
            b"@HTTP@": self.plain.port,
            b"@INSIDE@": self.inside.port,
            b"@API@": int(self.api.url.rpartition(":")[2]),
        }
        return _TOKEN.sub(lambda match: str(ports[match[0]]).encode(), data)

    def reached(self) -> tuple[int, int, int, int, int]:
        """How many connections each witness saw, and how many the gateway tried to make."""
        return (
            self.tls.connections,
            self.plain.connections,
            self.inside.connections,
            len(self.api.seen),
            len(self.dialed),
        )

    @contextlib.asynccontextmanager
    async def door(self, **policy: object) -> AsyncIterator[RoomDoor]:
        """A door of its own for an attempt, so that no limit of another one is met."""
        number = next(_numbers)
        made = replace(
            room_door(self.directory / str(number), slug=f"room-{number}"),
            proxy=replace(self.policy(), **policy),  # type: ignore[arg-type]
        )
        await self.gateway.open_door(made)
        try:
            yield made
        finally:
            await self.gateway.close_door(made.slug)

    def policy(self) -> ProxyPolicy:
        """What may be reached here."""
        rules = [
            "good.example:@TLS@",
            "good.example:@HTTP@",
            "*.wild.example:@TLS@",
            "*.wild.example:@HTTP@",
            "*.addr.example:@INSIDE@",
            "plain.example",
        ]
        return ProxyPolicy(
            allow=tuple(parse_rule(self.fill(rule.encode()).decode()) for rule in rules),
            internal=(ipaddress.ip_network(f"{SITE_ADDRESS}/32"),),
            idle_s=20,
        )

    async def send(self, data: bytes, **policy: object) -> bytes:
        """Send bytes by a door of their own, and read to the end."""
        async with self.door(**policy) as door:
            return await send_raw(door.directory, self.fill(data))

    async def send_in_tunnel(self, authority: str, data: bytes) -> bytes:
        """Send bytes in a tunnel, end our side, and read to the end what comes in it."""
        raw = self.fill(authority.encode())
        async with (
            self.door() as door,
            connect(door.directory) as (reader, writer),
            asyncio.timeout(ANSWER_S),
        ):
            writer.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (raw, raw))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            writer.write(self.fill(data))
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
                return await reader.read(-1)
            return b""

    def look_up(self, host: str) -> tuple[IpAddress, ...]:
        """DNS, as far as these tests have one; like the system's it runs in threads."""
        self.asked.append(host)
        answer = self.addresses.get(host, (SITE_ADDRESS,))
        self.addresses.update(self.later.pop(host, {}))
        return answer

    def set_addresses(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """What these names resolve to from now on."""
        self.addresses |= {name: _parse(several) for name, several in addresses.items()}

    @contextlib.contextmanager
    def addresses_are(
        self, addresses: Mapping[str, Iterable[str]], *, then: Iterable[str] = ()
    ) -> Iterator[None]:
        """What these names resolve to meanwhile; `then` from the second time on, if given."""
        kept = dict(self.addresses)
        self.set_addresses(addresses)
        if later := _parse(then):
            self.later = {name: {name: later} for name in addresses}
        try:
            yield
        finally:
            self.addresses, self.later = kept, {}


def _parse(addresses: Iterable[str]) -> tuple[IpAddress, ...]:
    return tuple(ipaddress.ip_address(one) for one in addresses)


@contextlib.asynccontextmanager
async def open_rig(
    directory: Path,
    *,
    book: DayBook | None = None,
    rewrite_headers: RewriteHeaders | None = None,
    opens: Callable[[ssl.SSLContext], Interceptor] | None = None,
) -> AsyncIterator[Rig]:
    """Sites at 127.0.0.77, a witness at one port of every address of this host, an API.

    `opens` makes an interceptor from the context of a server for the site's names.
    """
    authority = make_authority(directory)
    context = authority.server_context("good.example", "*.wild.example", "*.addr.example")
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tls = await enter(open_site(context, address=str(SITE_ADDRESS)))
        plain = await enter(open_site(address=str(SITE_ADDRESS)))
        inside = await enter(_open_everywhere())
        api = await enter(open_upstream())
        rig: Rig
        gateway = await enter(
            open_egress(
                upstream=api.url,
                credential=ApiKey(SecretStr(REAL_KEY)),
                means=ProxyMeans(
                    book=book or MemoryDayBook(),
                    lookup=lambda host: rig.look_up(host),
                    tls=authority.client_context(),
                    interceptor=opens(context) if opens else None,
                    rewrite_headers=rewrite_headers,
                ),
            )
        )
        rig = Rig(gateway, directory, authority, tls, plain, api, inside)
        gateway.listen_for_denied_hosts(lambda _slug, target: rig.denied.append(target))
        stack.enter_context(_noting_dials(rig.dialed.append))
        yield rig


@contextlib.asynccontextmanager
async def _open_everywhere() -> AsyncIterator[Site]:
    """A witness on every address of this host, of both families where it has both."""
    sock = socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("", 0))
    async with open_site(sock=sock) as site:
        yield site


@contextlib.contextmanager
def _noting_dials(note: Callable[[str], None]) -> Iterator[None]:
    """Tell of each address that the gateway connects to; it does so all the same."""
    real = dialer._connect

    async def connect_noted(address: IpAddress, port: int) -> socket.socket:
        note(f"{address} {port}")
        return await real(address, port)

    dialer._connect = connect_noted
    try:
        yield
    finally:
        dialer._connect = real
