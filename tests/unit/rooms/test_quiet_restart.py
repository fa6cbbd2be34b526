"""After a restart a room reads one line at most, and none where nothing happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.core.naming import room_slug, runner_name
from orchestrator.model import RoomId, RunnerState
from tests.support.memory_claude import Turn
from tests.support.room_rig import INSTALLATION, Rig
from tests.unit.rooms.scenario import hang, run, tell, works_for

IDLE, BUSY, LOST, NEVER = (RoomId(f"!{n}:test") for n in ("idle", "busy", "lost", "never"))
ALL = (IDLE, BUSY, LOST, NEVER)


async def said_by_room(rig: Rig) -> dict[RoomId, list[str]]:
    return {room: await rig.bodies(room) for room in ALL}


async def stop_runner(rig: Rig, room: RoomId) -> None:
    await rig.backend.stop(runner_name(INSTALLATION, room_slug(room)), grace_s=1)


def test_only_what_was_interrupted_is_said_and_that_once_however_often_it_restarts(
    tmp_path: Path,
) -> None:
    """Four rooms: idle; at work, runner well; at work, runner lost with two turns waiting; new."""

    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(200)
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await rig.receive("hello", room=IDLE)
            await rig.receive("work", room=BUSY)
            await rig.receive("hang", room=LOST)
            life.notify()
            await rig.wait_body("You said: hello", room=IDLE)
            await rig.wait_body("begun", room=BUSY)
            await rig.wait_body("working", room=LOST)
            for text in ("later", "last"):
                await rig.receive(text, room=LOST)
                life.notify()
                await asyncio.sleep(5)
        before = await said_by_room(rig)
        await stop_runner(rig, LOST)
        for _ in range(3):
            async with rig.life():
                await asyncio.sleep(20)
        after = await said_by_room(rig)
        new = {room: after[room][len(before[room]) :] for room in ALL}
        (interrupted, *answers) = new.pop(LOST)
        assert new == {IDLE: [], BUSY: [], NEVER: []}
        assert interrupted.startswith("Interrupted")
        assert answers == ["You said: later", "You said: last"]
        info = await rig.info(BUSY)
        assert info is not None
        assert info.state is RunnerState.RUNNING
        async with rig.life():
            await rig.wait_body("finished", timeout_s=250, room=BUSY)
        assert await rig.bodies(BUSY) == ["begun", "finished"]

    run(tmp_path, test)


def test_idle_rooms_say_nothing_when_their_runners_died_while_nobody_looked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for room in (IDLE, BUSY):
                await rig.receive("hello", room=room)
            life.notify()
            for room in (IDLE, BUSY):
                await rig.wait_body("hello", room=room)
        before = await said_by_room(rig)
        await stop_runner(rig, IDLE)
        async with rig.life():
            await asyncio.sleep(60)
        assert await said_by_room(rig) == before

    run(tmp_path, test)


def test_a_turn_that_ended_while_nobody_looked_is_answered_and_nothing_else_is_said(
    tmp_path: Path,
) -> None:
    async def quick(turn: Turn) -> None:
        await asyncio.sleep(5)
        turn.text("the answer")
        turn.result("the answer")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["quick"] = quick
        async with rig.life() as life:
            await tell(rig, life, "quick")
            await asyncio.sleep(3)
        await asyncio.sleep(60)
        for _ in range(3):
            async with rig.life():
                await asyncio.sleep(20)
        assert await rig.bodies() == ["the answer"]

    run(tmp_path, test)
