"""What goes through a connection that was allowed: nothing else rides along.

The second hello of a tunnel, the chunks of a body, the headers of a request, what is behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.core.egress_rules import parse_rule
from tests.security.egress_bypass_heads import connect, get
from tests.support.client_hello import hello_message, plain_hello, records, server_name
from tests.support.egress import PLACEHOLDER, REAL_KEY, build_request
from tests.support.egress import connect as connect_to
from tests.support.proxy_rig import Rig, open_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def open_module_rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


# ---- after the first hello


async def _in_tunnel_after_hello(rig: Rig, *pieces: bytes) -> bytes:
    """What a server that records everything gets of a hello and what follows it."""
    got = bytearray()
    arrived, over = asyncio.Event(), asyncio.Event()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            got.extend(data)
            arrived.set()
        over.set()
        writer.close()

    server = await asyncio.start_server(record, "127.0.0.77", 0)
    port = server.sockets[0].getsockname()[1]
    first = plain_hello(b"good.example")
    async with (
        server,
        rig.door(allow=(parse_rule(f"good.example:{port}"),)) as door,
        connect_to(door.directory) as (reader, writer),
        asyncio.timeout(20),
    ):
        writer.write(connect(f"good.example:{port}"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        await arrived.wait()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        await over.wait()
    return bytes(got[len(first) :])


_CCS = b"\x14\x03\x03\0\1\1"
_ALERT = b"\x15\x03\x03\0\2\1\x5a"
_EVIL = plain_hello(b"evil.example")


@pytest.mark.parametrize(
    ("pieces", "passed"),
    [
        ((_EVIL,), b""),
        ((_CCS, _EVIL), _CCS),
        ((_CCS + _EVIL,), _CCS),
        ((_CCS + _CCS + _EVIL,), _CCS + _CCS),
        ((_EVIL[:1], _EVIL[1:]), b""),
        ((_EVIL[:6], _EVIL[6:]), b""),
        ((records(hello_message(server_name(b"evil.example")), 1, 2, 3),), b""),
        ((records(hello_message()),), b""),
        ((b"\x14\x03\x03\0\2\1\1" + _EVIL,), b""),
        ((_ALERT, _EVIL), _ALERT),
        ((_ALERT + _CCS + _ALERT + _EVIL,), _ALERT + _CCS + _ALERT),
        ((_ALERT[:6], _ALERT[6:] + _EVIL), _ALERT),
        ((b"\x15\x03\x03\0\0" + _EVIL,), b""),
        ((b"\x16\x03\x03\0\0" + _EVIL,), b""),
        ((b"\x18\x03\x03\0\3\1\0\0" + _EVIL,), b""),
        (
            (
                records(
                    hello_message((21, bytes(20_000)), ciphers=bytes(60_000)),
                    *range(16_000, 80_001, 16_000),
                ),
            ),
            b"",
        ),
    ],
    ids=[
        "another name",
        "after a change of ciphers",
        "in one write with a change of ciphers",
        "after two changes of ciphers",
        "cut after a byte",
        "cut after six bytes",
        "in records of one byte",
        "without a name",
        "after a malformed change of ciphers",
        "after an alert",
        "after alerts and a change of ciphers",
        "after an alert in two pieces",
        "after an empty alert",
        "after an empty record",
        "after a record of no kind",
        "of 70 KB",
    ],
)
async def test_a_second_hello_that_names_another_server_does_not_leave(
    rig: Rig, pieces: tuple[bytes, ...], passed: bytes
) -> None:
    # What is read together with the hello goes nowhere, either.
    assert await _in_tunnel_after_hello(rig, *pieces) in {b"", passed}


@pytest.mark.parametrize(
    "pieces",
    [
        (plain_hello(b"good.example"),),
        (_CCS, plain_hello(b"good.example")),
        (_CCS + b"\x17\x03\x03\0\1a",),
        (b"\x16\x03\x03\0\4\x10\0\0\0" + _CCS + b"\x16\x03\x03\0\4\1\0\0\0",),
        (b"\x15\x03\x03\0\2\1\0",),
        (_ALERT, plain_hello(b"good.example")),
        (_CCS, b"\x15\x03\x03\0\x20" + bytes(32)),
    ],
    ids=[
        "a second hello",
        "after a change of ciphers",
        "TLS 1.3",
        "TLS 1.2",
        "an alert",
        "a second hello after an alert",
        "an encrypted alert",
    ],
)
async def test_what_a_client_says_after_its_hello_passes_unchanged(
    rig: Rig, pieces: tuple[bytes, ...]
) -> None:
    assert await _in_tunnel_after_hello(rig, *pieces) == b"".join(pieces)


# ---- bodies, once the head was allowed


@pytest.mark.parametrize(
    "body",
    [
        b"5;a=b\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"1_0\r\nhello\r\n0\r\n\r\n",
        b"fffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
    ],
    ids=[
        "an extension",
        "line ends of LF",
        "a plus",
        "a minus",
        "0x",
        "a space before",
        "a space behind",
        "an underscore",
        "nine digits",
        "a chunk that is too long",
        "a chunk's end turned round",
        "a chunk without an end",
        "a trailer",
        "a trailer without a colon",
        "no size",
        "a size that is none",
    ],
)
async def test_a_body_in_odd_chunks_ends_the_request_and_brings_no_second_one(
    rig: Rig, body: bytes
) -> None:
    before = len(rig.plain.heads), rig.inside.connections
    second = rig.fill(get("http://127.0.0.1:@INSIDE@/", "127.0.0.1:@INSIDE@"))
    head = get(
        "http://good.example:@HTTP@/", more=b"Transfer-Encoding: chunked\r\n", method=b"POST"
    )
    answer = await rig.send(head + body + second)
    assert answer == b""
    assert rig.inside.connections == before[1]
    assert len(rig.plain.heads) <= before[0] + 1
    assert not any(b"hello" in got for got in rig.plain.bodies[before[0] :])


async def test_what_follows_a_request_is_not_served(rig: Rig) -> None:
    heads, inside = len(rig.plain.heads), rig.inside.connections
    more = get("http://127.0.0.1:@INSIDE@/", "127.0.0.1:@INSIDE@") + get(
        "http://good.example:@HTTP@/second"
    )
    answer = await rig.send(get("http://good.example:@HTTP@/") + more)
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    assert len(rig.plain.heads) == heads + 1
    assert rig.inside.connections == inside


async def test_an_api_request_can_not_ride_behind_a_proxied_one_nor_get_its_key_there(
    rig: Rig,
) -> None:
    seen = len(rig.api.seen)
    answer = await rig.send(get("http://good.example:@HTTP@/") + build_request())
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    assert len(rig.api.seen) == seen
    assert REAL_KEY.encode() not in b"".join(rig.plain.heads)


async def test_the_upstream_of_the_api_is_reached_by_name_without_the_key(rig: Rig) -> None:
    """Named, it is a host as any other: what a room brings along is all that it gets."""
    loopback = ipaddress.ip_network("127.0.0.1/32")
    host = rig.fill(b"api.wild.example:@API@").decode()
    with rig.addresses_are({"api.wild.example": ["127.0.0.1"]}):
        await rig.send(
            get(f"http://{host}/v1/models", host, b"x-api-key: %b\r\n" % PLACEHOLDER.encode()),
            allow=(parse_rule(host),),
            internal=(loopback,),
        )
    assert rig.api.seen[-1].headers["x-api-key"] == PLACEHOLDER
    assert REAL_KEY not in str(rig.api.seen[-1].raw_headers)
    rig.api.seen.pop()


async def test_headers_for_a_proxy_and_for_one_connection_do_not_leave(rig: Rig) -> None:
    await rig.send(
        get(
            "http://good.example:@HTTP@/",
            more=b"Proxy-Authorization: Basic a\r\nProxy-Connection: close\r\nproxy-x: y\r\n"
            b"Keep-Alive: 5\r\nX-Forwarded-Host: evil.example\r\n",
        )
    )
    head = rig.plain.heads[-1].lower()
    assert b"proxy" not in head
    assert b"keep-alive" not in head
    assert head.count(b"host:") == 2
    assert b"\r\nhost: good.example:" in head
