"""What a homeserver, or a proxy before it, does wrong: the loop waits, goes on, loses nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.log import redact
from orchestrator.matrix import login, media
from orchestrator.matrix.client import MatrixClient, open_matrix
from orchestrator.matrix.media import UPLOAD_PATH
from orchestrator.matrix.sync import SyncStatus, run_sync
from orchestrator.model import EventId, RoomId, TxnId
from orchestrator.store.api import InboxKind
from tests.support.matrix_server import eventually
from tests.support.memory_sync_store import MemorySyncStore
from tests.support.scripted_homeserver import (
    USER_ID,
    Reply,
    ScriptedHomeserver,
    run_scripted_homeserver,
)

ROOM = RoomId("!room:scripted.example")
TEXT = {"msgtype": "m.text", "body": "hello"}
SECRETS = Secrets(matrix_password=SecretStr("pw"))
STALL = Reply(end="stall")
MEDIA_CONFIG = "GET /_matrix/client/v1/media/config"
EDIT = {
    **TEXT,
    "m.new_content": TEXT,
    "m.relates_to": {"rel_type": "m.replace", "event_id": "$before"},
}
# What a homeserver can limit: the endpoint, and the call that asks it.
CALLS: dict[str, tuple[str, Callable[[MatrixClient], Coroutine[Any, Any, Any]]]] = {
    "send": (
        "PUT /rooms/*",
        lambda client: client.send_event(ROOM, "m.room.message", TEXT, TxnId("t")),
    ),
    "edit": (
        "PUT /rooms/*",
        lambda client: client.send_event(ROOM, "m.room.message", EDIT, TxnId("t")),
    ),
    "upload": (
        f"POST {UPLOAD_PATH}",
        lambda client: client.upload_file(ROOM, b"data", mimetype="text/markdown"),
    ),
    "join": ("POST /rooms/*", lambda client: client.join(ROOM)),
    "sync": ("GET /sync", lambda client: client.sync("s0", timeout_ms=0)),
    "history": (
        f"GET /rooms/{ROOM}/messages",
        lambda client: client.backfill(ROOM, start="p", end="s0"),
    ),
}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedHomeserver]:
    async with run_scripted_homeserver() as scripted:
        yield scripted


@asynccontextmanager
async def open_client(server: ScriptedHomeserver, path: Path) -> AsyncIterator[MatrixClient]:
    config = MatrixConfig(homeserver=server.base_url, user_id=USER_ID, encryption="off")
    async with open_matrix(config, SECRETS, path) as client:
        yield client


class Waits:
    """In place of sleeping: notes how long, and gives the loop a turn."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def syncing(
    client: MatrixClient, store: MemorySyncStore, waits: Waits
) -> AsyncIterator[list[SyncStatus]]:
    statuses: list[SyncStatus] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run_sync(
                client,
                store,
                on_commit=lambda: None,
                on_typing=lambda _room, _users: None,
                on_status=statuses.append,
                clock=time.time,
                sleep=waits,
                jitter=lambda low, _high: low,
            )
        )
        yield statuses
        task.cancel()


def answer(next_batch: str, *bodies: str, **extra: Any) -> dict[str, Any]:
    events = [event(body) for body in bodies]
    join = {ROOM: {"timeline": {"events": events, "limited": False, "prev_batch": "p"}}}
    return {"next_batch": next_batch, "rooms": {"join": join}, **extra}


def event(body: str) -> dict[str, Any]:
    return {
        "type": "m.room.message",
        "event_id": f"${body}",
        "sender": "@alice:scripted.example",
        "origin_server_ts": 1,
        "content": {"msgtype": "m.text", "body": body},
    }


def bodies(store: MemorySyncStore) -> list[str]:
    return [json.loads(r.raw)["content"]["body"] for r in store.of(InboxKind.TIMELINE)]


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=502, body=b"<html>Bad Gateway</html>", headers={"Content-Type": "text/html"}),
        Reply(status=504, body=b""),
        Reply(status=404, body=b"404 page not found"),
        Reply(status=403, body={"errcode": "M_FORBIDDEN"}),
        Reply(status=200, body=b"<html>captive portal</html>"),
        Reply(body=[1, 2]),
        Reply(body={"rooms": {}}),
        Reply(body={"next_batch": 5}),
        Reply(body={"next_batch": "\ud800"}),
        Reply(body=answer("s1", "never"), end="truncated"),
        Reply(body=answer("s1", "never"), end="reset"),
        Reply(body=b"x", headers={"Content-Encoding": "gzip"}),
        Reply(body=b"zz", headers={"Transfer-Encoding": "chunked"}),
    ],
    ids=lambda reply: f"{reply.status}-{reply.end}-{str(reply.body)[:20]}",
)
async def test_a_faulty_answer_is_waited_out_and_asked_again_from_the_same_place(
    server: ScriptedHomeserver, tmp_path: Path, fault: Reply
) -> None:
    server.script("GET /sync", *[fault] * 8, Reply(body=answer("s1", "hello")), STALL)
    store, waits = MemorySyncStore("s0", {ROOM: True}), Waits()
    async with open_client(server, tmp_path) as client, syncing(client, store, waits) as statuses:
        await eventually(lambda: bodies(store) == ["hello"])
        await eventually(lambda: len(server.asked("GET /sync")) == 10)
    assert [r.query["since"] for r in server.asked("GET /sync")] == ["s0"] * 9 + ["s1"]
    # Never hot: at most one attempt a second at first, at most one in 30 s after a minute.
    assert waits.waited == [1, 2, 4, 8, 16, 30, 30, 30]
    assert [s.connected for s in statuses] == [False] * 8 + [True]
    assert statuses[7].failures == 8


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"Retry-After": "7"}, {"errcode": "M_LIMIT_EXCEEDED"}, 7),
        ({"Retry-After": "7"}, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2000}, 7),
        ({}, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2500}, 2.5),
        ({}, {"errcode": "M_LIMIT_EXCEEDED"}, None),
        ({"Retry-After": "soon"}, b"<html>slow down</html>", None),
        ({"Retry-After": "3600"}, b"", 3600),
        ({}, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": -1}, None),
        ({}, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": True}, None),
    ],
)
@pytest.mark.parametrize("call", CALLS)
async def test_a_limit_is_told_with_its_wait_and_the_call_never_sleeps(
    server: ScriptedHomeserver,
    tmp_path: Path,
    call: str,
    headers: Any,
    body: Any,
    wait_s: float | None,
) -> None:
    endpoint, ask = CALLS[call]
    server.script(endpoint, Reply(status=429, headers=headers, body=body))
    async with open_client(server, tmp_path) as client:
        started = time.monotonic()
        with pytest.raises(RateLimitedError) as limited:
            await ask(client)
        assert time.monotonic() - started < 10
    assert limited.value.retry_after_s == wait_s
    assert len(server.asked(endpoint)) == 1


async def test_a_limit_until_a_date_is_told_as_seconds(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for endpoint, ask in CALLS.values():
        server.script(endpoint, Reply(status=429, headers={"Retry-After": until}, body=b""))
        async with open_client(server, tmp_path) as client:
            with pytest.raises(RateLimitedError) as limited:
                await ask(client)
        assert limited.value.retry_after_s == pytest.approx(3600, abs=60)


async def test_a_limited_courtesy_is_given_up_without_a_word(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    limited = Reply(status=429, headers={"Retry-After": "3600"}, body=b"")
    server.script("PUT /rooms/*", limited)
    server.script("POST /rooms/*", limited)
    async with open_client(server, tmp_path) as client:
        await client.set_typing(ROOM, typing=True)
        await client.mark_read(ROOM, EventId("$e"))
    assert len(server.asked("PUT /rooms/*")) == 1
    assert len(server.asked("POST /rooms/*")) == 1


async def test_a_file_is_uploaded_as_it_is_and_a_size_that_is_too_large_is_not_tried(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    server.script(f"POST {UPLOAD_PATH}", Reply(body={"content_uri": "mxc://x/y"}))
    server.script(MEDIA_CONFIG, Reply(body={"m.upload.size": 10}))
    async with open_client(server, tmp_path) as client:
        named = await client.upload_file(ROOM, b"0123456789", mimetype="text/markdown")
        assert named == {"url": "mxc://x/y"}
        with pytest.raises(RequestRefusedError) as refused:
            await client.upload_file(ROOM, b"0123456789x", mimetype="text/markdown")
    assert refused.value.errcode == "M_TOO_LARGE"
    (asked,) = server.asked(f"POST {UPLOAD_PATH}")
    assert asked.body == b"0123456789"
    assert asked.headers["content-type"] == "text/markdown"
    assert len(server.asked(MEDIA_CONFIG)) == 1


@pytest.mark.parametrize(
    "config",
    [
        Reply(status=404, body={"errcode": "M_UNRECOGNIZED"}),
        Reply(status=500, body=b""),
        Reply(body={"m.upload.size": "many"}),
        Reply(body={"m.upload.size": True}),
        Reply(body={}),
    ],
    ids=lambda reply: f"{reply.status}-{str(reply.body)[:30]}",
)
async def test_where_no_size_is_told_an_upload_is_tried_and_a_proxys_refusal_counts(
    server: ScriptedHomeserver, tmp_path: Path, config: Reply
) -> None:
    server.script(MEDIA_CONFIG, config)
    page = Reply(status=413, body=b"<html>Request Entity Too Large</html>")
    server.script(f"POST {UPLOAD_PATH}", page)
    async with open_client(server, tmp_path) as client:
        with pytest.raises(RequestRefusedError) as refused:
            await client.upload_file(ROOM, b"data", mimetype="text/markdown")
    assert refused.value.errcode == "M_TOO_LARGE"
    assert len(server.asked(f"POST {UPLOAD_PATH}")) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500, body={"errcode": "M_UNKNOWN"}),
        Reply(status=404, body=b"<html>no media here</html>"),
        Reply(body={"content_uri": 5}),
        Reply(body={"content_uri": "https://elsewhere/x"}),
        Reply(body={"content_uri": "mxc://x/y"}, end="truncated"),
        Reply(body={"content_uri": "mxc://x/y"}, end="reset"),
    ],
    ids=lambda reply: f"{reply.status}-{reply.end}-{str(reply.body)[:30]}",
)
async def test_an_upload_that_may_succeed_later_is_told_so(
    server: ScriptedHomeserver, tmp_path: Path, reply: Reply
) -> None:
    server.script(f"POST {UPLOAD_PATH}", reply)
    async with open_client(server, tmp_path) as client:
        with pytest.raises(HomeserverUnreachableError):
            await client.upload_file(ROOM, b"data", mimetype="text/markdown")


async def test_an_upload_that_stalls_is_given_up(
    server: ScriptedHomeserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "UPLOAD_TIMEOUT_S", 0.5)
    server.script(f"POST {UPLOAD_PATH}", STALL)
    async with open_client(server, tmp_path) as client:
        with pytest.raises(HomeserverUnreachableError):
            await client.upload_file(ROOM, b"data", mimetype="text/markdown")


@pytest.mark.parametrize("state", [Reply(status=500, body=b""), Reply(body={"algorithm": 5})])
async def test_when_it_is_not_known_whether_a_room_is_encrypted_no_file_leaves(
    server: ScriptedHomeserver, tmp_path: Path, state: Reply
) -> None:
    server.script(f"GET /rooms/{ROOM}/state/*", state)
    async with open_client(server, tmp_path) as client:
        with pytest.raises((HomeserverUnreachableError, RequestRefusedError)):
            await client.upload_file(ROOM, b"secret", mimetype="text/markdown")
    assert not server.asked(f"POST {UPLOAD_PATH}")


async def test_where_encryption_is_required_no_file_leaves_for_a_plain_room(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    server.script(f"POST {UPLOAD_PATH}", Reply(body={"content_uri": "mxc://x/y"}))
    server.script("POST /keys/query", Reply(body={"device_keys": {}}))
    config = MatrixConfig(homeserver=server.base_url, user_id=USER_ID, encryption="required")
    async with open_matrix(config, SECRETS, tmp_path) as client:
        with pytest.raises(RequestRefusedError) as refused:
            await client.upload_file(ROOM, b"secret", mimetype="text/markdown")
    assert refused.value.errcode == "ENCRYPTION_REQUIRED"
    assert not server.asked(f"POST {UPLOAD_PATH}")


async def test_a_limited_sync_waits_as_long_as_it_was_told(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    limited = Reply(status=429, headers={"Retry-After": "90"}, body=b"")
    forever = Reply(status=429, headers={"Retry-After": "999999"}, body=b"")
    server.script("GET /sync", limited, forever, Reply(body=answer("s1")), STALL)
    store, waits = MemorySyncStore("s0", {ROOM: True}), Waits()
    async with open_client(server, tmp_path) as client, syncing(client, store, waits):
        await eventually(lambda: store.token == "s1")
    assert waits.waited == [90, 3600]


@pytest.mark.parametrize("end", ["stall", "trickle"])
async def test_a_stalled_answer_is_given_up(
    server: ScriptedHomeserver, tmp_path: Path, end: Any
) -> None:
    server.script("GET /sync", Reply(body=answer("s1", "slow" * 100), end=end))
    async with open_client(server, tmp_path) as client:
        started = time.monotonic()
        with pytest.raises(HomeserverUnreachableError, match="no answer in time"):
            await client.sync("s0", timeout_ms=100, margin_s=0.2)
        assert time.monotonic() - started < 2


async def test_the_same_answer_for_ever_does_not_spin_and_stores_nothing_twice(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    server.script("GET /sync", Reply(body=answer("s1", "once")))
    store, waits = MemorySyncStore("s0", {ROOM: True}), Waits()
    async with open_client(server, tmp_path) as client, syncing(client, store, waits):
        await eventually(lambda: len(waits.waited) >= 5)
    assert bodies(store) == ["once"]
    assert set(waits.waited) == {1.0}
    assert len(server.asked("GET /sync")) <= len(waits.waited) + 3


async def test_a_gap_is_filled_in_order_and_a_failure_in_mid_way_stores_nothing(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    gap = answer("s1", "e6")
    gap["rooms"]["join"][ROOM]["timeline"] |= {"limited": True, "prev_batch": "p6"}
    page1 = {"chunk": [event("e5"), event("e4")], "end": "p4"}
    page2 = {"chunk": [event("e3"), event("e2")], "end": "p2"}
    last = {"chunk": []}
    server.script("GET /sync", Reply(body=gap), Reply(body=gap), Reply(body=gap), STALL)
    server.script(
        f"GET /rooms/{ROOM}/messages",
        *(Reply(body=page1), Reply(status=500, body={"errcode": "M_UNKNOWN"})),
        *(Reply(body=page1), Reply(body=page2, end="reset")),
        *(Reply(body=page1), Reply(body=page2), Reply(body=last)),
    )
    store, waits = MemorySyncStore("s0", {ROOM: True}), Waits()
    async with open_client(server, tmp_path) as client, syncing(client, store, waits):
        await eventually(lambda: store.token == "s1")
    assert bodies(store) == ["e2", "e3", "e4", "e5", "e6"]
    assert store.commits == 1
    asked = server.asked(f"GET /rooms/{ROOM}/messages")
    assert [r.query["from"] for r in asked] == ["p6", "p4", "p6", "p4", "p6", "p4", "p2"]
    assert {r.query["to"] for r in asked} == {"s0"}


async def test_a_refused_gap_does_not_stop_the_other_rooms(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    gap = answer("s1", "e1")
    gap["rooms"]["join"][ROOM]["timeline"] |= {"limited": True}
    server.script("GET /sync", Reply(body=gap), STALL)
    refusal = Reply(status=403, body={"errcode": "M_FORBIDDEN"})
    server.script(f"GET /rooms/{ROOM}/messages", refusal)
    store = MemorySyncStore("s0", {ROOM: True})
    async with open_client(server, tmp_path) as client, syncing(client, store, Waits()):
        await eventually(lambda: bodies(store) == ["e1"])


async def test_one_malformed_event_or_room_takes_nothing_else_along(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    good = answer("s1", "good")
    timeline = good["rooms"]["join"][ROOM]["timeline"]
    timeline["events"] += [5, None, "x", [1], {"no": "id"}, {**event("lone"), "x": "\ud800"}]
    timeline["events"] += [{**event("deep"), "x": "DEEP"}, {**event("huge"), "x": "HUGE"}]
    timeline["events"] += [{**event("nan"), "x": float("nan")}, event("last")]
    good["rooms"]["join"] |= {"!bad:x": 5, "!worse:x": {"timeline": 7, "state": {"events": {}}}}
    good["rooms"]["join"]["\ud800"] = {}
    good["rooms"]["invite"] = {"!inv:x": {"invite_state": {"events": [1]}}, "!no:x": []}
    good["rooms"]["leave"] = []
    good |= {"to_device": {"events": [1, {"type": "m.dummy"}]}, "device_lists": {"changed": [1]}}
    raw = json.dumps(good).encode().replace(b'"DEEP"', deep).replace(b'"HUGE"', b"9" * 5000)
    server.script("GET /sync", Reply(body=raw.replace(b'"good"}', b'"good\xff"}')), STALL)
    store = MemorySyncStore("s0", {ROOM: True})
    async with open_client(server, tmp_path) as client, syncing(client, store, Waits()):
        await eventually(lambda: store.token == "s1")
    ids = [r.event_id for r in store.of(InboxKind.TIMELINE)]
    assert ids == ["$good", None, "$lone", "$deep", "$huge", "$nan", "$last"]
    assert all(row.raw.isascii() and json.loads(row.raw) is not None for row in store.rows)
    assert [r.room_id for r in store.of(InboxKind.INVITE)] == ["!inv:x"]
    assert len(store.of(InboxKind.TO_DEVICE)) == 1
    assert not store.of(InboxKind.DEVICE_LISTS)


async def test_an_event_that_may_have_been_accepted_is_told_so_and_the_repeat_is_the_same(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    sent = Reply(body={"event_id": "$sent"})
    server.script("PUT /rooms/*", Reply(body={"event_id": "$sent"}, end="reset"), sent)
    async with open_client(server, tmp_path) as client:
        with pytest.raises(HomeserverUnreachableError):
            await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t/1"))
        assert await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t/1")) == "$sent"
    first, second = server.asked("PUT /rooms/*")
    assert (first.path, first.body) == (second.path, second.body)


async def test_a_body_that_a_proxy_finds_too_large_is_refused_for_good(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    server.script("PUT /rooms/*", Reply(status=413, body=b"<html>too large</html>"))
    async with open_client(server, tmp_path) as client:
        with pytest.raises(RequestRefusedError) as refused:
            await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t"))
    assert refused.value.errcode == "M_TOO_LARGE"


async def test_when_the_homeserver_does_not_say_whether_a_room_is_encrypted_nothing_is_sent(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    server.script("PUT /rooms/*", Reply(body={"event_id": "$sent"}))
    server.script(f"GET /rooms/{ROOM}/state/*", Reply(status=500, body=b""))
    async with open_client(server, tmp_path) as client:
        with pytest.raises(HomeserverUnreachableError):
            await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t"))
        server.script(f"GET /rooms/{ROOM}/state/*", Reply(body={"algorithm": 5}))
        for _ in range(2):
            with pytest.raises((HomeserverUnreachableError, RequestRefusedError)):
                await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t"))
    assert not server.asked("PUT /rooms/*")


async def test_a_soft_logout_gets_a_new_token_for_the_same_device_in_mid_run(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    server.script("PUT /rooms/*", Reply(body={"event_id": "$sent"}))
    async with open_client(server, tmp_path) as client:
        device, token = client.device_id, client.secret_values[0]
        soft = {"errcode": "M_UNKNOWN_TOKEN", "soft_logout": True}
        sent = Reply(body={"event_id": "$sent"})
        server.script("PUT /rooms/*", Reply(status=401, body=soft), sent)
        await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t"))
        assert client.device_id == device
        renewed = client.secret_values[0]
        assert renewed != token
        assert renewed not in redact(f"it went out as {renewed}")
        assert server.logins == {device: 2}
        gone = Reply(status=401, body={"errcode": "M_UNKNOWN_TOKEN", "soft_logout": False})
        server.script("PUT /rooms/*", gone)
        with pytest.raises(LoginRefusedError):
            await client.send_event(ROOM, "m.room.message", TEXT, TxnId("t2"))
    async with open_client(server, tmp_path) as client:
        assert client.device_id == device
    assert server.logins == {device: 2}


async def test_a_homeserver_that_is_not_up_yet_is_waited_for(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    login_ok = Reply(body={"user_id": USER_ID, "device_id": "D", "access_token": "t"})
    server.script("POST /login", Reply(status=502, body=b"starting"), login_ok)
    async with open_client(server, tmp_path) as client:
        assert client.device_id == "D"
    first, second = server.asked("POST /login")
    assert first.body["device_id"] == second.body["device_id"]


async def test_a_homeserver_that_is_not_there_is_told_with_its_address_in_bounded_time(
    server: ScriptedHomeserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "OPEN_TIMEOUT_S", 1.0)
    server.script("POST /login", STALL)
    with pytest.raises(HomeserverUnreachableError, match=server.base_url):
        async with open_client(server, tmp_path):
            pass
    limited = {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 300_000}
    server.script("POST /login", Reply(status=429, body=limited))
    with pytest.raises(HomeserverUnreachableError, match=r"limits logins\. It asks to wait 300 s"):
        async with open_client(server, tmp_path):
            pass


async def test_a_token_is_never_sent_to_another_homeserver(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    async with open_client(server, tmp_path) as client:
        device, token = client.device_id, client.secret_values[0]
    async with run_scripted_homeserver() as other:
        async with open_client(other, tmp_path) as client:
            assert client.device_id == device
        assert token not in json.dumps([dict(r.headers) for r in other.requests])
        assert all("token" not in r.query for r in other.requests)


async def test_a_damaged_session_file_says_what_to_do(
    server: ScriptedHomeserver, tmp_path: Path
) -> None:
    (tmp_path / "matrix-session.json").write_text('{"access_token": "cut')
    with pytest.raises(LoginRefusedError, match="delete it and set MATRIX_PASSWORD") as refused:
        async with open_client(server, tmp_path):
            pass
    assert "cut" not in str(refused.value)
