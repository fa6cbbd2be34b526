"""An engine that is away, refuses, breaks off or talks nonsense: a typed error for each."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.sandbox import LABEL_ROOM
from orchestrator.errors import EngineRequestError, EngineUnavailableError, RunnerGoneError
from orchestrator.runners import engine, engine_http
from orchestrator.runners.docker_backend import open_docker_backend
from orchestrator.runners.engine_http import EngineAddress, parse_address
from tests.support.runner_engine import new_installation

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# What the client asks an engine first.
VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def plain(value: object) -> bytes:
    body = json.dumps(value).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


@asynccontextmanager
async def engine_that(answer: Answer, folder: Path) -> AsyncIterator[EngineAddress]:
    """An engine that reads a request's head and then does as it is told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            # The client only looked whether somebody listens.
            pass
        finally:
            writer.close()

    path = folder / "engine.sock"
    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield EngineAddress(socket=str(path))


def says(*parts: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


async def lines_of(address: EngineAddress) -> list[Any]:
    async with (
        asyncio.timeout(10),
        engine_http.exchange(address, "GET", "/events", {}) as exchange,
    ):
        return [line async for line in exchange.json_lines()]


# ---- addresses


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, EngineAddress(socket="/var/run/docker.sock")),
        ("", EngineAddress(socket="/var/run/docker.sock")),
        ("unix:///run/user/1/docker.sock", EngineAddress(socket="/run/user/1/docker.sock")),
        ("tcp://127.0.0.1:2375", EngineAddress(host="127.0.0.1", port=2375)),
    ],
)
def test_an_address_is_read_as_docker_reads_it(given: str | None, expected: EngineAddress) -> None:
    assert parse_address(given) == expected


@pytest.mark.parametrize("given", ["ssh://me@host", "https://host:2376", "tcp://host", "nonsense"])
def test_an_address_that_can_not_serve_is_refused_in_words(given: str) -> None:
    with pytest.raises(EngineUnavailableError, match="must be on this machine"):
        parse_address(given)


# ---- no engine


async def test_a_socket_that_is_not_there_means_no_engine_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    missing = f"unix://{tmp_path}/nothing.sock"
    with pytest.raises(EngineUnavailableError, match=r"Start it.*nothing\.sock"):
        async with open_docker_backend(new_installation(), docker_host=missing):
            pass


async def test_a_socket_that_may_not_be_opened_names_the_group(tmp_path: Path) -> None:
    error = PermissionError(13, os.strerror(13))
    explained = engine_http.explain_unreachable(EngineAddress(socket=str(tmp_path)), error)
    assert "group docker" in str(explained)


async def test_an_engine_that_is_too_old_is_refused_with_both_versions(tmp_path: Path) -> None:
    old = says(plain({"ApiVersion": "1.24", "MinAPIVersion": "1.12"}))
    async with engine_that(old, tmp_path) as address:
        with pytest.raises(EngineUnavailableError, match=r"1\.24.*1\.41"):
            async with open_docker_backend(new_installation(), docker_host=str(address)):
                pass


async def test_an_engine_that_has_given_up_our_version_is_spoken_to_in_its_oldest(
    tmp_path: Path,
) -> None:
    new = says(plain({"ApiVersion": "1.60", "MinAPIVersion": "1.50"}))
    async with (
        engine_that(new, tmp_path) as address,
        open_docker_backend(new_installation(), docker_host=str(address)) as backend,
    ):
        assert backend.engine.api.api_version == "1.50"


# ---- an engine that hangs


async def test_an_engine_that_hangs_costs_a_call_its_bound_and_holds_nothing_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/version" in head:
            writer.write(plain(VERSION))
            return
        await hangs.wait()

    try:
        async with (
            asyncio.timeout(20),
            engine_that(answer, tmp_path) as address,
            open_docker_backend(new_installation(), docker_host=str(address)) as backend,
        ):
            for module in (engine, engine_http):
                monkeypatch.setattr(module, "CALL_S", 0.2)
            # More calls than there are threads, all at the same time.
            calls = [backend.inspect("x") for _ in range(40)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(a) for a in answers} == {EngineRequestError}
            with pytest.raises(EngineRequestError, match="did not answer in time"):
                async with engine_http.upgrade(address, "/containers/x/attach", {}):
                    pass
            calling = [t for t in threading.enumerate() if t.name == "docker call"]
            assert 0 < len(calling) <= 16
            assert all(thread.daemon for thread in calling)
    finally:
        hangs.set()


# ---- answers


async def test_lines_are_whole_however_the_engine_cuts_them_into_chunks(tmp_path: Path) -> None:
    text = b'{"a": 1}\n\r\n{"b": 2}\n'
    pieces = [chunk(text[i : i + 1]) for i in range(len(text))]
    async with engine_that(says(OK, *pieces, b"0\r\n\r\n"), tmp_path) as address:
        assert await lines_of(address) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "body",
    [
        chunk(b'{"a": 1}\n'),
        b"5\r\n{",
        chunk(b"not json\n"),
        chunk(b"[1]\n"),
        b"zz\r\n",
        b"7fffffff\r\n",
        b"".join(chunk(b"x" * 65536) for _ in range(20)),
    ],
)
async def test_an_answer_that_breaks_off_or_makes_no_sense_is_a_request_that_failed(
    tmp_path: Path, body: bytes
) -> None:
    async with engine_that(says(OK, body), tmp_path) as address:
        with pytest.raises(EngineRequestError):
            await lines_of(address)


async def test_a_refusal_brings_the_engines_reason(tmp_path: Path) -> None:
    refusal = b"HTTP/1.1 500 No\r\nContent-Length: 22\r\n\r\n" + b'{"message":"disk full"}'
    async with engine_that(says(refusal), tmp_path) as address:
        with pytest.raises(EngineRequestError, match="disk full"):
            await lines_of(address)


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_something_else_behind_the_socket_is_a_request_that_failed(
    tmp_path: Path, greeting: bytes
) -> None:
    async with engine_that(says(greeting), tmp_path) as address:
        with pytest.raises(EngineRequestError):
            await lines_of(address)


async def test_an_image_that_no_registry_has_is_a_refusal_and_no_runner_that_is_gone(
    tmp_path: Path,
) -> None:
    refusal = b"HTTP/1.1 404 No\r\nContent-Length: 31\r\n\r\n" + b'{"message":"manifest unknown"}\n'
    async with engine_that(says(refusal), tmp_path) as address:
        with pytest.raises(EngineRequestError, match="manifest unknown"):
            await lines_of(address)


@pytest.mark.parametrize("status", [404, 409])
async def test_attaching_to_what_the_engine_does_not_have_is_a_runner_that_is_gone(
    tmp_path: Path, status: int
) -> None:
    async with engine_that(says(b"HTTP/1.1 %d No\r\n\r\n" % status), tmp_path) as address:
        with pytest.raises(RunnerGoneError):
            async with engine_http.upgrade(address, "/containers/x/attach", {}):
                pass


# ---- events across lost connections


async def test_the_watch_goes_on_after_a_lost_connection_without_a_repeat(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        if "/events" not in target:
            writer.write(plain(VERSION))
            return
        asked.append(target)
        # The engine repeats what happened at the very moment that it is asked from.
        seen = [event(1), event(2)] if len(asked) == 1 else [event(2), event(3)]
        writer.write(OK + b"".join(chunk(json.dumps(item).encode() + b"\n") for item in seen))
        await writer.drain()

    async with (
        asyncio.timeout(20),
        engine_that(answer, tmp_path) as address,
        open_docker_backend(new_installation(), docker_host=str(address)) as backend,
    ):
        events = backend.watch()
        async with aclosing(events):  # type: ignore[type-var]
            codes = [(await anext(events)).exit_code for _ in range(3)]
    assert codes == [1, 2, 3]
    assert len(asked) == 2


def event(number: int) -> dict[str, object]:
    attributes = {"name": "runner", LABEL_ROOM: "room", "exitCode": str(number)}
    # After any time at which this test can run: the year 2100.
    time_ns = 4_102_444_800_000_000_000 + number
    return {"Action": "die", "timeNano": time_ns, "Actor": {"Attributes": attributes}}
