"""Following a room, and what is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from cchat.chat import MAX_CONTENT_BYTES, Chat, build_content
from cchat.error import UsageError
from cchat.event import Said
from cchat.transport import Answer
from orchestrator.errors import HomeserverUnreachableError, RequestRefusedError
from tests.unit.cchat.homeserver import DOWN, World, make_world, ok

ROOM = "!r:hs"


def _event(number: int) -> dict[str, object]:
    return {
        "type": "m.room.message",
        "event_id": f"${number}",
        "sender": "@a:hs",
        "origin_server_ts": 1000,
        "content": {"msgtype": "m.text", "body": str(number)},
    }


def _sync(token: str, *numbers: int, gap_from: str | None = None) -> Answer:
    timeline = {
        "events": [_event(n) for n in numbers],
        "limited": gap_from is not None,
        "prev_batch": gap_from,
    }
    return ok({"next_batch": token, "rooms": {"join": {ROOM: {"timeline": timeline}}}})


def _follow(
    world: World, *, give_up_s: float | None = None, clock: list[float] | None = None
) -> AsyncIterator[Said]:
    times = iter(clock or [])
    chat = Chat(world.client, say=world.said.append, clock=lambda: next(times, 0.0))
    return chat.follow(ROOM, "s0", give_up_s=give_up_s)


async def _take(following: AsyncIterator[Said], count: int) -> list[str]:
    return [(await anext(following)).body for _ in range(count)]


async def test_each_sync_starts_where_the_last_one_ended() -> None:
    world = make_world(_sync("s1", 1), _sync("s2"), _sync("s3", 2))
    assert await _take(_follow(world), 2) == ["1", "2"]
    assert [request.params["since"] for request in world.transport.asked] == ["s0", "s1", "s2"]


async def test_a_gap_is_read_back_and_comes_first_and_in_order() -> None:
    first = ok({"chunk": [_event(4), _event(3)], "end": "p2"})
    second = ok({"chunk": [_event(2), _event(1)]})
    world = make_world(_sync("s1", 5, 6, gap_from="p1"), first, second)
    assert await _take(_follow(world), 6) == ["1", "2", "3", "4", "5", "6"]
    assert world.transport.asked[1].params["to"] == "s0"


async def test_a_failure_in_the_middle_of_a_gap_loses_and_doubles_nothing() -> None:
    page = ok({"chunk": [_event(1)]})
    gap = _sync("s1", 2, gap_from="p1")
    world = make_world(gap, DOWN, gap, page, _sync("s2", 3))
    assert await _take(_follow(world), 3) == ["1", "2", "3"]
    assert [r.params.get("since") for r in world.transport.asked if "sync" in r.path] == [
        "s0",
        "s0",
        "s1",
    ]


async def test_a_dead_homeserver_is_waited_for_longer_and_longer_and_told_once() -> None:
    world = make_world(*[DOWN] * 8, _sync("s1", 1))
    assert await _take(_follow(world), 1) == ["1"]
    assert len(world.said) == 1
    assert world.slept[0] <= 1.0
    assert all(wait <= 30.0 for wait in world.slept)
    assert sum(world.slept) > 40


async def test_a_homeserver_that_stays_dead_is_given_up_on() -> None:
    world = make_world(*[DOWN] * 9)
    following = _follow(world, give_up_s=60, clock=[0.0, 0.0, 30.0, 61.0])
    with pytest.raises(HomeserverUnreachableError):
        await anext(following)
    assert len(world.transport.asked) == 3


async def test_being_put_out_of_the_room_ends_the_following() -> None:
    world = make_world(ok({"next_batch": "s1", "rooms": {"leave": {ROOM: {}}}}))
    with pytest.raises(RequestRefusedError):
        await anext(_follow(world))


async def test_events_that_are_not_understood_are_passed_over() -> None:
    odd: list[object] = [5, None, {}, {"type": "m.room.message", "content": []}, _event(1)]
    timeline = {"events": odd, "limited": False}
    answer = ok({"next_batch": "s1", "rooms": {"join": {ROOM: {"timeline": timeline}}}})
    assert await _take(_follow(make_world(answer)), 1) == ["1"]


async def test_no_two_first_syncs_are_the_same_request() -> None:
    # Synapse would answer the second one from its cache, with a token of up to two minutes ago.
    world = make_world(ok({"next_batch": "s1"}), ok({"next_batch": "s2"}))
    chat = Chat(world.client, say=world.said.append)
    assert [await chat.here(ROOM), await chat.here(ROOM)] == ["s1", "s2"]
    first, second = (request.params["filter"] for request in world.transport.asked)
    assert first != second


async def test_the_last_lines_are_counted_in_what_is_shown() -> None:
    hidden = {"type": "m.room.message", "event_id": "$h", "sender": "@a:hs", "content": {}}
    first = ok({"chunk": [_event(3), hidden], "end": "p1"})
    second = ok({"chunk": [_event(2), _event(1)], "end": "p2"})
    world = make_world(first, second)
    shown = await Chat(world.client, say=world.said.append).last(ROOM, "now", 2)
    assert [said.body for said in shown] == ["2", "3"]


def test_user_ids_in_the_text_become_mentions() -> None:
    content = build_content("ask @claude:localhost:8448, and @b:x.org. mail a@b:c")
    assert content["m.mentions"] == {"user_ids": ["@claude:localhost:8448", "@b:x.org"]}
    assert build_content("hi", mention="@a:b")["m.mentions"] == {"user_ids": ["@a:b"]}


def test_without_a_user_id_the_mentions_are_left_out_so_that_a_name_in_the_text_counts() -> None:
    assert "m.mentions" not in build_content("hey claude")


def test_a_text_beyond_an_event_is_refused_before_it_is_sent() -> None:
    fits = "ü" * (MAX_CONTENT_BYTES // 2 - 50)
    assert build_content(fits)["body"] == fits
    with pytest.raises(UsageError, match="too long"):
        build_content("ü" * (MAX_CONTENT_BYTES // 2))
    assert len(json.dumps(build_content("x" * 50_000))) < MAX_CONTENT_BYTES
