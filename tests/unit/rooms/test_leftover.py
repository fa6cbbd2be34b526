"""What is left behind in the engine: too many processes, and containers that are no room's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.naming import room_slug
from orchestrator.errors import EngineRequestError, RunnerGoneError
from orchestrator.model import RoomId
from tests.support.memory_claude import ExitNow, Turn
from tests.support.room_rig import ROOM, Life, Rig, room_spec
from tests.unit.rooms.scenario import run, tell

LIMIT = 256
SECTIONS = {"defaults": {"limits": {"pids": LIMIT}}}


def count_processes(life: Life, *counts: int | Exception) -> None:
    """What the engine says after each turn; the last of them from then on."""
    left = list(counts)

    async def count_tasks(_: str) -> int:
        count = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(count, Exception):
            raise count
        return count

    life.backend.count_tasks = count_tasks  # type: ignore[attr-defined] # in place of the memory engine's


def test_processes_that_use_up_the_room_are_ended_and_the_conversation_goes_on(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            count_processes(life, LIMIT - 31, 1)
            await tell(rig, life, "one")
            await rig.wait_body("used up")
            assert {at["state"] for at in rig.shim.statuses.values()} == {"exited"}
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        one, told, two = await rig.bodies()
        assert (one, two) == ("You said: one", "You said: two")
        assert f"limit of {LIMIT} processes" in told
        assert "--resume" in rig.claude.started[-1]
        assert len(rig.shims) == 1

    run(tmp_path, test, **SECTIONS)


@pytest.mark.parametrize("count", [LIMIT - 32, EngineRequestError(), RunnerGoneError()])
def test_processes_that_leave_room_or_can_not_be_counted_are_left_alone(
    tmp_path: Path, count: int | Exception
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            count_processes(life, count)
            for number in (1, 2):
                await tell(rig, life, f"message {number}")
                await rig.wait_ended(number)
        assert len(rig.claude.started) == 1
        assert len(await rig.bodies()) == 2

    run(tmp_path, test, **SECTIONS)


def test_an_engine_that_does_not_count_delays_the_next_turn_by_seconds(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async def hang(_: str) -> int:
            await asyncio.Event().wait()
            raise AssertionError

        async with rig.life() as life:
            life.backend.count_tasks = hang  # type: ignore[attr-defined] # in place of the memory engine's
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await tell(rig, life, "two")
            await rig.wait_ended(2, timeout_s=8)

    run(tmp_path, test, **SECTIONS)


def test_what_an_ended_session_left_behind_is_ended_too(tmp_path: Path) -> None:
    """Its CLI is gone, and took no process with it."""

    async def crash(turn: Turn) -> None:
        raise ExitNow(134)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["crash"] = crash
        async with rig.life() as life:
            count_processes(life, LIMIT, 1)
            await tell(rig, life, "crash")
            await rig.wait_body("used up")
        assert [c for c in rig.shim.applied if c.startswith("clear:")]

    run(tmp_path, test, **SECTIONS)


def test_a_container_with_our_label_that_is_no_rooms_runner_is_removed_at_the_start(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        (own,) = await rig.backend.list()
        spec = room_spec(ROOM, 0, own.generation)
        copy = replace(spec, name=f"{spec.name}-copy")
        unknown = replace(spec, name="of-a-backup", slug=room_slug(RoomId("!unknown:test")))
        for stray in (copy, unknown):
            await rig.backend.ensure(stray)
        await rig.backend.start(copy.name)
        async with rig.life() as life:
            life.backend.fail_next["remove"] = [EngineRequestError()]
            await asyncio.sleep(1)
            # One that can't be removed keeps the others from nothing.
            assert len(await rig.backend.list()) == 2
        async with rig.life() as life:
            await tell(rig, life, "two")
            await rig.wait_ended(2)
            assert await rig.backend.list() == [own]
        assert await rig.bodies() == ["You said: one", "You said: two"]

    run(tmp_path, test)
