"""What is allowed passes, whole and unchanged, and within its bounds."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.core.egress_rules import Target, parse_rule
from orchestrator.core.proxy_policy import IpAddress, ProxyPolicy
from orchestrator.egress.gateway import EgressGateway, ProxyMeans, RoomDoor, open_egress
from orchestrator.model import RoomSlug
from tests.support.egress import ApiKey, SecretStr, connect, room_door, send_raw, status_of
from tests.support.tls_site import Authority, make_authority, open_site


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@dataclass(frozen=True, slots=True)
class Room:
    gateway: EgressGateway
    door: RoomDoor
    denied: list[Target]
    asked: list[str]

    async def send(self, data: bytes) -> bytes:
        return await send_raw(self.door.directory, data)


@contextlib.asynccontextmanager
async def open_room(directory: Path, **policy: object) -> AsyncIterator[Room]:
    loopback = ipaddress.ip_network("127.0.0.1/32")
    usual = ProxyPolicy(internal=(loopback,))
    denied: list[Target] = []
    asked: list[str] = []

    def look_up(host: str) -> tuple[IpAddress, ...]:
        asked.append(host)
        return (ipaddress.ip_address("127.0.0.1"),)

    async with open_egress(
        upstream="http://127.0.0.1:9",
        credential=ApiKey(SecretStr("k")),
        means=ProxyMeans(lookup=look_up),
    ) as gateway:
        door = replace(room_door(directory), proxy=replace(usual, **policy))  # type: ignore[arg-type]
        gateway.listen_for_denied_hosts(lambda _slug, target: denied.append(target))
        await gateway.open_door(door)
        yield Room(gateway, door, denied, asked)


async def test_plain_http_passes_in_origin_form(tmp_path: Path) -> None:
    async with open_site() as site:
        rule = parse_rule(f"a.example:{site.port}")
        async with open_room(tmp_path / "a", allow=(rule,)) as room:
            host = f"a.example:{site.port}"
            answer = await room.send(
                f"GET http://{host}/x?y HTTP/1.1\r\nHost: {host}\r\nX-A: b\r\n"
                "Proxy-Authorization: Basic abc\r\nProxy-Connection: keep-alive\r\n\r\n".encode()
            )
    assert status_of(answer) == 200
    assert answer.endswith(b"reach\n")
    assert site.heads == [
        f"GET /x?y HTTP/1.1\r\nhost: {host}\r\nx-a: b\r\nconnection: close\r\n\r\n".encode()
    ]


async def test_a_tunnel_carries_tls_to_the_named_host(tmp_path: Path, authority: Authority) -> None:
    async with open_site(authority.server_context("a.example")) as site:
        host = f"a.example:{site.port}"
        async with (
            open_room(tmp_path / "a", allow=(parse_rule(host),)) as room,
            connect(room.door.directory) as (reader, writer),
        ):
            writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await writer.start_tls(authority.client_context(), server_hostname="a.example")
            writer.write(b"GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            assert (await reader.read(-1)).endswith(b"reach\n")
    assert len(site.heads) == 1


async def test_a_host_that_is_not_listed_is_refused_with_words_and_told(tmp_path: Path) -> None:
    async with open_site() as site, open_room(tmp_path / "a") as room:
        host = f"a.example:{site.port}"
        answer = await room.send(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert status_of(answer) == 403
        assert f"{host} may not be reached from this room".encode() in answer
        assert [str(t) for t in room.denied] == [host]
        assert room.asked == []
        room.gateway.set_grants(RoomSlug("room-a"), [parse_rule(host)])
        answer = await room.send(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert status_of(answer) == 200
    assert site.connections == 1
