"""A room's alias: believed when its own server says so, however long that takes to say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import HomeserverUnreachableError, RateLimitedError
from orchestrator.model import RoomId
from tests.support.room_rig import ROOM, Rig
from tests.unit.rooms.scenario import run, tell

OPS = "#ops:test"


async def alias_said(rig: Rig, alias: Any = OPS) -> None:
    await rig.receive_event("m.room.canonical_alias", {"alias": alias}, state_key="")


async def alias_of(rig: Rig) -> str | None:
    room = await rig.store.rooms.get(ROOM)
    return room.alias if room else None


def script(rig: Rig, *answers: Any, slow_s: float = 0.0) -> list[str]:
    """What the alias's server answers, one after the other; the last stays. What was asked."""
    asked: list[str] = []
    left = list(answers)

    async def resolve(alias: str) -> RoomId | None:
        asked.append(alias)
        await asyncio.sleep(slow_s)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        found: RoomId | None = answer
        return found

    rig.homeserver = Resolving(rig.homeserver, resolve)  # type: ignore[assignment] # one method of it is ours
    return asked


class Resolving:
    """The rig's homeserver with another lookup."""

    def __init__(self, inner: Any, resolve: Any) -> None:
        self._inner = inner
        self.resolve_alias = resolve

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_lookup_that_fails_is_asked_again_until_it_is_answered(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        down = [HomeserverUnreachableError() for _ in range(20)]
        asked = script(rig, *down, RateLimitedError(5.0), ROOM)
        await alias_said(rig)
        async with rig.life():
            await asyncio.sleep(30)
            assert await alias_of(rig) is None
        assert await rig.inbox_states() == [("new", None)]
        async with rig.life():
            await asyncio.sleep(3600)
        assert await alias_of(rig) == OPS
        assert len(asked) == 22
        assert await rig.inbox_states() == [("ignored", "state")]

    run(tmp_path, test)


def test_a_server_that_does_not_answer_delays_no_message(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, ROOM, slow_s=1e6)
        await alias_said(rig)
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await asyncio.sleep(3)
            assert await rig.bodies() == ["You said: hello"]

    run(tmp_path, test)


def test_a_configured_alias_holds_from_the_rooms_first_message_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, ROOM, slow_s=3.0)
        await alias_said(rig)
        async with rig.life() as life:
            await tell(rig, life, "not addressed")
            await asyncio.sleep(10)
        assert rig.claude.asked == []

    run(tmp_path, test, rooms={OPS: {"trigger": "mention"}})


def test_of_a_rooms_aliases_the_latest_counts(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        asked = script(rig, *(HomeserverUnreachableError() for _ in range(3)), ROOM)
        await alias_said(rig, "#first:test")
        await alias_said(rig, "#second:test")
        async with rig.life():
            await asyncio.sleep(60)
        assert await alias_of(rig) == "#second:test"
        assert asked[-1] == "#second:test"
        assert {state for state, _ in await rig.inbox_states()} == {"ignored"}

    run(tmp_path, test)


@pytest.mark.parametrize("alias", [5, None, {"x": 1}, "\ud800"])
def test_a_poisoned_alias_takes_nothing_along(tmp_path: Path, alias: Any) -> None:
    async def test(rig: Rig) -> None:
        script(rig, UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"))
        await alias_said(rig, alias)
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
        assert await rig.bodies() == ["You said: hello"]
        assert await alias_of(rig) is None

    run(tmp_path, test)
