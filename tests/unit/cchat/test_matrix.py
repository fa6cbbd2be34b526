"""Waits, repeats and logins of the Matrix client."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cchat.matrix import Empty, MatrixModel
from cchat.transport import Answer
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    MatrixError,
    RequestRefusedError,
)
from tests.unit.cchat.homeserver import DOWN, World, make_world, ok, refused

LOGIN = ok({"user_id": "@me:hs", "access_token": "syt_new", "device_id": "DEV"})


class Sent(MatrixModel):
    event_id: str


async def _put(world: World) -> str:
    sent = await world.client.put("/send/txn-1", {"body": "x"}, Sent, what="sending")
    return sent.event_id


async def test_a_limit_is_waited_out_as_the_homeserver_says_with_the_same_transaction() -> None:
    limited = Answer(status=429, raw=b'{"retry_after_ms": 9000}', retry_after="3")
    older = Answer(status=429, raw=b'{"retry_after_ms": 1500}')
    world = make_world(limited, older, ok({"event_id": "$1"}))
    assert await _put(world) == "$1"
    assert world.slept == [3.0, 1.5]
    assert {request.path for request in world.transport.asked} == {"/_matrix/client/v3/send/txn-1"}


async def test_a_limit_of_hours_is_told_and_not_waited_out() -> None:
    world = make_world(Answer(status=429, raw=b"{}", retry_after="3600"))
    with pytest.raises(MatrixError, match="Try again in 3600 s"):
        await _put(world)
    assert world.slept == []


async def test_limits_without_end_are_given_up_on() -> None:
    limited = Answer(status=429, raw=b"{}", retry_after="1")
    world = make_world(*[limited] * 100)
    with pytest.raises(MatrixError, match="limit"):
        await _put(world)
    assert len(world.slept) == 20


async def test_a_message_is_tried_again_with_its_transaction_while_the_homeserver_is_down() -> None:
    world = make_world(DOWN, Answer(status=502, raw=b"<html>"), DOWN, ok({"event_id": "$1"}))
    assert await _put(world) == "$1"
    assert len({request.path for request in world.transport.asked}) == 1
    assert len(world.slept) == 3
    assert len(world.said) == 1


async def test_a_message_is_given_up_on_after_a_minute() -> None:
    world = make_world(*[DOWN] * 100)
    with pytest.raises(HomeserverUnreachableError):
        await _put(world)
    assert 20 < sum(world.slept) <= 60


async def test_reading_from_a_homeserver_that_is_down_fails_at_once() -> None:
    world = make_world(DOWN)
    with pytest.raises(HomeserverUnreachableError):
        await world.client.get("/x", Empty, what="reading")
    assert world.slept == []


async def test_a_refusal_is_final_and_carries_the_errcode() -> None:
    world = make_world(refused(403, "M_FORBIDDEN"))
    with pytest.raises(RequestRefusedError) as caught:
        await _put(world)
    assert (caught.value.errcode, caught.value.status) == ("M_FORBIDDEN", 403)


@pytest.mark.parametrize(
    "raw", [b"<html>", b"", b"[]", b'{"event_id": 5}', b"[" * 100_000, b"1" * 5000, b"\xff"]
)
async def test_what_is_not_matrix_is_a_sentence(raw: bytes) -> None:
    world = make_world(Answer(status=200, raw=raw))
    with pytest.raises(HomeserverUnreachableError, match="not Matrix"):
        await world.client.get("/x", Sent, what="reading")


async def test_a_refused_token_without_a_password_says_what_to_do() -> None:
    world = make_world(refused(401, "M_UNKNOWN_TOKEN"))
    with pytest.raises(LoginRefusedError, match="cchat login"):
        await _put(world)


async def test_the_first_command_logs_in_and_the_next_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "session.json"
    first = make_world(LOGIN, ok({"event_id": "$1"}), session_path=path, token=None)
    await _put(first)
    assert first.transport.asked[1].token == "syt_new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "pass-word" not in path.read_text()
    second = make_world(ok({"event_id": "$2"}), session_path=path, token=None)
    await _put(second)
    assert [request.method for request in second.transport.asked] == ["PUT"]


async def test_a_session_that_is_refused_is_made_anew_once_on_the_same_device(
    tmp_path: Path,
) -> None:
    path = tmp_path / "session.json"
    old = {"homeserver": "http://hs", "user_id": "@me:hs", "device_id": "OLD", "access_token": "x"}
    path.write_text(json.dumps(old))
    world = make_world(
        refused(401, "M_UNKNOWN_TOKEN"),
        LOGIN,
        ok({"event_id": "$1"}),
        session_path=path,
        token=None,
    )
    assert await _put(world) == "$1"
    body = world.transport.asked[1].body
    assert body is not None
    assert body["device_id"] == "OLD"
    assert json.loads(path.read_text())["access_token"] == "syt_new"


async def test_a_homeserver_that_refuses_its_own_new_session_is_not_asked_for_ever(
    tmp_path: Path,
) -> None:
    unknown = refused(401, "M_UNKNOWN_TOKEN")
    world = make_world(LOGIN, unknown, LOGIN, unknown, session_path=tmp_path / "s", token=None)
    with pytest.raises(LoginRefusedError):
        await _put(world)
    assert world.transport.answers == []


async def test_somebody_elses_stored_session_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    other = {"homeserver": "http://other", "user_id": "@me:hs", "access_token": "other"}
    path.write_text(json.dumps(other))
    world = make_world(LOGIN, ok({"event_id": "$1"}), session_path=path, token=None)
    await _put(world)
    assert [request.token for request in world.transport.asked] == [None, "syt_new"]


async def test_a_session_that_can_not_be_kept_is_told_and_used(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    world = make_world(
        LOGIN, ok({"event_id": "$1"}), session_path=blocked / "session.json", token=None
    )
    assert await _put(world) == "$1"
    assert "could not be kept" in world.said[0]


async def test_a_wrong_password_names_the_account_and_not_the_password() -> None:
    world = make_world(refused(403, "M_FORBIDDEN"), token=None)
    with pytest.raises(LoginRefusedError) as caught:
        await _put(world)
    assert "@me:hs" in str(caught.value)
    assert "pass-word" not in str(caught.value)


async def test_no_repr_shows_a_secret() -> None:
    world = make_world(LOGIN, ok({"event_id": "$1"}), token=None)
    await _put(world)
    shown = repr(world.client) + repr(world.client.account) + repr(world.transport.asked[1])
    assert "pass-word" not in shown
    assert "syt_new" not in shown
