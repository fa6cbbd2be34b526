"""What is allowed passes the proxy whole; it may be told of, and holds for new connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loguru import logger

from orchestrator.core.egress_rules import parse_rule
from orchestrator.egress.gateway import RoomDoor
from tests.security.egress_bypass_heads import connect, get
from tests.support.client_hello import plain_hello
from tests.support.egress import ANSWER_S, send_raw, status_of
from tests.support.egress import connect as connect_to
from tests.support.proxy_rig import Rig, open_rig
from tests.support.shim import until

GOOD = "http://good.example:@HTTP@/"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path) as opened:
        yield opened


@dataclass(slots=True)
class Stream:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, data: bytes, until: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readuntil(until)


@contextlib.asynccontextmanager
async def open_tunnel(
    rig: Rig, door: RoomDoor, host: str = "good.example"
) -> AsyncIterator[Stream]:
    """A tunnel to the site with the client's TLS inside."""
    async with asyncio.timeout(ANSWER_S), connect_to(door.directory) as (reader, writer):
        writer.write(rig.fill(connect("good.example:@TLS@")))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        context = rig.authority.client_context()
        await writer.start_tls(context, server_hostname="good.example")
        yield Stream(reader, writer)


# ---- plain HTTP, as it is passed on


async def test_a_request_arrives_in_origin_form_with_the_headers_that_are_the_targets(
    rig: Rig,
) -> None:
    answer = await rig.send(get(f"{GOOD}x?y", more=b"X-A: b\r\nProxy-Authorization: c\r\n"))
    assert status_of(answer) == 200
    assert answer.endswith(b"reach\n")
    host = rig.fill(b"good.example:@HTTP@")
    assert rig.plain.heads == [
        b"GET /x?y HTTP/1.1\r\nhost: %b\r\nx-a: b\r\nconnection: close\r\n\r\n" % host
    ]


@pytest.mark.parametrize(
    ("more", "body", "arrives"),
    [
        (b"Content-Length: 5\r\n", b"hello", b"hello"),
        (b"Content-Length: 0\r\n", b"", b""),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"Content-Length: 300000\r\n", b"a" * 300_000, b"a" * 300_000),
    ],
    ids=["with a length", "empty", "in chunks", "large"],
)
async def test_a_body_arrives_whole(rig: Rig, more: bytes, body: bytes, arrives: bytes) -> None:
    answer = await rig.send(get(GOOD, more=more, method=b"POST") + body)
    assert status_of(answer) == 200
    assert rig.plain.bodies == [arrives]


async def test_a_client_that_waits_for_a_100_gets_it_from_the_proxy(rig: Rig) -> None:
    head = get(GOOD, more=b"Expect: 100-continue\r\nContent-Length: 5\r\n", method=b"PUT")
    async with rig.door() as door, connect_to(door.directory) as (reader, writer):
        stream = Stream(reader, writer)
        async with asyncio.timeout(ANSWER_S):
            told = await stream.ask(rig.fill(head), b"\r\n\r\n")
            assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hello")
            assert status_of(await reader.read(-1)) == 200
    assert rig.plain.bodies == [b"hello"]
    assert b"expect" not in rig.plain.heads[0].lower()


@pytest.mark.parametrize(
    ("given", "method", "ends"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"GET", b"\r\n\r\nhi"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            b"GET",
            b"2\r\nhi\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nhi", b"GET", b"2\r\nhi\r\n0\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", b"\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"GET", b"\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"HEAD", b"\r\n\r\n"),
        (
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"GET",
            b"\r\n\r\nhi",
        ),
    ],
    ids=["length", "chunks", "to the end", "204", "304", "HEAD", "after hints"],
)
async def test_an_answer_arrives_whole_whatever_its_framing(
    rig: Rig, given: bytes, method: bytes, ends: bytes
) -> None:
    rig.plain.answers.append(given)
    rig.plain.closes = True
    answer = await rig.send(get(GOOD, method=method))
    assert status_of(answer) in {200, 204, 304}
    assert answer.endswith(ends)
    assert b"connection: close\r\n" in answer.lower()


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", 200),
        (b"", 502),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", 502),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 502),
    ],
    ids=["cut", "cut chunks", "nothing", "no HTTP", "a huge head", "two lengths", "an upgrade"],
)
async def test_a_broken_answer_is_never_given_as_a_whole_one(
    rig: Rig, given: bytes, status: int
) -> None:
    rig.plain.answers.append(given)
    rig.plain.closes = True
    answer = await rig.send(get(GOOD))
    assert status_of(answer) == status
    if status == 200:
        assert b"content-length: 9" in answer or not answer.endswith(b"0\r\n\r\n")


async def test_headers_of_the_connection_to_the_target_are_not_passed_back(rig: Rig) -> None:
    rig.plain.answers.append(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: 5\r\n"
        b"Connection: x-hop\r\nX-Hop: a\r\n"
        b'Alt-Svc: h3=":443"\r\nProxy-Authenticate: Basic\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n'
    )
    answer = (await rig.send(get(GOOD))).lower()
    for gone in (b"keep-alive", b"x-hop", b"alt-svc", b"proxy-"):
        assert gone not in answer
    assert answer.count(b"set-cookie") == 2


async def test_a_target_that_can_not_be_connected_to_is_told_so(rig: Rig) -> None:
    rig.plain.server.close()
    answer = await rig.send(get(GOOD))
    assert status_of(answer) == 502
    assert b"could not be connected to" in answer


# ---- tunnels


async def test_a_tunnel_carries_both_ways_and_is_logged_once_without_what_it_carried(
    rig: Rig,
) -> None:
    with logged() as lines:
        async with rig.door() as door:
            async with open_tunnel(rig, door) as tunnel:
                for path in (b"/one", b"/two-secret"):
                    got = await tunnel.ask(b"GET %b HTTP/1.1\r\n\r\n" % path, b"reach\n")
                    assert b" 200 " in got
            await until(lambda: not rig.gateway.stats(door.slug).proxy.open)
            stats = rig.gateway.stats(door.slug).proxy
    assert (stats.allowed, stats.denied, stats.open) == (1, 0, 0)
    assert stats.bytes_up > 300
    assert stats.bytes_down > 300
    (line,) = [one for one in lines if one["action"] == "egress_proxy"]
    assert line["host"] == "good.example"
    assert (line["room"], line["port"]) == (door.slug, rig.tls.port)
    assert (line["scheme"], line["method"], line["decision"]) == ("https", "CONNECT", "allowed")
    assert (line["bytes_up"], line["bytes_down"]) == (stats.bytes_up, stats.bytes_down)
    assert "secret" not in str(lines)


async def test_the_log_of_a_plain_request_has_no_path_and_no_query(rig: Rig) -> None:
    with logged() as lines:
        await rig.send(get(f"{GOOD}secret-path?secret-query", more=b"X: secret-header\r\n"))
    (line,) = [one for one in lines if one["action"] == "egress_proxy"]
    assert (line["scheme"], line["method"], line["ended_by"]) == ("http", "GET", "end")
    assert "secret" not in str(lines)


async def test_a_side_that_has_ended_still_gets_what_the_other_says(rig: Rig) -> None:
    """Half-close: a client that has said everything waits for the answer."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(await reader.read(-1))
        writer.write(b"%d" % size)
        writer.close()

    hello = plain_hello(b"good.example")
    server = await asyncio.start_server(late, "127.0.0.77", 0)
    port = server.sockets[0].getsockname()[1]
    rule = parse_rule(f"good.example:{port}")
    async with (
        server,
        asyncio.timeout(ANSWER_S),
        rig.door(allow=(rule,)) as door,
        connect_to(door.directory) as (reader, writer),
    ):
        writer.write(connect(f"good.example:{port}"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(hello)
        writer.write_eof()
        assert await reader.read(-1) == b"%d" % len(hello)


async def test_python_3_11_which_says_http_1_0_and_names_no_host_gets_its_tunnel(rig: Rig) -> None:
    async with rig.door() as door:
        head = rig.fill(b"CONNECT good.example:@TLS@ HTTP/1.0\r\n\r\n")
        assert status_of(await send_raw(door.directory, head, half_close=True)) == 200


async def test_a_tunnel_to_nobody_ends_with_an_alert(rig: Rig) -> None:
    rig.tls.server.close()
    hello = plain_hello(b"good.example")
    assert await rig.send_in_tunnel("good.example:@TLS@", hello) == b"\x15\x03\x03\0\2\2\x50"


# ---- who is asked, and what is granted


async def test_a_refused_host_is_told_and_what_is_granted_holds_from_then_on(rig: Rig) -> None:
    async with rig.door(allow=()) as door:
        asked = rig.fill(get(GOOD))
        answer = await send_raw(door.directory, asked)
        assert status_of(answer) == 403
        assert b"Somebody who may approve can allow it in the room" in answer
        assert [str(target) for target in rig.denied] == [rig.fill(b"good.example:@HTTP@").decode()]
        rig.gateway.set_grants(door.slug, [parse_rule(str(rig.denied[0]))])
        assert status_of(await send_raw(door.directory, asked)) == 200
        rig.gateway.set_grants(door.slug, [])
        assert status_of(await send_raw(door.directory, asked)) == 403


async def test_where_the_room_is_not_asked_it_is_not_told(rig: Rig) -> None:
    answer = await rig.send(get(GOOD), allow=(), asks=False)
    assert status_of(answer) == 403
    assert b"from this room. The operator can allow it in egress.allow." in answer
    assert b"approve" not in answer
    assert rig.denied == []


async def test_what_is_malformed_is_told_to_nobody(rig: Rig) -> None:
    await rig.send(connect("evil.example.:443"))
    await rig.send(connect("evil.example:443") + b"early")
    await rig.send(get("http://evil.example/", "other.example"))
    assert rig.denied == []


# ---- the seam where TLS is opened (what opens it is tried in test_secrets.py)


async def test_a_host_whose_tls_is_to_be_opened_is_not_tunnelled_where_nobody_opens_it(
    rig: Rig,
) -> None:
    rule = parse_rule(rig.fill(b"good.example:@TLS@").decode())
    async with (
        rig.door(intercept=(rule,)) as door,
        connect_to(door.directory) as (reader, writer),
        asyncio.timeout(ANSWER_S),
    ):
        writer.write(rig.fill(connect("good.example:@TLS@")))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(plain_hello(b"good.example"))
        assert await reader.read(-1) == b"\x15\x03\x03\0\2\2\x50"
    assert rig.tls.connections == 0


@contextlib.contextmanager
def logged() -> Iterator[list[dict[str, object]]]:
    """The fields of all lines that are logged meanwhile."""
    lines: list[dict[str, object]] = []
    sink = logger.add(lambda message: lines.append(dict(message.record["extra"])), level="DEBUG")
    try:
        yield lines
    finally:
        logger.remove(sink)
