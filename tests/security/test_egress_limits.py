"""What a room may use up of the proxy is its own, and has an end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.proxy_policy import IpAddress
from orchestrator.egress import proxy as proxy_module
from orchestrator.egress import resolver as resolver_module
from orchestrator.egress import tunnel as tunnel_module
from orchestrator.egress.day_budget import DayBudget, DaySpentError, MemoryDayBook
from orchestrator.egress.door import MAX_CONNECTIONS
from orchestrator.egress.gateway import RoomDoor
from orchestrator.egress.listener import SOCKET_NAME
from orchestrator.egress.readiness import receive
from orchestrator.egress.resolver import LookupFailedError, Resolver, look_up
from orchestrator.errors import StoreError
from orchestrator.model import RoomSlug
from tests.security.egress_bypass_heads import connect, get
from tests.support.client_hello import plain_hello
from tests.support.egress import ANSWER_S, build_request, send_raw, status_of
from tests.support.egress import connect as connect_to
from tests.support.proxy_rig import Rig, open_rig
from tests.support.shim import until

GOOD = "http://good.example:@HTTP@/"
HELLO = plain_hello(b"good.example")
SLUG = RoomSlug("a")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path) as opened:
        yield opened


@contextlib.asynccontextmanager
async def open_talker(rig: Rig, size: int) -> AsyncIterator[tuple[int, list[int]]]:
    """A server that says `size` bytes to a hello and then waits for the end; and what it got."""
    got: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(len(await reader.read(1 << 16)))
        with contextlib.suppress(ConnectionError):
            writer.write(bytes(size))
            await writer.drain()
            while data := await reader.read(1 << 16):
                got.append(len(data))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.77", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


@contextlib.asynccontextmanager
async def said_hello(
    door: RoomDoor, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(ANSWER_S), connect_to(door.directory) as (reader, writer):
        writer.write(connect(f"good.example:{port}"))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        yield reader, writer


# ---- connections


async def test_tunnels_past_the_limit_wait_and_the_api_is_asked_all_the_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "_PLACE_S", 0.3)
    async with (
        open_talker(rig, 1) as (port, _),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), connections=2) as door,
        said_hello(door, port) as (one, _),
        said_hello(door, port) as (two, writer),
    ):
        await one.readexactly(1)
        await two.readexactly(1)
        third = await send_raw(door.directory, connect(f"good.example:{port}"))
        assert status_of(third) == 503
        assert b"as many connections as it may have" in third
        assert status_of(await send_raw(door.directory, build_request())) == 200
        monkeypatch.setattr(proxy_module, "_PLACE_S", ANSWER_S)
        waiting = asyncio.create_task(  # noqa: TID251
            send_raw(door.directory, connect(f"good.example:{port}"), half_close=True)
        )
        writer.close()
        assert status_of(await waiting) == 200


async def test_a_crowd_of_tunnels_takes_no_place_of_the_api(rig: Rig) -> None:
    async with (
        open_talker(rig, 1) as (port, _),
        rig.door(
            allow=(parse_rule(f"good.example:{port}"),), connections=MAX_CONNECTIONS + 6
        ) as door,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(MAX_CONNECTIONS + 6):
            reader, _w = await stack.enter_async_context(said_hello(door, port))
            await reader.readexactly(1)
        assert status_of(await send_raw(door.directory, build_request())) == 200
        assert rig.gateway.stats(door.slug).proxy.open == MAX_CONNECTIONS + 6


async def test_a_crowd_that_waits_for_places_is_bounded_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "_MORE_PRESENT", 2)
    async with (
        open_talker(rig, 1) as (port, _),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), connections=1) as door,
        contextlib.AsyncExitStack() as stack,
    ):
        held, _w = await stack.enter_async_context(said_hello(door, port))
        await held.readexactly(1)
        for _ in range(2):
            _r, writer = await stack.enter_async_context(connect_to(door.directory))
            writer.write(connect(f"good.example:{port}"))
        proxy = rig.gateway._doors[door.slug].proxy
        await until(lambda: proxy._present == 3)
        assert await send_raw(door.directory, connect("evil.example:443")) == b""
        assert rig.gateway.stats(door.slug).proxy.last_denial == "too_many"


# ---- time


async def test_a_tunnel_on_which_nothing_moves_ends(rig: Rig) -> None:
    async with (
        open_talker(rig, 1) as (port, got),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), idle_s=0.3) as door,
        said_hello(door, port) as (reader, _),
    ):
        assert await reader.read(-1) == b"\0"
    assert got == [len(HELLO)]


async def test_a_tunnel_that_moves_now_and_then_does_not_end(rig: Rig) -> None:
    async with (
        open_talker(rig, 1) as (port, got),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), idle_s=1.5) as door,
        said_hello(door, port) as (reader, writer),
    ):
        await reader.readexactly(1)
        for _ in range(6):
            await asyncio.sleep(0.4)
            writer.write(b"\x17\x03\x03\0\1a")
        writer.write_eof()
        assert await reader.read(-1) == b""
    assert sum(got) == len(HELLO) + 36


async def test_a_target_that_does_not_answer_is_given_up(rig: Rig) -> None:
    async with open_silent() as port:
        host = f"good.example:{port}"
        answer = await rig.send(get(f"http://{host}/", host), allow=(parse_rule(host),), idle_s=0.3)
    assert status_of(answer) == 504


async def test_a_client_that_says_no_hello_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel_module, "_HELLO_S", 0.3)
    for said in (b"", HELLO[:-1], HELLO[:3]):
        async with (
            rig.door() as door,
            asyncio.timeout(ANSWER_S),
            connect_to(door.directory) as (reader, writer),
        ):
            writer.write(rig.fill(connect("good.example:@TLS@")))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            assert await reader.read(-1) == b"\x15\x03\x03\0\2\2\x31"
    assert rig.tls.connections == 0


# ---- bytes


async def test_a_client_that_does_not_read_holds_the_target_back(rig: Rig) -> None:
    """The sockets' own buffers fill up, ours hold one piece: the rest stays with the target."""
    size, said = 64 << 20, 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        await reader.read(1 << 16)
        while said < size:
            writer.write(bytes(1 << 16))
            await writer.drain()
            said += 1 << 16
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.77", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        rig.door(allow=(parse_rule(f"good.example:{port}"),), bytes_per_s=1 << 30) as door,
        said_hello(door, port) as (reader, _),
    ):
        before = -1
        # Until nothing has moved for a while.
        while before != said:
            before = said
            await asyncio.sleep(0.3)
        assert 0 < said < size // 2
        assert len(await reader.readexactly(size)) == size


async def test_bytes_move_at_the_rooms_pace_in_both_directions_together(rig: Rig) -> None:
    async with (
        open_talker(rig, 100_000) as (port, got),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), bytes_per_s=200_000) as door,
        said_hello(door, port) as (reader, writer),
    ):
        start = asyncio.get_running_loop().time()
        await reader.readexactly(100_000)
        for _ in range(5):
            writer.write(b"\x17\x03\x03\xff\xff" + bytes(100_000))
            await writer.drain()
        writer.write_eof()
        assert await reader.read(-1) == b""
        # 600 KB, of which a second's worth at once: two seconds, whatever the machine.
        assert asyncio.get_running_loop().time() - start > 1.8
    assert sum(got) > 500_000


async def test_being_held_back_by_the_rooms_own_pace_is_not_being_idle(rig: Rig) -> None:
    async with (
        open_talker(rig, 1) as (port, got),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), bytes_per_s=25_000, idle_s=1) as door,
        said_hello(door, port) as (reader, writer),
    ):
        await reader.readexactly(1)
        # A piece has 64 KiB: it waits longer than the tunnel may be idle.
        writer.write(b"\x17\x03\x03\xff\xff" + bytes(65_000))
        writer.write_eof()
        assert await reader.read(-1) == b""
    assert sum(got) == len(HELLO) + 65_005


async def test_a_day_that_is_used_up_refuses_and_ends_what_runs(rig: Rig) -> None:
    async with (
        open_talker(rig, 300_000) as (port, _),
        rig.door(allow=(parse_rule(f"good.example:{port}"),), bytes_per_day=200_000) as door,
    ):
        async with said_hello(door, port) as (reader, _):
            assert 0 < len(await reader.read(-1)) < 200_000
        answer = await _until_spent(door, connect(f"good.example:{port}"))
        assert b"as many bytes today as it may" in answer
        assert status_of(await send_raw(door.directory, build_request())) == 200


async def _until_spent(door: RoomDoor, head: bytes) -> bytes:
    """What is left of a day may still pay for some requests' heads."""
    for _ in range(4000):
        answer = await send_raw(door.directory, head, half_close=True)
        if status_of(answer) == 429:
            return answer
    raise AssertionError


# ---- the day's book


async def test_a_day_gives_its_limit_and_no_more() -> None:
    book = MemoryDayBook()
    budget = DayBudget(SLUG, 1000, book, lambda: 0.0)
    for _ in range(10):
        await budget.take(100)
    with pytest.raises(DaySpentError):
        await budget.take(1)


async def test_a_room_that_goes_on_asking_on_a_spent_day_writes_nothing() -> None:
    book, now = _CountingBook(), 86_400.0
    budget = DayBudget(SLUG, 1000, book, lambda: now)
    await budget.take(990)
    for _ in range(100):
        with pytest.raises(DaySpentError):
            await budget.take(20)
    # What is left is given all the same, and the next day is another one.
    await budget.take(10)
    assert book.writes <= 4
    now += 86_400
    await budget.take(20)


class _CountingBook(MemoryDayBook):
    writes = 0

    async def add(self, slug: RoomSlug, day: str, size: int) -> int:
        self.writes += 1
        return await super().add(slug, day, size)


async def test_what_a_day_gave_was_stored_before() -> None:
    book = MemoryDayBook()
    budget = DayBudget(SLUG, 64 << 20, book, lambda: 0.0)
    for taken in range(0, 5 << 20, 300_000):
        await budget.take(300_000)
        assert await book.add(SLUG, "1970-01-01", 0) >= taken + 300_000


async def test_a_crash_gives_nothing_back_and_an_orderly_end_all_that_was_not_used() -> None:
    book = MemoryDayBook()
    crashed = DayBudget(SLUG, 64_000, book, lambda: 0.0)
    await crashed.take(10)
    assert await book.add(SLUG, "1970-01-01", 0) == 1000
    ended = DayBudget(SLUG, 64_000, book, lambda: 0.0)
    await ended.take(10)
    await ended.give_back()
    assert await book.add(SLUG, "1970-01-01", 0) == 1010


async def test_a_restart_goes_on_with_the_day_and_midnight_utc_begins_another() -> None:
    book, now = MemoryDayBook(), 86_399.0
    await DayBudget(SLUG, 1000, book, lambda: now).take(1000)
    again = DayBudget(SLUG, 1000, book, lambda: now)
    with pytest.raises(DaySpentError):
        await again.take(1)
    now = 86_400.0
    await again.take(1000)
    assert await book.add(SLUG, "1970-01-02", 0) == 1000


async def test_a_book_that_can_not_be_written_lets_nothing_through(tmp_path: Path) -> None:
    class TornBook(MemoryDayBook):
        async def add(self, slug: RoomSlug, day: str, size: int) -> int:
            raise StoreError

    async with open_rig(tmp_path, book=TornBook()) as rig:
        before = rig.reached()
        assert status_of(await rig.send(connect("good.example:@TLS@"))) == 502
        assert status_of(await rig.send(get(GOOD))) == 502
        assert rig.reached() == before


async def test_many_at_once_take_no_more_than_there_is() -> None:
    budget = DayBudget(SLUG, 1000, MemoryDayBook(), lambda: 0.0)

    async def take() -> int:
        try:
            await budget.take(30)
        except DaySpentError:
            return 0
        return 30

    assert sum(await asyncio.gather(*[take() for _ in range(100)])) <= 1000


# ---- lookups


async def test_slow_lookups_of_one_room_do_not_hold_up_another_rooms() -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    def slow(_host: str) -> tuple[IpAddress, ...]:
        started.release()
        release.wait(20)
        return look_up("127.0.0.1")

    hostile, other = Resolver(slow, {}), Resolver(lambda _: look_up("127.0.0.1"), {})
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(hostile.resolve(f"a{number}.example"))
            async with asyncio.timeout(ANSWER_S):
                for _ in range(resolver_module._LOOKUPS):
                    await asyncio.to_thread(started.acquire)
                assert await other.resolve("b.example")
            assert not started.acquire(blocking=False), "no more than its own at once"
            release.set()
    finally:
        release.set()


async def test_a_lookup_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "_LOOKUP_S", 0.1)
    release = threading.Event()

    def stuck(_host: str) -> tuple[IpAddress, ...]:
        release.wait(20)
        return look_up("127.0.0.1")

    try:
        with pytest.raises(LookupFailedError):
            await Resolver(stuck, {}).resolve("a.example")
    finally:
        release.set()


async def test_the_systems_resolver_knows_localhost_and_no_invalid_name() -> None:
    assert "127.0.0.1" in {str(one) for one in look_up("localhost")} | {"127.0.0.1"}
    with pytest.raises(LookupFailedError):
        await Resolver(look_up, {}).resolve("no-such-host.invalid")


# ---- the process that all rooms share

_ONE_BYTE_CHUNKS = b"1\r\nx\r\n" * (1 << 20)
_UPLOAD = (b"POST", b"Transfer-Encoding: chunked\r\n\r\n" + _ONE_BYTE_CHUNKS, b"")
_DOWNLOAD = (
    b"GET",
    b"\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _ONE_BYTE_CHUNKS,
)


@pytest.mark.parametrize(("method", "rest", "answer"), [_UPLOAD, _DOWNLOAD], ids=["up", "down"])
async def test_a_body_in_chunks_of_one_byte_keeps_nobody_else_waiting(
    rig: Rig, method: bytes, rest: bytes, answer: bytes
) -> None:
    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer, _ = listening.accept()
            with peer:
                peer.recv(1 << 16)
                peer.sendall(answer)
                while peer.recv(1 << 16):
                    pass

    def ask(client: socket.socket, request: bytes) -> None:
        with contextlib.suppress(OSError):
            client.sendall(request)
            while client.recv(1 << 16):
                pass

    with (
        socket.create_server(("127.0.0.77", 0)) as listening,
        socket.socket(socket.AF_UNIX) as client,
    ):
        port = listening.getsockname()[1]
        async with (
            rig.door(allow=(parse_rule(f"good.example:{port}"),)) as door,
            asyncio.TaskGroup() as group,
        ):
            client.connect(str(door.directory / SOCKET_NAME))
            host = b"good.example:%d" % port
            head = b"%b http://%b/ HTTP/1.1\r\nHost: %b\r\n" % (method, host, host)
            group.create_task(asyncio.to_thread(serve, listening))
            group.create_task(asyncio.to_thread(ask, client, head + rest))
            worst = await _worst_delay(2)
            assert rig.gateway.stats(door.slug).proxy.open == 1
            client.shutdown(socket.SHUT_RDWR)
        # Without a bound nothing else ran for as long as bytes came, a second for each megabyte.
        assert worst < 0.7


async def _worst_delay(seconds: float) -> float:
    """How long something that is due at once has to wait at most."""
    loop, worst = asyncio.get_running_loop(), 0.0
    end = loop.time() + seconds
    while (start := loop.time()) < end:
        await asyncio.sleep(0.01)
        worst = max(worst, loop.time() - start)
    return worst


async def test_who_always_has_bytes_lets_others_have_their_turn() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            counting = group.create_task(count())
            for _ in range(20):
                theirs.sendall(b"x")
                assert await receive(ours) == b"x"
            counting.cancel()
        assert turns >= 20


# ---- the end


async def test_a_quiet_tunnel_does_not_hold_up_the_doors_end(rig: Rig) -> None:
    async with (
        open_talker(rig, 1) as (port, _),
        rig.door(allow=(parse_rule(f"good.example:{port}"),)) as door,
        said_hello(door, port) as (reader, _),
    ):
        await reader.readexactly(1)
        held = rig.gateway._doors[door.slug]
        (connection,) = held._connections
        await until(connection.is_quiet)
        start = asyncio.get_running_loop().time()
        await rig.gateway.close_door(door.slug)
        assert asyncio.get_running_loop().time() - start < 4
        assert await reader.read(-1) == b""


@contextlib.asynccontextmanager
async def open_silent() -> AsyncIterator[int]:
    """A server that takes connections and says nothing."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.77", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
