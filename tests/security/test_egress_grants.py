"""What was granted ends for connections that are open, too: none outlives what allowed it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.proxy_policy import ProxyPolicy
from orchestrator.egress.gateway import EgressGateway, ProxyMeans, open_egress
from orchestrator.model import RoomSlug
from tests.support.egress import ApiKey, SecretStr, connect, room_door
from tests.support.tls_site import make_authority, open_site

SLUG = RoomSlug("room-a")
LOOPBACK = ipaddress.ip_network("127.0.0.1/32")
REQUEST = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"


@contextlib.asynccontextmanager
async def open_room(directory: Path) -> AsyncIterator[EgressGateway]:
    means = ProxyMeans(lookup=lambda _: (ipaddress.ip_address("127.0.0.1"),))
    key = ApiKey(SecretStr("k"))
    async with open_egress(upstream="http://127.0.0.1:9", credential=key, means=means) as gateway:
        hosts = {"a.example": ipaddress.ip_address("127.0.0.1")}
        policy = ProxyPolicy(internal=(LOOPBACK,), hosts=hosts)
        await gateway.open_door(replace(room_door(directory), proxy=policy))
        yield gateway


@pytest.mark.parametrize("is_other", [False, True])
async def test_a_tunnel_moves_nothing_more_once_its_grant_has_ended(
    tmp_path: Path, *, is_other: bool
) -> None:
    authority = make_authority(tmp_path)
    async with open_site(authority.server_context("a.example")) as site:
        host = f"a.example:{site.port}"
        other = parse_rule("b.example")
        async with (
            open_room(tmp_path / "a") as gateway,
            connect(tmp_path / "a") as (reader, writer),
        ):
            gateway.set_grants(SLUG, [parse_rule(host), other])
            writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await writer.start_tls(authority.client_context(), server_hostname="a.example")
            writer.write(REQUEST)
            assert (await reader.readexactly(6 + len(_HEAD))).endswith(b"reach\n")
            gateway.set_grants(SLUG, [other] if is_other else [])
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    writer.write(REQUEST)
                    await writer.drain()
                    assert await reader.read(-1) == b""
        assert len(site.heads) == 1


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/plain\r\n\r\n"


async def test_a_plain_request_moves_nothing_more_once_its_grant_has_ended(
    tmp_path: Path,
) -> None:
    async with open_site() as site:
        host = f"a.example:{site.port}"
        async with (
            open_room(tmp_path / "a") as gateway,
            connect(tmp_path / "a") as (reader, writer),
        ):
            gateway.set_grants(SLUG, [parse_rule(host)])
            head = f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 200\r\n\r\n"
            writer.write(head.encode() + b"a" * 100)
            async with asyncio.timeout(20):
                while not site.heads:  # noqa: ASYNC110 - the site has no event
                    await asyncio.sleep(0.01)
            gateway.set_grants(SLUG, [])
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    writer.write(b"b" * 100)
                    assert b"reach" not in await reader.read(-1)
        assert site.bodies == []
