"""What a room's profile opens at the Messages API, and nothing besides: a live gateway, by name.

Each row of `api_corpus` is sent through a real socket; the upstream records what reaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.core.api_policy import ApiPolicy, ServerTool, build_policy
from orchestrator.egress import inspector as inspector_module
from orchestrator.egress.gateway import RoomDoor
from orchestrator.model import RoomSlug
from tests.security.api_corpus import CLOSED, OPENED, PLAIN, Needed, without_metadata
from tests.security.api_heads import (
    BETAS_CLOSED,
    BETAS_OPENED,
    DROPPED_HEADERS,
    FOREIGN_KEYS,
    PATHS,
    REFUSED_HEADERS,
)
from tests.support.egress import (
    PLACEHOLDER,
    REAL_KEY,
    TAG,
    Upstream,
    build_body,
    build_request,
    error_of,
    open_room,
    open_upstream,
    room_door,
    send_raw,
    status_of,
)

ALL = frozenset(ServerTool)


def _policy(tools: Needed) -> ApiPolicy:
    return ApiPolicy(server_tools=tools)


@asynccontextmanager
async def _room(path: Path, policy: ApiPolicy | None = None) -> AsyncIterator[Upstream]:
    async with open_upstream() as upstream, open_room(path / "a", upstream.url, api=policy):
        yield upstream


async def _assert_refused(path: Path, request: bytes, policy: ApiPolicy, words: str) -> None:
    async with _room(path, policy) as upstream:
        answer = await send_raw(path / "a", request)
        assert status_of(answer) == 403
        kind, message = error_of(answer)
        assert kind == "permission_error"
        assert words in message
        assert "evil" not in message
        assert b"x-should-retry: false" in answer
        assert not upstream.seen


def test_the_corpus_names_more_than_the_agreed_120_attempts() -> None:
    heads = [*BETAS_OPENED, *DROPPED_HEADERS, *FOREIGN_KEYS, *BETAS_CLOSED, *PATHS]
    names = [str(row[0]) for row in [*OPENED, *CLOSED]] + [str(row) for row in heads]
    names += REFUSED_HEADERS
    assert len(set(names)) == len(names) >= 120


@pytest.mark.parametrize(("body", "needed"), [pytest.param(b, n, id=i) for i, b, n in OPENED])
async def test_a_way_out_is_open_only_where_all_that_it_needs_is_named(
    tmp_path: Path, body: bytes, needed: Needed
) -> None:
    request = build_request(body)
    for lacking in [ALL, *(frozenset({one}) for one in needed)]:
        await _assert_refused(
            tmp_path, request, _policy(ALL - lacking), "not allowed to leave a room"
        )
    async with _room(tmp_path, _policy(needed)) as upstream:
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
        (seen,) = upstream.seen
        assert without_metadata(seen.body) == without_metadata(body)
        assert seen.json()["metadata"] == {"user_id": TAG}


@pytest.mark.parametrize("body", [pytest.param(b, id=i) for i, b in CLOSED])
async def test_what_is_on_no_list_is_refused_though_every_tool_is_named(
    tmp_path: Path, body: bytes
) -> None:
    async with _room(tmp_path, _policy(ALL)) as upstream:
        answer = await send_raw(tmp_path / "a", build_request(body))
        assert status_of(answer) in {400, 403}
        assert "evil" not in error_of(answer)[1]
        assert not upstream.seen


@pytest.mark.parametrize("body", [pytest.param(b, id=i) for i, b in PLAIN])
async def test_plain_work_passes_unchanged_where_nothing_is_named(
    tmp_path: Path, body: bytes
) -> None:
    async with _room(tmp_path) as upstream:
        assert status_of(await send_raw(tmp_path / "a", build_request(body))) == 200
        assert without_metadata(upstream.seen[0].body) == without_metadata(body)


@pytest.mark.parametrize(("beta", "needed"), [pytest.param(b, n, id=b) for b, n in BETAS_OPENED])
async def test_a_tools_beta_comes_with_the_tool_and_not_without(
    tmp_path: Path, beta: str, needed: Needed
) -> None:
    request = build_request(headers={"anthropic-beta": f"effort-2025-11-24,{beta}"})
    await _assert_refused(tmp_path, request, _policy(ALL - needed), beta)
    async with _room(tmp_path, _policy(needed)) as upstream:
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
        assert upstream.seen[0].headers["anthropic-beta"] == f"effort-2025-11-24,{beta}"


@pytest.mark.parametrize("beta", BETAS_CLOSED)
async def test_a_beta_on_no_list_is_refused_unless_the_profile_names_it(
    tmp_path: Path, beta: str
) -> None:
    request = build_request(headers={"anthropic-beta": beta})
    await _assert_refused(tmp_path, request, _policy(ALL), "the beta")
    async with _room(tmp_path, build_policy(betas=[beta])) as upstream:
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
        assert upstream.seen[0].headers["anthropic-beta"] == beta


@pytest.mark.parametrize("path", PATHS)
async def test_no_other_path_leaves_a_room_whatever_its_profile_names(
    tmp_path: Path, path: str
) -> None:
    request = build_request(line=f"{path} HTTP/1.1")
    async with _room(tmp_path, _policy(ALL)) as upstream:
        assert status_of(await send_raw(tmp_path / "a", request)) == 403
        assert not upstream.seen


@pytest.mark.parametrize(("name", "value"), DROPPED_HEADERS, ids=[n for n, _ in DROPPED_HEADERS])
async def test_a_header_that_nobody_named_never_gets_out(
    tmp_path: Path, name: str, value: str
) -> None:
    async with _room(tmp_path, _policy(ALL)) as upstream:
        request = build_request(headers={name: value})
        assert status_of(await send_raw(tmp_path / "a", request)) == 200
        (seen,) = upstream.seen
        assert name.lower() not in seen.headers
        assert value not in str(seen.raw_headers)
        assert seen.headers["x-api-key"] == REAL_KEY
        assert PLACEHOLDER not in str(seen)


@pytest.mark.parametrize("name", REFUSED_HEADERS)
async def test_a_header_of_the_api_that_changes_the_request_refuses_it(
    tmp_path: Path, name: str
) -> None:
    request = build_request(headers={name: "sk-ant-attacker"})
    await _assert_refused(tmp_path, request, _policy(ALL), f"the header {name}")


@pytest.mark.parametrize("headers", [pytest.param(h, id=i) for i, h in FOREIGN_KEYS])
async def test_no_key_but_the_rooms_own_opens_the_door(
    tmp_path: Path, headers: dict[str, str | None]
) -> None:
    async with _room(tmp_path, _policy(ALL)) as upstream:
        answer = await send_raw(tmp_path / "a", build_request(headers=headers))
        assert status_of(answer) == 403
        assert b"attacker" not in answer
        assert not upstream.seen


async def test_a_field_passes_where_the_profile_names_it(tmp_path: Path) -> None:
    body = build_body(inference_geo="us")
    async with _room(tmp_path, build_policy(fields=["inference_geo"])) as upstream:
        assert status_of(await send_raw(tmp_path / "a", build_request(body))) == 200
        assert without_metadata(upstream.seen[0].body) == without_metadata(body)


@pytest.mark.parametrize("field", ["mcp_servers", "container"])
async def test_a_field_of_a_tool_is_not_opened_by_its_name(tmp_path: Path, field: str) -> None:
    request = build_request(build_body(**{field: []}))
    await _assert_refused(tmp_path, request, build_policy(fields=[field]), f"the field {field}")


async def test_a_named_field_may_still_name_nothing_that_is_stored(tmp_path: Path) -> None:
    request = build_request(build_body(inference_geo={"file_id": "file_1"}))
    policy = build_policy(fields=["inference_geo"])
    await _assert_refused(tmp_path, request, policy, "stored at the API")


@pytest.mark.parametrize(
    ("name", "body", "needed"), OPENED[:15], ids=[n for n, _, _ in OPENED[:15]]
)
async def test_the_process_that_checks_large_bodies_knows_the_rooms_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: bytes, needed: Needed
) -> None:
    monkeypatch.setattr(inspector_module, "_SMALL_BYTES", 0)
    async with open_upstream() as upstream, open_room(tmp_path / "a", upstream.url) as (gateway, _):
        other = room_door(tmp_path / "b", slug="room-b", api=_policy(needed))
        await gateway.open_door(other)
        for _ in range(2):
            assert status_of(await send_raw(tmp_path / "a", build_request(body))) == 403
            assert status_of(await send_raw(tmp_path / "b", build_request(body))) == 200
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("size", [200, 1000, 300_000])
async def test_a_body_past_the_rooms_own_size_is_refused_in_words(
    tmp_path: Path, size: int
) -> None:
    body = build_body(system="x" * (size - len(build_body(system=""))))
    assert len(body) == size
    async with _room(tmp_path, build_policy(max_body_bytes=size)) as upstream:
        assert status_of(await send_raw(tmp_path / "a", build_request(body))) == 200
    async with _room(tmp_path, build_policy(max_body_bytes=size - 1)) as upstream:
        answer = await send_raw(tmp_path / "a", build_request(body))
        assert status_of(answer) == 413
        kind, message = error_of(answer)
        assert kind == "request_too_large"
        assert str(size - 1) in message
        assert not upstream.seen


async def test_two_rooms_are_two_users_and_nothing_of_the_clients_own_ids_leaves(
    tmp_path: Path,
) -> None:
    ids = '{"device_id":"d-secret","account_uuid":"u-secret","session_id":"s-secret"}'
    request = build_request(build_body(metadata={"user_id": ids, "more": "m-secret"}))
    async with open_upstream() as upstream, open_room(tmp_path / "a", upstream.url) as (gateway, d):
        other = RoomDoor(
            slug=RoomSlug("room-b"),
            directory=tmp_path / "b",
            uid=d.uid,
            gid=d.gid,
            placeholder=PLACEHOLDER,
            user_tag="tag-of-room-b",
        )
        other.directory.mkdir()
        await gateway.open_door(other)
        for name in ("a", "b"):
            assert status_of(await send_raw(tmp_path / name, request)) == 200
        counted = build_request(
            build_body(metadata={"user_id": ids}), line="POST /v1/messages/count_tokens HTTP/1.1"
        )
        assert status_of(await send_raw(tmp_path / "a", counted)) == 200
        first, second, count = upstream.seen
        assert first.json()["metadata"] == {"user_id": TAG}
        assert second.json()["metadata"] == {"user_id": "tag-of-room-b"}
        assert "metadata" not in count.json()
        assert "secret" not in str(upstream.seen)
