"""What a fully hostile runner sends through its socket: raw bytes, a real gateway, a real upstream.

Nothing in these tests may reach the upstream, unless the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from orchestrator.core.egress_http import MAX_BODY_BYTES
from orchestrator.egress import door as door_module
from orchestrator.egress.gateway import EgressGateway, RoomDoor
from orchestrator.model import RoomSlug
from tests.security.egress_corpus import HOSTILE_BODIES, HOSTILE_HEADS, SMUGGLED
from tests.support.egress import (
    PLACEHOLDER,
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


@dataclass(frozen=True, slots=True)
class Room:
    gateway: EgressGateway
    door: RoomDoor
    upstream: Upstream

    async def send(self, data: bytes, *, half_close: bool = False) -> bytes:
        return await send_raw(self.door.directory, data, half_close=half_close)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        yield Room(gateway, door, upstream)


@pytest.mark.parametrize(
    ("data", "status"), [pytest.param(d, s, id=n) for n, d, s in HOSTILE_HEADS]
)
async def test_a_hostile_head_is_refused_and_never_reaches_the_api(
    room: Room, data: bytes, status: int
) -> None:
    answer = await room.send(data, half_close=status == 0)
    assert status_of(answer) == status
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) <= 1
    assert REAL_KEY.encode() not in answer
    assert not room.upstream.seen
    assert room.gateway.stats(room.door.slug).requests_allowed == 0
    if status:
        stats = room.gateway.stats(room.door.slug)
        assert stats.requests_denied + stats.proxy.denied == 1


@pytest.mark.parametrize(
    ("body", "status"), [pytest.param(b, s, id=n) for n, b, s in HOSTILE_BODIES]
)
async def test_a_hostile_body_is_refused_in_the_words_of_the_api(
    room: Room, body: bytes, status: int
) -> None:
    answer = await room.send(build_request(body))
    assert status_of(answer) == status
    kind, message = error_of(answer)
    assert kind == ("permission_error" if status == 403 else "invalid_request_error")
    assert message.endswith(".")
    assert "evil" not in message
    assert not room.upstream.seen


def test_the_corpus_names_more_than_the_agreed_sixty_requests() -> None:
    names = [n for n, _, _ in [*HOSTILE_HEADS, *HOSTILE_BODIES]]
    assert len(set(names)) == len(names) >= 60


_pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"POST /v1/messages HTTP/1.1\r\n",
            b"POST /v1/files HTTP/1.1\r\n",
            b"Host: a\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b": ",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 5\r\n",
            b"Content-Length: 0\r\n",
            b"Content-Type: application/json\r\n",
            b"x-api-key: wrong\r\n",
            b"x-api-key: " + PLACEHOLDER.encode() + b"\r\n",
            b"0\r\n\r\n",
            b"{}",
            b'{"mcp_servers":[]}',
            b"CONNECT a:1 HTTP/1.1\r\n",
        ]
    ),
)


def _mutated() -> st.SearchStrategy[bytes]:
    """A request whose key is wrong, with some of its bytes replaced, cut out or doubled."""
    base = build_request(headers={"x-api-key": "wrong"})
    cut = st.tuples(st.integers(0, len(base)), st.integers(0, 8), st.binary(max_size=8))

    def apply(cuts: list[tuple[int, int, bytes]]) -> bytes:
        data = base
        for at, length, new in cuts:
            data = data[:at] + new + data[at + length :]
        return data

    return st.lists(cut, max_size=6).map(apply)


@pytest.fixture(scope="module")
def served_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Upstream]]:
    """A gateway in a thread of its own, for a client that blocks."""
    directory = tmp_path_factory.mktemp("fuzz") / "a"
    started, stop = threading.Event(), asyncio.Event()
    held: dict[str, object] = {}

    async def serve() -> None:
        async with open_upstream() as upstream, open_room(directory, upstream.url):
            held.update(upstream=upstream, loop=asyncio.get_running_loop())
            started.set()
            await stop.wait()

    with pytest.MonkeyPatch.context() as patch:
        # The pace would make the fuzzer wait, not the gateway stricter.
        patch.setattr(door_module, "_REQUESTS_PER_S", 1e6)
        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert started.wait(10)
        upstream, loop = held["upstream"], held["loop"]
        assert isinstance(upstream, Upstream)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        yield directory, upstream
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.one_of(st.lists(_pieces, max_size=20).map(b"".join), _mutated()))
def test_no_bytes_at_all_yield_anything_but_a_refusal_or_a_closed_connection(
    served_room: tuple[Path, Upstream], data: bytes
) -> None:
    directory, upstream = served_room
    answer = _send_blocking(directory, data)
    assert answer == b"" or 400 <= status_of(answer) <= 505
    assert not upstream.seen


def _send_blocking(directory: Path, data: bytes) -> bytes:
    fd = os.open(directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(f"/proc/self/fd/{fd}/egress.sock")
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(1 << 16):
                    answer += piece
            return answer
    finally:
        os.close(fd)


async def test_the_api_gets_the_real_credential_and_none_of_the_clients(room: Room) -> None:
    hostile = build_request(
        headers={
            "Authorization": f"Bearer {PLACEHOLDER}",
            "Proxy-Authorization": "Basic eDp5",
            "Cookie": "session=attacker",
            "X-Forwarded-For": "10.0.0.1",
            "X-Http-Method-Override": "DELETE",
            "X-Original-Url": "/v1/files",
            "anthropic-beta": "effort-2025-11-24,oauth-2025-04-20",
            "X-Stainless-Lang": "js",
        }
    )
    assert status_of(await room.send(hostile)) == 200
    (seen,) = room.upstream.seen
    assert dict(seen.raw_headers).keys() - {"Host", "Content-Length"} == {
        "accept-encoding",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "x-api-key",
        "x-stainless-lang",
    }
    assert seen.headers["x-api-key"] == REAL_KEY
    assert seen.headers["anthropic-beta"] == "effort-2025-11-24"
    assert PLACEHOLDER not in str(seen)
    assert seen.path == "/v1/messages?beta=true"


async def test_what_was_checked_is_what_the_api_reads(room: Room) -> None:
    body = (
        b'{"tools":[{"type":"web_fetch_20250910"}],"model":"a","messages":[],"tools":[],'
        b'"metadata":{"user_id":"forged","x":1}}'
    )
    assert status_of(await room.send(build_request(body))) == 200
    expected = f'{{"tools":[],"model":"a","messages":[],"metadata":{{"user_id":"{TAG}"}}}}'
    assert room.upstream.seen[0].body == expected.encode()


async def test_a_smuggled_request_is_one_more_request_with_its_own_check(room: Room) -> None:
    good = build_request(close=False)
    answer = await room.send(good + SMUGGLED + good)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"403"]
    assert len(room.upstream.seen) == 1


async def test_bytes_of_a_body_that_was_cut_are_never_sent_on(room: Room) -> None:
    assert await room.send(build_request()[:-5], half_close=True) == b""
    assert not room.upstream.seen


async def test_a_peer_of_another_uid_is_closed_at_once_and_counted(tmp_path: Path) -> None:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, _),
    ):
        foreign = room_door(tmp_path / "b", slug="room-b", uid=os.getuid() + 1)
        await gateway.open_door(foreign)
        assert await send_raw(foreign.directory, build_request()) == b""
        stats = gateway.stats(RoomSlug("room-b"))
        assert (stats.peers_refused, stats.requests_allowed, stats.requests_denied) == (1, 0, 0)
        assert not upstream.seen


async def test_one_rooms_placeholder_does_not_open_another_rooms_door(tmp_path: Path) -> None:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        other = RoomDoor(
            slug=RoomSlug("room-b"),
            directory=tmp_path / "b",
            uid=door.uid,
            gid=door.gid,
            placeholder="sk-ant-api03-placeholder-of-room-b",
            user_tag="tag-of-room-b",
        )
        other.directory.mkdir()
        await gateway.open_door(other)
        assert status_of(await send_raw(other.directory, build_request())) == 403
        assert not upstream.seen


async def test_a_flood_of_idle_connections_leaves_another_room_untouched(
    tmp_path: Path,
) -> None:
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
        contextlib.AsyncExitStack() as stack,
    ):
        other = room_door(tmp_path / "b", slug="room-b")
        await gateway.open_door(other)
        for _ in range(door_module.MAX_CONNECTIONS + 30):
            _, writer = await stack.enter_async_context(connect(door.directory))
            writer.write(b"POST /v1/mess")
        start = time.monotonic()
        assert status_of(await send_raw(other.directory, build_request())) == 200
        assert time.monotonic() - start < 2
        assert gateway.stats(door.slug).connections_open <= door_module.MAX_CONNECTIONS


async def test_a_room_that_sends_bombs_does_not_stop_another_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its pace, so that the bombs follow each other as fast as they can be checked.
    monkeypatch.setattr(door_module, "_CHECKING_BURST", 1e9)
    bomb = build_request(b'{"messages":[' + b"[]," * 490_000 + b"[]]}")
    async with (
        open_upstream() as upstream,
        open_room(tmp_path / "a", upstream.url) as (gateway, door),
    ):
        other = room_door(tmp_path / "b", slug="room-b")
        await gateway.open_door(other)
        waits: list[float] = []
        async with asyncio.TaskGroup() as group:
            bombs = [group.create_task(send_raw(door.directory, bomb)) for _ in range(3)]
            while not all(task.done() for task in bombs):
                start = time.monotonic()
                assert status_of(await send_raw(other.directory, build_request())) == 200
                waits.append(time.monotonic() - start)
                await asyncio.sleep(0.05)
        assert [status_of(task.result()) for task in bombs] == [400] * 3
        # In the gateway's own process one bomb takes 0.3 s or more; a request takes 0.01 s.
        assert sorted(waits)[len(waits) // 2] < 0.25
        assert not [s for s in upstream.seen if s.body.startswith(b'{"messages"')]


async def test_slow_heads_and_slow_bodies_are_ended(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.egress.connection._HEAD_S", 0.1)
    monkeypatch.setattr("orchestrator.egress.connection._BODY_S", 0.1)
    monkeypatch.setattr("orchestrator.egress.connection._LINGER_S", 0.1)
    assert status_of(await room.send(b"POST /v1/mess")) == 408
    assert status_of(await room.send(build_request()[:-5])) == 408
    assert not room.upstream.seen


async def test_an_idle_connection_is_closed_without_an_answer(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.egress.connection._IDLE_S", 0.1)
    assert await room.send(b"") == b""


async def test_bodies_past_the_rooms_budget_wait_for_each_other(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = build_body(system="x" * 100_000)
    monkeypatch.setattr(door_module, "BODY_BUDGET_BYTES", 150_000)
    running = most = 0

    async def count(_: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return web.json_response({})

    room.upstream.handler = count
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(room.send(build_request(body))) for _ in range(4)]
    assert [status_of(task.result()) for task in sent] == [200] * 4
    assert most == 1


async def test_a_body_of_exactly_the_limit_passes(room: Room) -> None:
    empty = build_body(system="")
    body = build_body(system="x" * (MAX_BODY_BYTES - len(empty)))
    assert len(body) == MAX_BODY_BYTES
    assert status_of(await room.send(build_request(body))) == 200
    assert len(room.upstream.seen[0].body) > MAX_BODY_BYTES - 100


async def test_a_failure_of_the_gateway_itself_is_a_403_and_lets_nothing_out(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError(REAL_KEY)

    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(str(m) + str(m.record["extra"])), level="TRACE")
    try:
        monkeypatch.setattr("orchestrator.egress.connection.check_request", fail)
        answer = await room.send(build_request())
    finally:
        logger.remove(sink)
    assert status_of(answer) == 403
    assert error_of(answer)[0] == "permission_error"
    assert not room.upstream.seen
    assert any("egress_failed" in line and "KeyError" in line for line in lines)
    assert REAL_KEY not in "".join(lines)
    monkeypatch.undo()
    assert status_of(await room.send(build_request())) == 200


async def test_no_log_line_stat_or_repr_shows_a_key_or_a_body(room: Room) -> None:
    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(str(m) + str(m.record["extra"])), level="TRACE")
    try:
        for data in (
            build_request(build_body(system="the-secret-text")),
            build_request(headers={"x-api-key": "sk-ant-attackers-own"}),
            build_request(line="POST /v1/the-secret-text HTTP/1.1"),
            build_request(build_body(the_secret_text=1)),
        ):
            await room.send(data)
    finally:
        logger.remove(sink)
    shown = "".join(lines) + repr(room.gateway) + repr(room.gateway.stats(room.door.slug))
    shown += repr(room.door) + repr(room.gateway._doors)
    assert len(lines) >= 4
    for secret in (REAL_KEY, PLACEHOLDER, "the-secret-text", "the_secret_text", "attackers-own"):
        assert secret not in shown


async def test_the_refusals_reason_is_in_the_stats_and_nothing_of_the_request(room: Room) -> None:
    await room.send(build_request(line="POST /v1/files HTTP/1.1"))
    assert room.gateway.stats(room.door.slug).last_denial == "route"
    await room.send(build_request(build_body(mcp_servers=[])))
    assert room.gateway.stats(room.door.slug).last_denial == "body_feature"


async def test_ten_thousand_connections_one_after_another_leave_nothing_behind(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.gateway._doors[room.door.slug].requests, "_rate", 1e9)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(100):
                await stack.enter_async_context(connect(room.door.directory))
    assert status_of(await room.send(build_request())) == 200
    for _ in range(1000):
        if room.gateway.stats(room.door.slug).connections_open == 0:
            break
        await asyncio.sleep(0.01)
    # The upstream's keep-alive connection has two ends in this process.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


async def test_a_request_for_its_answer_is_whole_after_a_hostile_neighbour(room: Room) -> None:
    async with connect(room.door.directory) as (reader, writer):
        writer.write(build_request(close=False))
        await reader.readuntil(b"0\r\n\r\n")
        for _, data, _ in HOSTILE_HEADS[:10]:
            await room.send(data)
        writer.write(build_request(close=True))
        answer = await reader.read(-1)
    assert json.loads(body_of(answer)) == {"type": "message", "content": []}
