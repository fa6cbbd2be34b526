"""Attempts to reach what a room may not: each is refused, and reaches nobody.

Every attempt goes through a real door (its unix socket, its gateway). Everywhere that one could
arrive, somebody listens and counts; and every address that the gateway connects to is noted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from orchestrator.core.egress_rules import Scheme, parse_rule
from orchestrator.core.proxy_http import parse_authority
from tests.security.egress_bypass_corpus import ADDRESSES, NOT_LISTED, ODD_AUTHORITIES, REDIRECTS
from tests.security.egress_bypass_heads import ODD_HEADS, Attempt, connect, get
from tests.security.egress_bypass_hellos import HELLOS
from tests.support.client_hello import (
    hello_message,
    plain_hello,
    real_hello,
    records,
    server_name,
)
from tests.support.egress import REAL_KEY, room_door, send_raw, status_of
from tests.support.egress import connect as connect_to
from tests.support.proxy_rig import Rig, open_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Alerts in the clear: access denied, internal error.
_ALERTS = (b"\x15\x03\x03\x00\x02\x02\x31", b"\x15\x03\x03\x00\x02\x02\x50", b"")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def open_module_rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path_factory.mktemp("rig")) as rig:
        rig.set_addresses({f"n{i}.addr.example": each for i, (_, each) in enumerate(ADDRESSES)})
        yield rig


async def _refused(rig: Rig, data: bytes, status: int) -> bytes:
    """Send it; it gets this status, and nobody is reached."""
    before = rig.reached()
    answer = await rig.send(data)
    assert status_of(answer) == status, answer[:300]
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    assert rig.reached() == before
    assert REAL_KEY.encode() not in answer
    return answer


# ---- what is allowed does pass here, or the rest would show nothing


async def test_the_allowed_host_is_reached_through_a_tunnel(rig: Rig) -> None:
    before = rig.tls.connections
    async with rig.door() as door, connect_to(door.directory) as (reader, writer):
        writer.write(rig.fill(connect("GOOD.example:@TLS@")))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        context = rig.authority.client_context()
        await writer.start_tls(context, server_hostname="good.example")
        writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read(-1)).endswith(b"reach\n")
    assert rig.tls.connections == before + 1


@pytest.mark.parametrize("host", ["good.example", "a.wild.example", "a.b.wild.example"])
async def test_allowed_hosts_are_reached_in_clear(rig: Rig, host: str) -> None:
    answer = await rig.send(get(f"http://{host}:@HTTP@/", f"{host}:@HTTP@"))
    assert status_of(answer) == 200


@pytest.mark.parametrize(
    "hello",
    [
        real_hello("good.example"),
        plain_hello(b"good.example"),
        plain_hello(b"GOOD.Example"),
        records(hello_message(server_name(b"good.example")), 1, 40, 60),
    ],
    ids=["OpenSSL's", "a small one", "in upper case", "in four records"],
)
async def test_a_hello_that_names_the_host_is_passed_on(rig: Rig, hello: bytes) -> None:
    before = rig.tls.connections
    await rig.send_in_tunnel("good.example:@TLS@", hello)
    assert rig.tls.connections == before + 1


# ---- attempts


@pytest.mark.parametrize(("name", "authority"), ODD_AUTHORITIES, ids=lambda v: v if v else "-")
async def test_an_odd_authority_is_refused(rig: Rig, name: str, authority: str | bytes) -> None:
    del name
    asked = len(rig.asked)
    await _refused(rig, connect(authority), 400)
    assert len(rig.asked) == asked
    # Not for its Host header alone.
    filled = rig.fill(authority.encode() if isinstance(authority, str) else authority)
    assert parse_authority(filled.decode("latin-1"), Scheme.HTTPS, needs_port=True) is None


@pytest.mark.parametrize(("name", "authority"), NOT_LISTED)
async def test_a_tunnel_to_what_is_not_listed_is_refused(
    rig: Rig, name: str, authority: str
) -> None:
    del name
    asked, denied = len(rig.asked), len(rig.denied)
    answer = await _refused(rig, connect(authority), 403)
    assert b"may not be reached from this room" in answer
    assert len(rig.asked) == asked, "DNS is a way out, too"
    assert len(rig.denied) == denied + 1


@pytest.mark.parametrize(("name", "authority"), NOT_LISTED)
async def test_plain_http_to_what_is_not_listed_is_refused(
    rig: Rig, name: str, authority: str
) -> None:
    if name == "the port of plain HTTP, by CONNECT":
        authority = "plain.example:443"
    asked = len(rig.asked)
    await _refused(rig, get(f"http://{authority}/v1/messages", authority), 403)
    assert len(rig.asked) == asked


@pytest.mark.parametrize("number", range(len(ADDRESSES)), ids=[name for name, _ in ADDRESSES])
async def test_a_tunnel_to_a_name_with_such_an_address_is_refused(rig: Rig, number: int) -> None:
    answer = await _refused(rig, connect(f"n{number}.addr.example:@INSIDE@"), 403)
    assert b"an address that is not public" in answer


@pytest.mark.parametrize("number", range(len(ADDRESSES)), ids=[name for name, _ in ADDRESSES])
async def test_plain_http_to_a_name_with_such_an_address_is_refused(rig: Rig, number: int) -> None:
    host = f"n{number}.addr.example:@INSIDE@"
    await _refused(rig, get(f"http://{host}/", host), 403)


@pytest.mark.parametrize("attempt", ODD_HEADS, ids=lambda attempt: attempt.name)
async def test_an_odd_head_is_refused(rig: Rig, attempt: Attempt) -> None:
    await _refused(rig, attempt.data, attempt.status)


@pytest.mark.parametrize(("name", "hello"), HELLOS, ids=lambda v: v if isinstance(v, str) else "-")
async def test_what_is_no_hello_to_the_host_reaches_nobody(
    rig: Rig, name: str, hello: bytes
) -> None:
    del name
    before = rig.reached()
    assert await rig.send_in_tunnel("good.example:@TLS@", hello) in _ALERTS
    assert rig.reached() == before


@pytest.mark.parametrize(("name", "location", "status"), REDIRECTS)
async def test_a_redirect_is_passed_on_and_following_it_is_refused(
    rig: Rig, name: str, location: str, status: int
) -> None:
    del name
    target = rig.fill(location.encode())
    rig.plain.answers.append(
        b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % target
    )
    answer = await rig.send(get("http://good.example:@HTTP@/"))
    assert status_of(answer) == 302
    found = re.search(rb"location: (.*)\r\n", answer)
    assert found is not None
    assert found[1] == target
    host = target.partition(b"://")[2].partition(b"/")[0]
    await _refused(rig, get(found[1], host), status)


# ---- rebinding, and names that change their minds


async def test_a_name_is_asked_once_and_the_checked_address_is_the_one_connected_to(
    rig: Rig,
) -> None:
    """A name that points to the site once, and inside from then on."""
    host = "r.wild.example:@HTTP@"
    with rig.addresses_are({"r.wild.example": ["127.0.0.77"]}, then=["127.0.0.1"]):
        asked, dialed = len(rig.asked), len(rig.dialed)
        assert status_of(await rig.send(get(f"http://{host}/", host))) == 200
        assert rig.asked[asked:] == ["r.wild.example"]
        assert rig.dialed[dialed:] == [f"127.0.0.77 {rig.plain.port}"]
        await _refused(rig, get(f"http://{host}/", host), 403)


@pytest.mark.parametrize("first", ["127.0.0.77", "127.0.0.1"])
async def test_a_tunnel_is_connected_to_the_address_that_was_checked(rig: Rig, first: str) -> None:
    then = "127.0.0.1" if first == "127.0.0.77" else "127.0.0.77"
    inside = rig.inside.connections
    with rig.addresses_are({"t.wild.example": [first]}, then=[then]):
        asked = len(rig.asked)
        answer = await rig.send(connect("t.wild.example:@TLS@"))
        assert status_of(answer) == (200 if first == "127.0.0.77" else 403)
        assert len(rig.asked) == asked + 1
    assert rig.inside.connections == inside


@pytest.mark.parametrize("count", [0, 65])
async def test_a_name_without_addresses_or_with_very_many_is_refused(rig: Rig, count: int) -> None:
    with rig.addresses_are({"m.wild.example": [f"8.8.8.{n}" for n in range(count)]}):
        await _refused(rig, connect("m.wild.example:@TLS@"), 502)


async def test_an_own_address_of_this_host_is_refused_also_where_it_is_public(rig: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("8.8.8.8", 9))
        own = probe.getsockname()[0]
    with rig.addresses_are({"own.addr.example": [own]}):
        await _refused(rig, connect("own.addr.example:@INSIDE@"), 403)
        await _refused(rig, connect(f"{own}:@INSIDE@"), 403)


async def test_an_address_that_is_listed_must_be_public_all_the_same(rig: Rig) -> None:
    rule = parse_rule(rig.fill(b"127.0.0.1:@INSIDE@").decode())
    before = rig.reached()
    answer = await rig.send(connect("127.0.0.1:@INSIDE@"), allow=(rule,))
    assert status_of(answer) == 403
    assert b"an address that is not public" in answer
    assert rig.reached() == before


async def test_hosts_given_by_the_operator_must_be_public_or_internal_too(rig: Rig) -> None:
    hosts = {"good.example": ipaddress.ip_address("127.0.0.1")}
    before = rig.reached()
    answer = await rig.send(connect("good.example:@TLS@"), hosts=hosts)
    assert status_of(answer) == 403
    assert rig.reached() == before


async def test_an_empty_list_lets_nothing_through(rig: Rig) -> None:
    before = rig.reached()
    assert status_of(await rig.send(connect("good.example:@TLS@"), allow=())) == 403
    assert status_of(await rig.send(get("http://good.example:@HTTP@/"), allow=())) == 403
    assert rig.reached() == before


# ---- whose door it is


async def test_a_peer_of_another_user_is_not_served(rig: Rig) -> None:
    made = replace(room_door(rig.directory / "other", slug="room-other", uid=12345))
    made = replace(made, proxy=rig.policy())
    await rig.gateway.open_door(made)
    before = rig.reached()
    try:
        data = rig.fill(connect("good.example:@TLS@"))
        assert await send_raw(made.directory, data) == b""
        assert rig.gateway.stats(made.slug).peers_refused == 1
    finally:
        await rig.gateway.close_door(made.slug)
    assert rig.reached() == before


async def test_a_certificate_for_another_host_is_the_clients_to_refuse(rig: Rig) -> None:
    """The proxy does not vouch for a server: the client's own check stays what it was."""
    async with rig.door() as door, connect_to(door.directory) as (reader, writer):
        writer.write(rig.fill(connect("a.b.wild.example:@TLS@")))
        await reader.readuntil(b"\r\n\r\n")
        context = rig.authority.client_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            await writer.start_tls(context, server_hostname="a.b.wild.example")
