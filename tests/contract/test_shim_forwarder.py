"""The real shim's loopback port, spliced to a unix socket that the test serves."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shim import limits
from tests.support.shim import ShimProcess, open_shim, until

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A shim that forwards `port` to `egress`."""

    shim: ShimProcess
    port: int
    egress: Path


@pytest.fixture
async def forwarded(tmp_path: Path) -> AsyncIterator[Forwarded]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    egress = tmp_path / "egress.sock"
    async with open_shim(tmp_path, port=port, egress=egress) as shim:
        async with shim.link() as link:
            await link.ping()
        yield Forwarded(shim, port, egress)


@asynccontextmanager
async def gateway(path: Path, handler: Handler) -> AsyncIterator[None]:
    """Serve the egress socket."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(handle, path)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def echo_after_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers only when the other side has ended its half."""
    data = await reader.read(-1)
    writer.write(b"got " + data)
    await writer.drain()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def ask(port: int, data: bytes) -> bytes:
    """Send, end our half, and read to the end."""
    async with asyncio.timeout(limits.GATEWAY_WAIT_S + 20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            writer.write_eof()
            return await reader.read(-1)
        finally:
            writer.close()


async def test_one_side_may_end_while_the_other_still_answers(forwarded: Forwarded) -> None:
    async with gateway(forwarded.egress, echo_after_end):
        assert await ask(forwarded.port, b"hello") == b"got hello"


async def test_megabytes_pass_both_ways_unchanged_and_are_not_kept(forwarded: Forwarded) -> None:
    data = bytes(range(256)) * 80_000  # 20 MB
    async with gateway(forwarded.egress, echo), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.port)
        async with asyncio.TaskGroup() as group:
            got = group.create_task(reader.readexactly(len(data)))
            writer.write(data)
            await writer.drain()
        writer.close()
    assert got.result() == data
    assert forwarded.shim.resident_kib() < 20 * 1024


async def test_many_connections_at_once_do_not_mix(forwarded: Forwarded) -> None:
    async with gateway(forwarded.egress, echo_after_end), asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(forwarded.port, b"%d" % n)) for n in range(50)]
    assert [task.result() for task in asked] == [b"got %d" % n for n in range(50)]


async def test_a_gateway_that_stays_away_is_told_in_the_answer(forwarded: Forwarded) -> None:
    answer = await ask(forwarded.port, b"POST /v1/messages HTTP/1.1\r\n\r\n" + b"x" * 1_000_000)
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"The egress gateway does not answer" in answer


async def test_a_gateway_that_comes_back_is_used_again(forwarded: Forwarded) -> None:
    async with gateway(forwarded.egress, echo_after_end):
        assert await ask(forwarded.port, b"1") == b"got 1"
    async with gateway(forwarded.egress, echo_after_end):
        assert await ask(forwarded.port, b"2") == b"got 2"


@pytest.mark.parametrize("is_stale", [False, True], ids=["no socket", "nobody listens on it"])
async def test_who_asks_while_the_gateway_restarts_is_answered_by_the_next_one(
    forwarded: Forwarded, is_stale: bool
) -> None:
    if is_stale:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(forwarded.egress))
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(forwarded.port, b"%d" % n)) for n in range(20)]
        async with forwarded.shim.link() as link:
            await link.ping()
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in asked)
        async with gateway(forwarded.egress, echo_after_end):
            await asyncio.wait(asked)
    assert [task.result() for task in asked] == [b"got %d" % n for n in range(20)]


async def test_who_waits_for_the_gateway_holds_up_neither_the_wire_nor_the_end(
    forwarded: Forwarded,
) -> None:
    with ExitStack() as clients:
        for _ in range(limits.MAX_CONNECTIONS + 20):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", forwarded.port)))
            client.sendall(b"x" * 1000)
        async with forwarded.shim.link() as link:
            await link.ping()
        forwarded.shim.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await forwarded.shim.process.wait() == 0


async def test_a_gateway_that_breaks_off_ends_the_connection(forwarded: Forwarded) -> None:
    async def break_off(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half an ans")
        await writer.drain()

    async with gateway(forwarded.egress, break_off), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.port)
        assert await reader.read(-1) == b"half an ans"
        writer.close()


async def test_a_client_that_goes_away_frees_the_gateway(forwarded: Forwarded) -> None:
    gone = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1024):
                pass
        finally:
            gone.set()

    async with gateway(forwarded.egress, stream), asyncio.timeout(20):
        _reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.port)
        writer.write(b"GET")
        await writer.drain()
        writer.close()
        await gone.wait()


async def test_connections_above_the_bound_wait_and_the_wire_goes_on(forwarded: Forwarded) -> None:
    served = 0

    async def hold(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.read(-1)

    async with gateway(forwarded.egress, hold), asyncio.timeout(20):
        writers = []
        for _ in range(limits.MAX_CONNECTIONS + 20):
            _reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.port)
            writers.append(writer)
        async with forwarded.shim.link() as link:
            await link.ping()
            await asyncio.sleep(0.2)
            assert served == limits.MAX_CONNECTIONS
            for writer in writers:
                writer.close()
            await until(lambda: served == len(writers))
