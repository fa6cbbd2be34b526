"""What a hostile room tries to get a secret that it has in name only, or to send it elsewhere.

A live gateway, real TLS on both sides. After each attempt everything that any server was sent, and
everything that the room was told, is searched for the secret's value.
"""

from __future__ import annotations

import gzip
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from loguru import logger

from tests.security.secret_corpus import (
    CAN_NOT_BE_SEARCHED,
    ECHO,
    ECHOES,
    ELSEWHERE,
    PAIR,
    PUT_IN,
    REFUSED,
    UNCHANGED,
    Attempt,
    Headers,
    at,
    b64,
    basic,
    in_chunks,
    plain_answer,
)
from tests.support.egress import body_of, connect, send_raw, status_of
from tests.support.secret_room import (
    NAMED,
    OTHER,
    OTHER_VALUE,
    TUNNELLED,
    VALUE,
    SecretRoom,
    open_secret_room,
    render,
    send,
)
from tests.support.shim import until

# One room for all attempts of this file: they leave nothing behind but what servers noted.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(directory: Path) -> AsyncIterator[SecretRoom]:
    async with open_secret_room(directory) as room:
        yield room


@pytest.fixture
def room(opened: SecretRoom) -> SecretRoom:
    for site in (*opened.sites.values(), opened.plain):
        site.heads.clear()
        site.bodies.clear()
        site.answers.clear()
        site.connections = 0
    return opened


# ---- where the value goes: its own host, the value of a header, nothing else


@pytest.mark.parametrize(("headers", "expected"), [pytest.param(h, e, id=n) for n, h, e in PUT_IN])
async def test_the_secret_reaches_its_own_host_in_the_place_of_the_surrogate(
    room: SecretRoom,
    headers: Headers,
    expected: Callable[[str], str],
) -> None:
    answer = await room.ask(render(headers(room.surrogate), host=at(room)))
    assert status_of(answer) == 200
    (head,) = room.sites[NAMED].heads
    assert f": {expected(VALUE)}\r\n".encode() in head
    assert room.surrogate.encode() not in head


async def test_the_secret_reaches_a_plain_host_that_is_named_with_its_port(
    room: SecretRoom,
) -> None:
    host = f"plain.example:{room.plain.port}"
    data = render([("X-Key", room.surrogate)], host=host, line=f"GET http://{host}/ HTTP/1.1")
    assert status_of(await send_raw(room.door.directory, data)) == 200
    assert f"x-key: {VALUE}\r\n".encode() in room.plain.heads[0]


async def test_each_request_of_a_kept_connection_gets_it(room: SecretRoom) -> None:
    async with room.tunnel() as (reader, writer):
        data = render([("X-Key", room.surrogate)], host=at(room), close=False)
        for _ in range(3):
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"close" not in head
            await reader.readexactly(6)
    assert len(room.sites[NAMED].heads) == 3
    assert all(VALUE.encode() in head for head in room.sites[NAMED].heads)


async def test_it_is_put_into_several_headers_at_once(room: SecretRoom) -> None:
    await room.ask(render([("X-Key", room.surrogate), ("X-B", room.surrogate)], host=at(room)))
    assert room.sites[NAMED].heads[0].count(VALUE.encode()) == 2


@pytest.mark.parametrize("attempt", [pytest.param(a, id=n) for n, a in UNCHANGED])
async def test_anywhere_else_the_surrogate_goes_out_as_it_is(
    room: SecretRoom, attempt: Attempt
) -> None:
    assert status_of(await room.ask(attempt(room))) == 200
    assert len(room.sites[NAMED].heads) == 1
    for value in (VALUE, OTHER_VALUE):
        assert value.encode() not in room.seen()
        assert b64(f"x:{value}").encode() not in room.seen()


# ---- to another host


@pytest.mark.parametrize("host", [pytest.param(h, id=n) for n, h in ELSEWHERE])
async def test_another_host_gets_the_surrogate(room: SecretRoom, host: str) -> None:
    headers = [("Authorization", f"Bearer {room.surrogate}"), ("X-B", basic(room.surrogate))]
    assert status_of(await room.ask(render(headers, host=at(room, host)), host)) == 200
    assert room.surrogate.encode() in room.seen()
    assert VALUE.encode() not in room.seen()


async def test_the_host_at_another_port_is_another_host(room: SecretRoom) -> None:
    port = room.sites[OTHER].port
    data = render([("X-Key", room.surrogate)], host=f"{NAMED}:{port}")
    async with room.tunnel(NAMED, port=port) as (reader, writer):
        # That server's certificate is for another name.
        assert status_of(await send(reader, writer, data)) == 502
    assert room.seen() == b""


async def test_a_tunnel_that_is_not_opened_carries_the_surrogate(
    room: SecretRoom, directory: Path
) -> None:
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    async with room.tunnel(TUNNELLED, context=context) as (reader, writer):
        data = render([("X-Key", room.surrogate)], host=at(room, TUNNELLED))
        assert status_of(await send(reader, writer, data)) == 200
    assert f"X-Key: {room.surrogate}".encode() in room.sites[TUNNELLED].heads[0]


@pytest.mark.parametrize("host", [NAMED, OTHER])
async def test_in_clear_a_host_that_is_named_for_tls_gets_the_surrogate(
    room: SecretRoom, host: str
) -> None:
    target = f"{host}:{room.plain.port}"
    data = render([("X-Key", room.surrogate)], host=target, line=f"GET http://{target}/ HTTP/1.1")
    assert status_of(await send_raw(room.door.directory, data)) == 200
    assert f"x-key: {room.surrogate}\r\n".encode() in room.plain.heads[0]


async def test_in_clear_to_the_port_of_tls_nothing_is_put_in(room: SecretRoom) -> None:
    data = render(
        [("X-Key", room.surrogate)], host=at(room), line=f"GET http://{at(room)}/ HTTP/1.1"
    )
    answer = await send_raw(room.door.directory, data)
    assert status_of(answer) == 502
    assert VALUE.encode() not in room.seen()


async def test_the_neighbours_own_surrogate_works_in_its_own_room_alone(room: SecretRoom) -> None:
    theirs = room.neighbour.secrets[0].surrogate
    assert theirs != room.surrogate
    data = render([("X-Key", theirs)], host=at(room))
    await room.ask(data, door=room.neighbour)
    assert VALUE.encode() in room.sites[NAMED].heads[0]
    await room.ask(data)
    assert VALUE.encode() not in room.sites[NAMED].heads[1]


# ---- inside the tunnel: what is refused before anything is sent


@pytest.mark.parametrize(("attempt", "status"), [pytest.param(a, s, id=n) for n, a, s in REFUSED])
async def test_an_odd_request_inside_the_tunnel_is_refused_and_reaches_nobody(
    room: SecretRoom, attempt: Attempt, status: int
) -> None:
    answer = await room.ask(attempt(room))
    assert status_of(answer) == status
    assert room.seen() == b""
    assert VALUE.encode() not in answer


async def test_a_second_request_for_another_host_is_refused(room: SecretRoom) -> None:
    async with room.tunnel() as (reader, writer):
        writer.write(render(host=at(room), close=False))
        await reader.readuntil(b"reach\n")
        evil = render([("X-Key", room.surrogate)], host=at(room, OTHER))
        assert status_of(await send(reader, writer, evil)) == 400
    assert VALUE.encode() not in room.seen()
    assert room.sites[OTHER].connections == 0


async def test_a_request_that_was_sent_ahead_for_another_host_is_refused(room: SecretRoom) -> None:
    evil = render([("X-Key", room.surrogate)], host=at(room, OTHER))
    answer = await room.ask(render(host=at(room), close=False) + evil)
    assert status_of(answer) == 200
    assert b"HTTP/1.1 400 " in answer
    assert room.sites[OTHER].connections == 0
    assert VALUE.encode() not in room.seen()


# ---- the tunnel's TLS


async def _hello(room: SecretRoom, context: ssl.SSLContext, name: str | None = None) -> None:
    async with room.tunnel(context=context, name=name):
        pass


async def test_another_server_name_is_refused(room: SecretRoom) -> None:
    with pytest.raises(OSError, match=r"."):
        await _hello(room, room.trust(), OTHER)
    assert room.sites[NAMED].connections == 0


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_an_old_version_of_tls_is_refused(room: SecretRoom, newest: ssl.TLSVersion) -> None:
    context = room.trust()
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    # Otherwise our own client would not speak it.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"."):
        await _hello(room, context)
    assert room.sites[NAMED].connections == 0


async def test_http_2_is_not_agreed_on(room: SecretRoom) -> None:
    async with room.tunnel(context=room.trust(["h2"])) as (_, writer):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
    async with room.tunnel(context=room.trust(["h2", "http/1.1"])) as (_, writer):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_what_is_no_tls_is_refused(room: SecretRoom) -> None:
    async with connect(room.door.directory) as (reader, writer):
        writer.write(f"CONNECT {at(room)} HTTP/1.1\r\nHost: {at(room)}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        answer = await send(reader, writer, render([("X-Key", room.surrogate)], host=at(room)))
    assert b"HTTP" not in answer
    assert room.seen() == b""


async def test_the_tunnels_certificate_is_for_its_own_host_alone(room: SecretRoom) -> None:
    async with room.tunnel() as (_, writer):
        seen = writer.get_extra_info("peercert")
    assert seen["subjectAltName"] == (("DNS", NAMED),)


async def test_a_cut_stream_is_not_taken_for_a_whole_request(room: SecretRoom) -> None:
    before = room.gateway.stats(room.door.slug).proxy.allowed
    async with room.tunnel() as (_, writer):
        head = render(
            [("X-Key", room.surrogate), ("Content-Length", "9")],
            host=at(room),
            line="POST / HTTP/1.1",
        )
        writer.write(head + b"half")
        await writer.drain()
        writer.transport.abort()
    # First it has to be on its way, else its end would be seen before its beginning.
    await until(lambda: room.gateway.stats(room.door.slug).proxy.allowed > before)
    await until(lambda: room.gateway.stats(room.door.slug).proxy.open == 0)
    assert room.sites[NAMED].bodies == []


# ---- the host's own TLS


@pytest.mark.parametrize("bad", ["expired", "early", "other_name", "self_signed"])
async def test_a_host_that_can_not_prove_its_name_gets_nothing(tmp_path: Path, bad: str) -> None:
    async with open_secret_room(tmp_path, bad=bad) as room:
        answer = await room.ask(render([("X-Key", room.surrogate)], host=at(room)))
        assert status_of(answer) == 502
        assert b"certificate that can't be trusted" in answer
        assert room.seen() == b""


async def test_what_is_large_passes_whole_both_ways(room: SecretRoom) -> None:
    body = os.urandom(1 << 20)
    # Beginnings of the value everywhere, and zeros: what the filter must leave alone.
    back = b"".join(VALUE[: n % len(VALUE)].encode() + bytes(n % 7) for n in range(40_000))
    room.sites[NAMED].answers.append(plain_answer(back))
    data = render([("X-Key", room.surrogate)], host=at(room), line="POST / HTTP/1.1", body=body)
    answer = await room.ask(data)
    assert room.sites[NAMED].bodies == [body]
    assert body_of(answer) == back


# ---- echoes: a host that repeats what it was sent


@pytest.mark.parametrize("echo", [pytest.param(e, id=n) for n, e in ECHOES])
async def test_an_echo_shows_the_surrogate_instead(room: SecretRoom, echo: bytes) -> None:
    room.sites[NAMED].answers.append(echo)
    headers = [("X-Key", room.surrogate), ("Authorization", basic(f"x:{room.surrogate}"))]
    answer = await room.ask(render(headers, host=at(room)))
    assert VALUE.encode() in room.seen()
    assert status_of(answer) >= 200
    shown = answer + body_of(answer)
    for text in (VALUE, PAIR, PAIR.rstrip("=")):
        # The names of headers come in lower case.
        assert text.encode().lower() not in shown.lower()


async def test_an_echo_keeps_its_length(room: SecretRoom) -> None:
    room.sites[NAMED].answers.append(plain_answer(ECHO))
    answer = await room.ask(render([("X-Key", room.surrogate)], host=at(room)))
    assert body_of(answer) == ECHO.replace(VALUE.encode(), room.surrogate.encode())


async def test_a_later_request_without_the_surrogate_does_not_bring_it_back(
    room: SecretRoom,
) -> None:
    room.sites[NAMED].answers.append(plain_answer(ECHO))
    answer = await room.ask(render(host=at(room), line="GET /log HTTP/1.1"))
    assert status_of(answer) == 200
    assert VALUE.encode() not in answer


async def test_a_plain_host_that_echoes_is_searched_too(room: SecretRoom) -> None:
    host = f"plain.example:{room.plain.port}"
    room.plain.answers.append(in_chunks(ECHO, 3))
    data = render([("X-Key", room.surrogate)], host=host, line=f"GET http://{host}/ HTTP/1.1")
    answer = await send_raw(room.door.directory, data)
    assert VALUE.encode() not in body_of(answer)
    assert room.surrogate.encode() in body_of(answer)


@pytest.mark.parametrize("echo", [pytest.param(e, id=n) for n, e in CAN_NOT_BE_SEARCHED])
async def test_an_answer_that_can_not_be_searched_is_refused(room: SecretRoom, echo: bytes) -> None:
    room.sites[NAMED].answers.append(echo)
    answer = await room.ask(render([("X-Key", room.surrogate)], host=at(room)))
    assert status_of(answer) == 502
    assert b"can't be searched" in answer
    assert VALUE[:20].encode() not in answer


async def test_neither_a_compressed_answer_nor_a_part_can_be_asked_for(room: SecretRoom) -> None:
    headers = [("Accept-Encoding", "gzip, br"), ("Range", "bytes=0-9"), ("If-Range", '"x"')]
    await room.ask(render(headers, host=at(room)))
    head = room.sites[NAMED].heads[0].lower()
    assert b"accept-encoding: identity\r\n" in head
    assert b"range" not in head


async def test_a_host_without_a_secret_may_answer_as_it_likes(room: SecretRoom) -> None:
    room.plain.answers.append(plain_answer(gzip.compress(b"x"), "Content-Encoding: gzip"))
    host = f"{OTHER}:{room.plain.port}"
    headers = [("Accept-Encoding", "gzip"), ("Range", "bytes=0-9")]
    data = render(headers, host=host, line=f"GET http://{host}/ HTTP/1.1")
    assert status_of(await send_raw(room.door.directory, data)) == 200
    assert b"range: bytes=0-9" in room.plain.heads[0]


# ---- what is told elsewhere


async def test_no_line_of_the_log_shows_a_value_not_even_at_its_finest(room: SecretRoom) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level=0, format="{message} {extra}", diagnose=True)
    try:
        room.sites[NAMED].answers.append(plain_answer(ECHO, f"X-A: {VALUE}"))
        await room.ask(render([("X-Key", room.surrogate)], host=at(room)))
        room.sites[NAMED].answers.append(b"no answer at all " + VALUE.encode() + b"\r\n\r\n")
        await room.ask(render([("X-Key", room.surrogate)], host=at(room)))
        await room.ask(render([("X-Key", VALUE)], host=at(room, OTHER)))
    finally:
        logger.remove(sink)
    shown = "".join(lines)
    assert "egress_proxy" in shown
    assert "A_TOKEN" in shown
    assert VALUE not in shown


async def test_nothing_that_describes_a_door_shows_a_value(room: SecretRoom) -> None:
    door = room.gateway._doors[room.door.slug]
    things = [room.door, room.door.secrets, door, door.proxy, room.gateway, room.authority]
    things += [door.proxy.interceptor, door.stats(), room.door.proxy]
    shown = "".join(map(repr, things)) + "".join(map(str, things))
    assert VALUE not in shown
    assert OTHER_VALUE not in shown
    assert "PRIVATE" not in shown


async def test_the_attempts_of_this_file_are_as_many_as_agreed() -> None:
    tables = (PUT_IN, UNCHANGED, ELSEWHERE, REFUSED, ECHOES, CAN_NOT_BE_SEARCHED)
    names = [entry[0] for table in tables for entry in table]
    assert len(set(names)) == len(names) >= 40
