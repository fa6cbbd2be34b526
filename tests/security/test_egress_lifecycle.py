"""How doors open, close, are replaced and drained, and the process that checks: real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from orchestrator.core.api_policy import ApiPolicy, build_policy, encode_policy
from orchestrator.core.egress_body import rewrite_body
from orchestrator.core.egress_policy import Route
from orchestrator.egress import door as door_module
from orchestrator.egress import inspector as inspector_module
from orchestrator.egress import inspector_child as child
from orchestrator.egress.gateway import ApiKey, DoorStats, RoomDoor, open_egress
from orchestrator.egress.listener import SOCKET_NAME
from orchestrator.errors import EgressError
from orchestrator.model import RoomSlug
from tests.support.egress import (
    REAL_KEY,
    TAG,
    Upstream,
    body_of,
    build_body,
    build_request,
    connect,
    error_of,
    open_room,
    open_upstream,
    room_door,
    send_raw,
    status_of,
)

KEY = ApiKey(SecretStr(REAL_KEY))
EVENT = b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with open_upstream() as opened:
        yield opened


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    return response


async def test_the_socket_is_for_the_rooms_group_alone_whatever_the_path_and_umask(
    tmp_path: Path, upstream: Upstream
) -> None:
    directory = tmp_path / ("long" * 40)
    old = os.umask(0)
    try:
        async with open_room(directory, upstream.url):
            held = (directory / SOCKET_NAME).lstat()
            assert stat.S_ISSOCK(held.st_mode)
            assert stat.S_IMODE(held.st_mode) == 0o660
            assert held.st_gid == os.getgid()
            assert [p.name for p in directory.iterdir()] == [SOCKET_NAME]
            assert status_of(await send_raw(directory, build_request())) == 200
    finally:
        os.umask(old)
    assert not list(directory.iterdir())


async def test_a_stale_socket_and_any_other_file_is_replaced(
    tmp_path: Path, upstream: Upstream
) -> None:
    for n, make in enumerate((_make_stale, _make_file, _make_link)):
        directory = tmp_path / str(n)
        directory.mkdir()
        make(directory / SOCKET_NAME)
        async with open_room(directory, upstream.url):
            assert status_of(await send_raw(directory, build_request())) == 200


def _make_file(path: Path) -> None:
    path.touch()


def _make_link(path: Path) -> None:
    path.symlink_to("/nowhere")


def _make_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


async def test_opening_an_open_door_again_keeps_its_connections(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with open_room(tmp_path / "a", upstream.url) as (gateway, door):
        async with connect(door.directory) as (reader, writer):
            writer.write(build_request(close=False))
            await reader.readuntil(b"0\r\n\r\n")
            await gateway.open_door(door)
            writer.write(build_request())
            assert status_of(await reader.read()) == 200
        assert gateway.stats(door.slug).requests_allowed == 2


async def test_a_door_closed_and_opened_again_serves_the_runner_that_stayed_up(
    tmp_path: Path, upstream: Upstream
) -> None:
    # What a runner keeps is the directory that it mounts, so this stays open.
    mounted = os.open(tmp_path, os.O_PATH)
    try:
        async with open_room(tmp_path / "a", upstream.url) as (gateway, door):
            async with connect(door.directory) as (reader, writer):
                writer.write(build_request(close=False))
                await reader.readuntil(b"0\r\n\r\n")
                await gateway.close_door(door.slug)
                assert await reader.read() == b""
            with pytest.raises(OSError):  # noqa: PT011 (whichever the kernel says)
                await send_raw(door.directory, build_request())
            await gateway.close_door(door.slug)
            await gateway.open_door(door)
            assert status_of(await send_raw(door.directory, build_request())) == 200
        async with open_room(tmp_path / "a", upstream.url):
            seen = Path(f"/proc/self/fd/{mounted}/a")
            assert status_of(await send_raw(seen, build_request())) == 200
    finally:
        os.close(mounted)


async def test_a_door_is_opened_anew_when_its_file_is_gone_or_its_values_change(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with open_room(tmp_path / "a", upstream.url) as (gateway, door):
        (tmp_path / "a" / SOCKET_NAME).unlink()
        await gateway.open_door(door)
        assert status_of(await send_raw(door.directory, build_request())) == 200
        changed = RoomDoor(
            slug=door.slug,
            directory=door.directory,
            uid=door.uid,
            gid=door.gid,
            placeholder="another",
            user_tag="another-tag",
        )
        await gateway.open_door(changed)
        assert status_of(await send_raw(door.directory, build_request())) == 403
        request = build_request(headers={"x-api-key": "another"})
        assert status_of(await send_raw(door.directory, request)) == 200
    users = [seen.json()["metadata"] for seen in upstream.seen]
    assert users == [{"user_id": TAG}, {"user_id": "another-tag"}]


async def test_a_new_gateway_takes_the_place_of_one_that_was_killed(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with (
        open_room(tmp_path / "a", upstream.url),
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        # As after a SIGKILL: the first gateway's socket file was never removed by it.
        assert status_of(await send_raw(door.directory, build_request())) == 200
        assert gateway.stats(door.slug).requests_allowed == 1


async def test_a_running_answer_is_finished_within_the_grace_of_a_stop(
    tmp_path: Path, upstream: Upstream
) -> None:
    going_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _stream(request)
        await response.write(EVENT)
        await going_on.wait()
        await response.write(b"data: end\n\n")
        return response

    upstream.handler = answer
    async with (
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
        connect(door.directory) as (reader, writer),
        asyncio.TaskGroup() as group,
    ):
        writer.write(build_request(close=False))
        first = await reader.readuntil(b"\n\n")
        closing = group.create_task(gateway.close_door(door.slug))
        await asyncio.sleep(0.05)
        assert not closing.done()
        going_on.set()
        rest = await reader.read()
    assert body_of(first + rest) == EVENT + b"data: end\n\n"


async def test_an_answer_that_outlasts_the_grace_is_cut(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "DRAIN_S", 0.1)

    async def answer(request: web.Request) -> web.StreamResponse:
        await (await _stream(request)).write(EVENT)
        await asyncio.sleep(60)
        raise AssertionError

    upstream.handler = answer
    async with contextlib.AsyncExitStack() as stack:
        async with open_room(tmp_path / "a", upstream.url), asyncio.timeout(5):
            reader, writer = await stack.enter_async_context(connect(tmp_path / "a"))
            writer.write(build_request())
            await reader.readuntil(b"\n\n")
        assert b"0\r\n\r\n" not in await reader.read()


@pytest.mark.parametrize("end", ["stop", "error", "cancel", "sibling"])
async def test_every_end_of_the_gateway_closes_its_doors_and_keeps_the_callers_error(
    tmp_path: Path, upstream: Upstream, end: str
) -> None:
    async def serve() -> None:
        async with open_room(tmp_path / "a", upstream.url):
            if end == "error":
                msg = "the caller's"
                raise LookupError(msg)
            if end != "stop":
                await asyncio.sleep(60)

    async def fail() -> None:
        await asyncio.sleep(0.05)
        msg = "the sibling's"
        raise LookupError(msg)

    async def beside_a_failing_sibling() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            group.create_task(fail())

    if end == "stop":
        await serve()
    elif end == "error":
        with pytest.raises(LookupError, match="the caller's"):
            await serve()
    elif end == "cancel":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await serve()
    else:
        with pytest.raises(ExceptionGroup) as raised:
            await beside_a_failing_sibling()
        assert [str(e) for e in raised.value.exceptions] == ["the sibling's"]
    assert not list((tmp_path / "a").iterdir())
    assert len(asyncio.all_tasks()) <= 1 + _own_tasks()


def _own_tasks() -> int:
    """Tasks of the upstream's server."""
    return sum(1 for t in asyncio.all_tasks() if "RequestHandler" in repr(t.get_coro()))


async def test_a_door_without_its_directory_is_an_error_that_names_it(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with open_egress(upstream=upstream.url, credential=KEY) as gateway:
        door = room_door(tmp_path / "a")
        (tmp_path / "a").rmdir()
        with pytest.raises(EgressError, match=str(tmp_path / "a")):
            await gateway.open_door(door)
        assert gateway.stats(door.slug) == DoorStats()
        await gateway.close_door(RoomSlug("never-opened"))
        await gateway.drain()
        (tmp_path / "a").mkdir()
        with pytest.raises(EgressError, match="closing"):
            await gateway.open_door(door)


async def test_the_rooms_connections_do_not_meet_the_usual_limit_of_files(
    upstream: Upstream,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        async with open_egress(upstream=upstream.url, credential=KEY):
            now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert now == (1 << 16 if hard == resource.RLIM_INFINITY else min(1 << 16, hard))


@pytest.mark.parametrize(
    "address",
    ["", "api.anthropic.com", "ftp://x", "unix:///x", "http://", "https://u:p@x", "http://x/?a=b"],
)
async def test_an_upstream_that_is_no_plain_url_is_refused(address: str) -> None:
    with pytest.raises(EgressError, match=r"anthropic\.upstream"):
        async with open_egress(upstream=address, credential=KEY):
            pass


async def test_a_credential_that_is_no_header_value_is_refused_and_not_shown() -> None:
    with pytest.raises(EgressError) as raised:
        async with open_egress(upstream="http://x", credential=ApiKey(SecretStr("sk\r\nx: y"))):
            pass
    assert "x: y" not in str(raised.value)


async def test_a_large_body_is_checked_in_another_process_which_ends_with_the_gateway(
    tmp_path: Path, upstream: Upstream
) -> None:
    body = build_body(system="y" * 1_000_000)
    async with open_room(tmp_path / "a", upstream.url) as (gateway, _):
        assert status_of(await send_raw(tmp_path / "a", build_request(body))) == 200
        process = gateway._inspector._child
        assert process is not None
        assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
        bad = build_body(system="y" * 1_000_000, container="c")
        answered = await send_raw(tmp_path / "a", build_request(bad))
        assert status_of(answered) == 403
        assert "container" in error_of(answered)[1]
        assert gateway._inspector._child is process
    assert not Path(f"/proc/{process.pid}").exists()
    assert upstream.seen[0].json()["system"] == "y" * 1_000_000


async def test_a_checking_process_that_died_or_hangs_costs_one_request(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = build_request(build_body(system="y" * 1_000_000))
    async with open_room(tmp_path / "a", upstream.url) as (gateway, _):
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
        for sent, deadline in ((signal.SIGKILL, 15.0), (signal.SIGSTOP, 0.3)):
            monkeypatch.setattr(inspector_module, "_DEADLINE_S", deadline)
            process = gateway._inspector._child
            assert process is not None
            process.send_signal(sent)
            answered = await send_raw(tmp_path / "a", request)
            monkeypatch.setattr(inspector_module, "_DEADLINE_S", 15.0)
            # Killed before it was asked, it may be noticed and replaced at once.
            assert status_of(answered) in {200, 403}
            assert sent == signal.SIGKILL or status_of(answered) == 403
            assert status_of(await send_raw(tmp_path / "a", request)) == 200
            assert not Path(f"/proc/{process.pid}").exists()


def test_the_child_answers_as_the_function_does() -> None:
    policies = [ApiPolicy(), build_policy(server_tools=["code_execution"], fields=["c"])]
    bodies = [build_body(), build_body(container="c"), build_body(c=1), b"\xff"]
    cases = [(body, policy) for body in bodies for policy in policies]
    questions = b""
    for body, policy in cases:
        words = Route.MESSAGES.value.encode(), b"t", encode_policy(policy)
        questions += child.QUESTION.pack(*map(len, words), len(body)) + b"".join(words) + body
    sink = io.BytesIO()
    child.serve(io.BytesIO(questions), sink)
    sink.seek(0)
    allowed_bodies = 0
    for body, policy in cases:
        allowed, ask_size, size = child.ANSWER.unpack(sink.read(child.ANSWER.size))
        ask, answer = sink.read(ask_size), sink.read(size)
        expected = rewrite_body(body, route=Route.MESSAGES, user_tag="t", policy=policy)
        got = child.decode_body(ask, answer) if allowed else child.decode_denial(answer)
        assert got == expected
        allowed_bodies += allowed
    assert allowed_bodies == 4


async def test_a_directory_in_the_sockets_place_is_an_error_and_nothing_is_left(
    tmp_path: Path, upstream: Upstream
) -> None:
    (tmp_path / "a" / SOCKET_NAME).mkdir(parents=True)
    async with open_egress(upstream=upstream.url, credential=KEY) as gateway:
        with pytest.raises(EgressError, match="could not be made"):
            await gateway.open_door(room_door(tmp_path / "a"))
    assert [p.name for p in (tmp_path / "a").iterdir()] == [SOCKET_NAME]
