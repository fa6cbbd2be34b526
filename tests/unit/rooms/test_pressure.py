"""A host with too little memory: idle rooms rest early, one by one, and wake as after any rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import meters
from orchestrator.core.memory_pressure import MemorySight
from orchestrator.errors import EngineUnavailableError
from orchestrator.model import RoomId, RunnerState
from tests.support.room_rig import ROOM, Life, Rig
from tests.unit.rooms.scenario import run, tell, wait_running, works_for

OTHER = RoomId("!other:test")
BUSY = RoomId("!busy:test")
SHORT = MemorySight(stalled_percent=40.0, available_percent=50.0)
WELL = MemorySight(stalled_percent=0.0, available_percent=50.0)
NEVER = {"idle_stop_s": None, "hibernate_s": None}


async def say_in(rig: Rig, life: Life, room: RoomId, text: str) -> None:
    await rig.receive(text, room=room)
    life.notify()


async def states(rig: Rig, *rooms: RoomId) -> list[RunnerState | None]:
    infos = [await rig.info(room) for room in rooms]
    return [None if info is None else info.state for info in infos]


def clis(rig: Rig, life: Life) -> dict[RoomId, bool]:
    """Whether each room's CLI runs."""
    return {room: worker.has_live_session for room, worker in life.manager.workers.items()}


def rests(kind: str) -> float:
    labels = {"rest": kind, "why": "memory"}
    return meters.REGISTRY.get_sample_value("aiagentchat_runner_rests_total", labels) or 0.0


def pressure() -> float | None:
    return meters.REGISTRY.get_sample_value("aiagentchat_memory_pressure")


def test_idle_rooms_rest_one_by_one_and_a_message_wakes_them(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(2000)
        stopped, hibernated = rests("stop_cli"), rests("hibernate")
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(60)
            await say_in(rig, life, OTHER, "two")
            await rig.wait_ended(2)
            await say_in(rig, life, BUSY, "work")
            await wait_running(rig)
            await asyncio.sleep(60)
            assert clis(rig, life) == {ROOM: True, OTHER: True, BUSY: True}
            assert pressure() == 0

            rig.memory = SHORT
            await asyncio.sleep(6)
            assert clis(rig, life) == {ROOM: False, OTHER: True, BUSY: True}, "the longest idle"
            assert pressure() == 1
            await asyncio.sleep(5)
            assert clis(rig, life) == {ROOM: False, OTHER: False, BUSY: True}
            assert await states(rig, ROOM, OTHER) == [RunnerState.RUNNING] * 2
            await asyncio.sleep(5)
            assert await states(rig, ROOM, OTHER) == [RunnerState.EXITED, RunnerState.RUNNING]
            await asyncio.sleep(5)
            assert await states(rig, ROOM, OTHER) == [RunnerState.EXITED] * 2
            await asyncio.sleep(300)
            assert clis(rig, life)[BUSY], "it works"
            assert await states(rig, BUSY) == [RunnerState.RUNNING]
            assert (rests("stop_cli") - stopped, rests("hibernate") - hibernated) == (2, 2)

            await tell(rig, life, "again")
            await rig.wait_ended(3)
            assert await states(rig, ROOM) == [RunnerState.RUNNING], "pressure refuses nobody"
        assert await rig.outcomes() == ["done", "done"]

    run(tmp_path, test, defaults={**NEVER, "timeout_s": 9000, "ceiling_s": 9000})


def test_pressure_that_is_over_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await say_in(rig, life, OTHER, "two")
            await rig.wait_ended(2)
            await asyncio.sleep(60)
            rig.memory = SHORT
            await asyncio.sleep(6)
            rig.memory = WELL
            await asyncio.sleep(1000)
            assert sorted(clis(rig, life).values()) == [False, True]
            assert await states(rig, ROOM, OTHER) == [RunnerState.RUNNING] * 2
            assert pressure() == 0

    run(tmp_path, test, defaults=NEVER)


def test_who_is_in_a_conversation_keeps_the_cli_between_two_messages(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.memory = SHORT
        async with rig.life() as life:
            for number in range(1, 6):
                await tell(rig, life, f"message {number}")
                await rig.wait_ended(number)
                await asyncio.sleep(20)
                assert clis(rig, life)[ROOM]
            await asyncio.sleep(30)
            assert not clis(rig, life)[ROOM]

    run(tmp_path, test, defaults=NEVER)


@pytest.mark.parametrize("memory_pressure", [None, {"stalled_percent": None}])
def test_what_is_switched_off_rests_by_time_alone(tmp_path: Path, memory_pressure: object) -> None:
    async def test(rig: Rig) -> None:
        rig.memory = SHORT
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(1000)
            assert clis(rig, life)[ROOM]
            value = meters.REGISTRY.get_sample_value("aiagentchat_memory_stalled_percent")
            assert value == 40, "the figure is there all the same"

    run(tmp_path, test, defaults=NEVER, docker={"memory_pressure": memory_pressure})


def test_a_runner_that_can_not_be_stopped_does_not_keep_the_others_awake(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(60)
            await say_in(rig, life, OTHER, "two")
            await rig.wait_ended(2)
            await asyncio.sleep(60)
            stop = life.backend.stop
            stuck = life.manager.workers[ROOM]._name

            async def refuse(name: str, *, grace_s: float) -> None:
                if name == stuck:
                    raise EngineUnavailableError
                await stop(name, grace_s=grace_s)

            life.backend.stop = refuse  # type: ignore[method-assign]
            rig.memory = SHORT
            await asyncio.sleep(40)
            assert await states(rig, ROOM, OTHER) == [RunnerState.RUNNING, RunnerState.EXITED]
            life.backend.stop = stop  # type: ignore[method-assign]
            await asyncio.sleep(60)
            assert await states(rig, ROOM) == [RunnerState.EXITED]

    run(tmp_path, test, defaults=NEVER)


def test_a_message_at_the_moment_of_an_early_rest_is_answered_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        ended = 0
        async with rig.life() as life:
            for number in range(40):
                await tell(rig, life, f"before {number}")
                await rig.wait_ended(ended + 1)
                await asyncio.sleep(31)
                rig.memory = SHORT
                await asyncio.sleep(4 + number * 0.15)
                await tell(rig, life, f"after {number}")
                await rig.wait_ended(ended + 2)
                rig.memory, ended = WELL, ended + 2
                await asyncio.sleep(6)
        assert await rig.outcomes() == ["done"] * 80
        assert len(rig.claude.asked) == len(set(rig.claude.asked)) == 80

    run(tmp_path, test, defaults=NEVER)
