"""A room with a secret: a live gateway that intercepts, TLS servers behind it, a client inside it.

Names are resolved to loopback; every server has a port of its own, so rules name the ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from orchestrator.core.egress_rules import HostRule, parse_rule
from orchestrator.core.proxy_policy import IpAddress, ProxyPolicy
from orchestrator.core.room_secret import RoomSecret
from orchestrator.core.surrogate import make_surrogates
from orchestrator.egress.authority import Authority, load_or_make_authority
from orchestrator.egress.gateway import (
    ApiKey,
    EgressGateway,
    ProxyMeans,
    RoomDoor,
    open_egress,
)
from orchestrator.egress.interceptor import TlsInterceptor
from orchestrator.model import InstallationId, RoomSlug
from tests.support.egress import ANSWER_S, connect, room_door
from tests.support.tls_site import Authority as SiteAuthority
from tests.support.tls_site import Site, make_authority, open_site

VALUE = "ghp_Zq3vXw8Yt5Rb2Nm7Kj4Hg6Fd9Sa1Po0Iu3Q"
OTHER_VALUE = "glpat-Lk4jHg7fDs2aQw9eRt6y"
NAMED, SUB, OTHER, TUNNELLED = "api.example", "x.api.example", "other.example", "raw.example"
"""Has the secret; a name below it; is intercepted without a secret; is not intercepted."""
_KEY = b"key of the tests" * 2
_HERE = InstallationId("0123456789abcdef")
_LOOPBACK = ipaddress.ip_network("127.0.0.1/32")


@dataclass(slots=True)
class SecretRoom:
    """The gateway with two rooms, and everything behind them."""

    gateway: EgressGateway
    door: RoomDoor
    neighbour: RoomDoor
    authority: Authority
    sites: dict[str, Site] = field(default_factory=dict)
    plain: Site = field(default_factory=Site)

    @property
    def surrogate(self) -> str:
        """Of the secret for `NAMED`."""
        return self.door.secrets[0].surrogate

    @property
    def other_surrogate(self) -> str:
        """Of the secret for `OTHER` (which this room has, too)."""
        return self.door.secrets[1].surrogate

    def seen(self) -> bytes:
        """All that any server was sent."""
        sites = [*self.sites.values(), self.plain]
        return b"".join(part for site in sites for part in (*site.heads, *site.bodies))

    def trust(self, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """A client that trusts the installation's CA alone."""
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    @contextlib.asynccontextmanager
    async def tunnel(
        self,
        host: str = NAMED,
        *,
        port: int | None = None,
        name: str | None = None,
        context: ssl.SSLContext | None = None,
        door: RoomDoor | None = None,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A tunnel to a host, with the client's TLS in it."""
        port = port or self.sites[host].port
        async with (
            asyncio.timeout(ANSWER_S),
            connect((door or self.door).directory) as (reader, writer),
        ):
            target = f"{host}:{port}"
            writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in answer.partition(b"\r\n")[0] + b" ", answer
            await writer.start_tls(context or self.trust(), server_hostname=name or host)
            yield reader, writer

    async def ask(self, data: bytes, host: str = NAMED, *, door: RoomDoor | None = None) -> bytes:
        """Send bytes inside a tunnel; all that comes back until its end."""
        async with self.tunnel(host, door=door) as (reader, writer):
            return await send(reader, writer, data)


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send bytes, and read until the end."""
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()
    answer = b""
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            answer += piece
    return answer


def render(
    headers: Sequence[tuple[str, str]] = (),
    *,
    host: str,
    line: str = "GET / HTTP/1.1",
    body: bytes = b"",
    close: bool = True,
) -> bytes:
    """A request; `headers` come between Host and the rest."""
    lines = [line, f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {len(body)}"] if body else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextlib.asynccontextmanager
async def open_secret_room(
    directory: Path, *, bad: str | None = None, **limits: Any
) -> AsyncIterator[SecretRoom]:
    """The whole of it; with `bad` the server with the secret has such a certificate.

    `limits` are laid over the rooms' policy.
    """
    trusted = make_authority(directory)
    named = None if bad is None else bad_context(trusted, bad)
    state = directory / "state"
    state.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        sites = {
            host: await stack.enter_async_context(
                open_site(named if named and host == NAMED else trusted.server_context(host))
            )
            for host in (NAMED, SUB, OTHER, TUNNELLED)
        }
        plain = await stack.enter_async_context(open_site())
        rules = {host: parse_rule(f"{host}:{site.port}") for host, site in sites.items()}
        intercept = tuple(rule for host, rule in rules.items() if host != TUNNELLED)
        authority = load_or_make_authority(state, intercept)
        gateway = await stack.enter_async_context(
            open_egress(
                upstream="http://127.0.0.1:9",
                credential=ApiKey(SecretStr("k" * 20)),
                means=ProxyMeans(
                    lookup=_look_up,
                    tls=trusted.client_context(),
                    interceptor=TlsInterceptor(authority),
                ),
            )
        )
        in_clear = parse_rule(f"plain.example:{plain.port}")
        more = tuple(parse_rule(f"{host}:{plain.port}") for host in (OTHER, NAMED))
        # A host with the secret at another server's port: reachable, opened, and not for it.
        elsewhere = parse_rule(f"{NAMED}:{sites[OTHER].port}")
        policy = ProxyPolicy(
            internal=(_LOOPBACK,),
            hosts={NAMED: ipaddress.ip_address("127.0.0.1")},
            allow=(*rules.values(), in_clear, *more, elsewhere),
            intercept=(*intercept, elsewhere),
        )
        policy = replace(policy, **limits)
        hosts = (rules[NAMED], in_clear)
        doors = [
            replace(
                room_door(directory / slug, slug=slug),
                proxy=policy,
                secrets=_secrets(slug, hosts, (rules[OTHER],)),
            )
            for slug in ("room-a", "room-b")
        ]
        for door in doors:
            await gateway.open_door(door)
        yield SecretRoom(gateway, doors[0], doors[1], authority, sites, plain)


def _secrets(slug: str, *hosts: tuple[HostRule, ...]) -> tuple[RoomSecret, ...]:
    values = {"A_TOKEN": VALUE, "B_TOKEN": OTHER_VALUE}
    made = make_surrogates(values, key=_KEY, installation=_HERE, slug=RoomSlug(slug))
    return tuple(
        RoomSecret(name=name, surrogate=made[name], value=values[name], hosts=rules)
        for name, rules in zip(values, hosts, strict=True)
    )


def _look_up(_host: str) -> tuple[IpAddress, ...]:
    return (ipaddress.ip_address("127.0.0.1"),)


def bad_context(trusted: SiteAuthority, kind: str) -> ssl.SSLContext:
    """A server's context that must not be believed: expired, early, other_name, self_signed."""
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    begin, end = {"expired": (now - 9 * day, now - day), "early": (now + day, now + 9 * day)}.get(
        kind, (now - day, now + day)
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = "evil.example" if kind == "other_name" else NAMED
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_own = kind == "self_signed"
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if is_own else trusted.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key if is_own else trusted.key, hashes.SHA256())
    )
    path = trusted.directory / f"{kind}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
