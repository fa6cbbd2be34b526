"""A full disk under the rooms, in virtual time: everything waits, and goes on without a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.model import RoomId
from tests.support.memory_claude import Turn
from tests.support.room_rig import Rig
from tests.unit.rooms.scenario import run, tell, works_for, works_in_steps

OTHER = RoomId("!other:test")


def test_a_turn_that_ends_on_a_full_disk_is_told_once_there_is_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            life.database.is_full = True
            # Longer than the turn may be silent, and longer than it may take at all.
            await asyncio.sleep(3600)
            assert await rig.bodies() == ["begun"]
            life.database.is_full = False
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_a_turn_that_goes_on_after_the_disk_was_full_has_its_whole_time(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_in_steps(45, 100)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("step 1", timeout_s=500)
            life.database.is_full = True
            await asyncio.sleep(3600)
            life.database.is_full = False
            await rig.wait_ended(1, timeout_s=2000)
        assert (await rig.bodies())[-1].endswith("finished")
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_a_turn_that_says_little_and_goes_on_after_the_disk_was_full_has_its_whole_time(
    tmp_path: Path,
) -> None:
    async def script(turn: Turn) -> None:
        turn.text("begun")
        for _ in range(45):
            await asyncio.sleep(100)
            thought = {"content": [{"type": "thinking", "thinking": "…"}]}
            turn.line(type="assistant", message=thought, parent_tool_use_id=None)
        turn.text("finished")
        turn.result("finished")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = script
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            await asyncio.sleep(150)
            life.database.is_full = True
            await asyncio.sleep(3600)
            life.database.is_full = False
            await rig.wait_ended(1, timeout_s=2000)
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_messages_that_come_on_a_full_disk_are_answered_in_order_afterwards(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "before")
            await rig.wait_ended(1)
            life.database.is_full = True
            await tell(rig, life, "one")
            await asyncio.sleep(200)
            await tell(rig, life, "two")
            await rig.receive("three", room=OTHER)
            life.notify()
            await asyncio.sleep(400)
            life.database.is_full = False
            await rig.wait_ended(4)
        said = [body for body in await rig.bodies() if body.startswith("You said")]
        assert said == ["You said: before", "You said: one", "You said: two"]
        assert "You said: three" in await rig.bodies(OTHER)
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_life_that_ends_on_a_full_disk_ends_at_once_and_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(5)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            life.database.is_full = True
            await asyncio.sleep(60)
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 1
        async with rig.life():
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]

    run(tmp_path, test)
