"""The control socket itself: its rights, its life, and a client on the other side."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from orchestrator.control.api import Text
from orchestrator.control.client import ControlClient
from orchestrator.control.server import SOCKET_NAME, open_control
from orchestrator.errors import (
    ControlError,
    EngineUnavailableError,
    NotRunningError,
    PreconditionError,
)
from orchestrator.peer import read_peer
from tests.unit.control.source import (
    MemorySource,
    StuckSource,
    make_room,
    make_runner,
    make_status,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


async def test_a_client_reads_what_the_daemon_says(state_dir: Path) -> None:
    client = ControlClient(state_dir)
    async with open_control(state_dir, MemorySource()):
        assert await client.status() == make_status()
        assert await client.runners() == (make_runner(),)
        assert await client.rooms() == (make_room(),)
        assert (await client.health()).ok


async def test_a_client_reads_the_page_in_both_its_forms(state_dir: Path) -> None:
    async def html() -> Text:
        return Text(media_type="text/html", text="<p>Zürich")

    async def lines() -> Text:
        return Text(media_type="text/plain", text="Zürich")

    client = ControlClient(state_dir)
    pages = {"/v1/page": html, "/v1/page.txt": lines}
    async with open_control(state_dir, MemorySource(), pages):
        assert await client.page(as_html=True) == "<p>Zürich"
        assert await client.page(as_html=False) == "Zürich"
        connector = aiohttp.UnixConnector(str(state_dir / SOCKET_NAME))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://x/v1/page") as answer,
        ):
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    async with open_control(state_dir, MemorySource()):
        with pytest.raises(ControlError, match="no /v1/page here"):
            await client.page(as_html=True)


async def test_the_socket_is_for_its_owner_alone(state_dir: Path) -> None:
    async with open_control(state_dir, MemorySource()):
        found = (state_dir / SOCKET_NAME).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600


async def test_a_state_directory_with_a_path_beyond_a_sockets_limit_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with open_control(deep, MemorySource()):
        assert (await ControlClient(deep).status()).pid == 42


async def test_a_stale_socket_is_replaced(state_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(state_dir / SOCKET_NAME))
    with pytest.raises(NotRunningError):
        await ControlClient(state_dir).status()
    async with open_control(state_dir, MemorySource()):
        assert (await ControlClient(state_dir).status()).pid == 42


async def test_a_file_in_the_sockets_place_is_left_alone_and_named(state_dir: Path) -> None:
    (state_dir / SOCKET_NAME).write_text("precious")
    with pytest.raises(PreconditionError, match=r"not a socket|control\.sock"):
        async with open_control(state_dir, MemorySource()):
            pytest.fail("opened")
    assert (state_dir / SOCKET_NAME).read_text() == "precious"
    with pytest.raises(NotRunningError):
        await ControlClient(state_dir).status()


async def test_a_missing_state_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="state-dir"):
        async with open_control(tmp_path / "no", MemorySource()):
            pytest.fail("opened")
    with pytest.raises(NotRunningError, match="make up"):
        await ControlClient(tmp_path / "no").status()


class _SiblingError(Exception):
    pass


@pytest.mark.parametrize("end", ["stop", "cancel", "failing sibling"])
async def test_however_the_daemon_ends_the_socket_goes_and_the_request_is_cut(
    state_dir: Path, end: str
) -> None:
    source = StuckSource()
    ended: list[Exception] = []

    async def ask() -> None:
        try:
            await ControlClient(state_dir).status()
        except (ControlError, NotRunningError) as e:  # the client may ask once more, in vain
            ended.append(e)

    async def serve() -> None:
        async with open_control(state_dir, source):
            await source.asked.wait()
            if end == "failing sibling":
                raise _SiblingError
            if end == "cancel":
                await asyncio.Event().wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        server = group.create_task(_swallow(serve()))
        while not (state_dir / SOCKET_NAME).exists():  # noqa: ASYNC110 - made by a bind, no event
            await asyncio.sleep(0.001)
        group.create_task(ask())
        await source.asked.wait()
        if end == "cancel":
            server.cancel()
    assert len(ended) == 1
    assert source.cancelled
    assert not (state_dir / SOCKET_NAME).exists()


async def _swallow(work: Awaitable[None]) -> None:
    with suppress(_SiblingError, asyncio.CancelledError):
        await work


async def test_a_daemon_can_open_its_socket_again_after_it_closed_it(state_dir: Path) -> None:
    for _ in range(3):
        async with open_control(state_dir, MemorySource()):
            assert (await ControlClient(state_dir).health()).ok
    assert list(state_dir.iterdir()) == []


async def test_a_refusal_reaches_the_client_in_its_words(state_dir: Path) -> None:
    source = MemorySource(error=EngineUnavailableError())
    async with open_control(state_dir, source):
        with pytest.raises(ControlError, match="No Docker Engine answers"):
            await ControlClient(state_dir).runners()
        with pytest.raises(ControlError, match="No Docker Engine answers"):
            await ControlClient(state_dir).health()


async def test_a_server_that_never_answers_is_given_up_on(state_dir: Path) -> None:
    async with open_control(state_dir, StuckSource()):
        with pytest.raises(ControlError, match="did not answer in time"):
            await ControlClient(state_dir, timeout_s=0.2).status()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_something_else_behind_the_socket_is_a_sentence(state_dir: Path, raw: bytes) -> None:
    async with _listening(state_dir, raw):
        with pytest.raises(ControlError):
            await ControlClient(state_dir).status()


@asynccontextmanager
async def _listening(state_dir: Path, raw: bytes) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(answer, state_dir / SOCKET_NAME)
    async with server:
        yield


def test_the_kernel_says_who_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read_peer(ours).uid == os.geteuid()


_ASK_AS_OTHER = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
fd = os.open(sys.argv[1], os.O_PATH)
if sys.argv[2] == "connect as root":
    s.connect(f"/proc/self/fd/{fd}/control.sock")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    if sys.argv[2] != "connect as root":
        s.connect(sys.argv[1] + "/control.sock")
    s.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print(s.makefile("rb").read().split()[1].decode())
except PermissionError:
    print("no permission")
"""


async def _ask_as_other(state_dir: Path, how: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-c", _ASK_AS_OTHER, str(state_dir), how],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


@needs_root
async def test_another_user_can_not_connect(state_dir: Path) -> None:
    async with open_control(state_dir, MemorySource()):
        assert await _ask_as_other(state_dir, "connect") == "no permission"


@needs_root
async def test_another_user_is_refused_even_where_the_files_let_him_in(tmp_path: Path) -> None:
    state_dir = Path("/tmp") / f"control-{os.getpid()}"
    state_dir.mkdir()
    try:
        async with open_control(state_dir, MemorySource()):
            (state_dir / SOCKET_NAME).chmod(0o666)
            assert await _ask_as_other(state_dir, "connect") == "403"
            assert await _ask_as_other(state_dir, "connect as root") == "200"
    finally:
        state_dir.rmdir()
