"""The socket proxy before an engine that breaks off or is silent, and clients that give up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from orchestrator.errors import PreconditionError
from orchestrator.runners.base_image import public_base
from orchestrator.runners.engine import open_engine
from orchestrator.runners.image import build_context, build_query, read_source
from orchestrator.socket_proxy.container import Bounds
from orchestrator.socket_proxy.server import Plan, open_socket_proxy
from tests.contract.test_engine_faults import VERSION, engine_that, plain

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
INFO = b"GET /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n"
SOURCE = read_source()
FILES = build_context(SOURCE)
QUERY = urlencode(build_query(SOURCE, public_base(SOURCE.folder), {}))
BUILD = f"POST /v1.41/build?{QUERY} HTTP/1.1\r\nContent-Length: {len(FILES)}\r\n\r\n".encode()


@asynccontextmanager
async def proxy_before(answer: Answer, folder: Path) -> AsyncIterator[Path]:
    """A proxy's socket. The engine says its version, and does otherwise as it is told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/version" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(plain(VERSION))
            await writer.drain()
        else:
            await answer(reader, writer)

    plan = Plan(socket=folder / "proxy" / "docker.sock", bounds=Bounds(state_dir=folder))
    async with (
        engine_that(serve, folder) as address,
        open_engine(str(address)) as engine,
        open_socket_proxy(plan, engine),
    ):
        yield plan.socket


async def ask(path: Path, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("raw", [INFO, BUILD + FILES], ids=["info", "build"])
@pytest.mark.parametrize("half", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=["none", "half"])
async def test_an_engine_that_breaks_off_is_said_in_words(
    tmp_path: Path, raw: bytes, half: bytes
) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(half)

    async with proxy_before(hang_up, tmp_path) as path:
        answer = await ask(path, raw)
    assert answer.startswith(b"HTTP/1.1 502 "), answer
    assert b"engine.sock" in answer


async def test_whoever_gives_up_leaves_no_request_behind(tmp_path: Path) -> None:
    """A silent engine keeps no places of those who have gone, and a pull ends with its caller."""
    came, left = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        came.set()
        assert await reader.read() == b""
        left.set()

    async with proxy_before(say_nothing, tmp_path) as path, asyncio.timeout(10):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(INFO)
        await came.wait()
        writer.close()
        await left.wait()


async def nobody(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_file_in_the_sockets_place_is_kept(tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    kept = tmp_path / "proxy" / "docker.sock"
    kept.write_text("somebody's")
    with pytest.raises(PreconditionError, match=r"docker.sock can't be made: .* not a socket"):
        async with proxy_before(nobody, tmp_path):
            pass
    assert kept.read_text() == "somebody's"
