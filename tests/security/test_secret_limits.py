"""An opened tunnel is held to the room's limits as any other, on each of its requests."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from orchestrator.core.egress_rules import parse_rule
from orchestrator.egress import interceptor, proxy
from tests.support.egress import connect, status_of
from tests.support.secret_room import NAMED, VALUE, SecretRoom, open_secret_room, render, send


def request(room: SecretRoom, *, close: bool = False) -> bytes:
    host = f"{NAMED}:{room.sites[NAMED].port}"
    return render([("X-Key", room.surrogate)], host=host, close=close)


async def test_a_spent_day_ends_the_requests_in_an_opened_tunnel(tmp_path: Path) -> None:
    async with open_secret_room(tmp_path, bytes_per_day=20_000) as room:
        site = room.sites[NAMED]
        body = b"x" * 6000
        site.answers += [b"HTTP/1.1 200 OK\r\nContent-Length: 6000\r\n\r\n" + body] * 9
        async with room.tunnel() as (reader, writer):
            answer = await send(reader, writer, request(room) * 9)
        assert 1 <= answer.count(body) <= 3
        assert len(site.heads) < 9
        assert room.gateway.stats(room.door.slug).proxy.bytes_down < 20_000
        # The neighbour has its own day.
        assert status_of(await room.ask(request(room, close=True), door=room.neighbour)) == 200


async def test_an_opened_tunnel_in_which_nobody_asks_ends(tmp_path: Path) -> None:
    async with open_secret_room(tmp_path, idle_s=0.2) as room, room.tunnel() as (reader, _):
        assert await reader.read(-1) == b""


async def test_an_opened_tunnel_takes_one_of_the_rooms_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_PLACE_S", 0.1)
    async with open_secret_room(tmp_path, connections=1) as room, room.tunnel() as (reader, writer):
        target = f"{NAMED}:{room.sites[NAMED].port}"
        async with connect(room.door.directory) as (second, asking):
            asking.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            assert status_of(await second.read(-1)) == 503
        assert status_of(await send(reader, writer, request(room, close=True))) == 200


async def test_a_grant_that_has_ended_ends_in_an_open_tunnel_too(tmp_path: Path) -> None:
    async with open_secret_room(tmp_path, allow=()) as room:
        rule = parse_rule(f"{NAMED}:{room.sites[NAMED].port}")
        room.gateway.set_grants(room.door.slug, [rule])
        async with room.tunnel() as (reader, writer):
            writer.write(request(room))
            await reader.readuntil(b"reach\n")
            room.gateway.set_grants(room.door.slug, [])
            assert status_of(await send(reader, writer, request(room))) == 403
        assert len(room.sites[NAMED].heads) == 1


async def test_a_client_that_says_hello_and_nothing_more_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "_HANDSHAKE_S", 0.2)
    async with open_secret_room(tmp_path) as room:
        outgoing = ssl.MemoryBIO()
        tls = room.trust().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAMED)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        target = f"{NAMED}:{room.sites[NAMED].port}"
        async with asyncio.timeout(30), connect(room.door.directory) as (reader, writer):
            writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(outgoing.read())
            await reader.read(-1)
        assert room.sites[NAMED].connections == 0


async def test_a_head_that_is_never_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "_HEAD_S", 0.2)
    async with open_secret_room(tmp_path) as room:
        assert status_of(await room.ask(request(room)[:-2])) == 408
        assert room.seen() == b""


async def test_a_failure_of_ours_sends_nothing_and_ends_the_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(VALUE)

    async with open_secret_room(tmp_path) as room:
        monkeypatch.setattr(proxy.RoomProxy, "seal", fail)
        assert await room.ask(request(room)) == b""
        assert room.seen() == b""
        monkeypatch.undo()
        assert status_of(await room.ask(request(room, close=True))) == 200
