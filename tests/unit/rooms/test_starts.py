"""So many runners start at once; the others wait in the order of asking."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from orchestrator import meters
from orchestrator.errors import EngineRequestError, EngineUnavailableError, StartWithdrawnError
from orchestrator.model import RoomId
from orchestrator.rooms.starts import RunnerStarts
from tests.support.room_rig import Life, Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import run

ROOMS = [RoomId(f"!room{number}:test") for number in range(12)]


def waits() -> float:
    return meters.REGISTRY.get_sample_value("aiagentchat_runner_start_waits_total") or 0.0


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def start(starts: RunnerStarts, name: str, order: list[str], end: asyncio.Event) -> None:
    async with starts.permit() as permit:
        await permit.take()
        await permit.take()
        order.append(name)
        await end.wait()


async def test_who_comes_first_starts_first_and_never_too_many() -> None:
    starts, order, before = RunnerStarts(2), list[str](), waits()
    ends = {name: asyncio.Event() for name in "abcde"}
    async with asyncio.TaskGroup() as group:
        for name, end in ends.items():
            group.create_task(start(starts, name, order, end))
        await settle()
        assert (order, starts.inside, starts.waiting) == (["a", "b"], 2, 3)
        ends["b"].set()
        await settle()
        assert order == ["a", "b", "c"]
        ends["a"].set()
        ends["c"].set()
        await settle()
        assert (order, starts.inside, starts.waiting) == (["a", "b", "c", "d", "e"], 2, 0)
        for end in ends.values():
            end.set()
    assert starts.inside == 0
    assert waits() - before == 3


async def test_without_a_limit_nobody_waits() -> None:
    starts, order, end = RunnerStarts(None), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(start(starts, name, order, end))
        await settle()
        assert order == ["a", "b", "c"]
        end.set()
    assert starts.inside == 0


async def test_a_start_that_fails_frees_its_place() -> None:
    starts = RunnerStarts(1)

    async def fail() -> None:
        async with starts.permit() as permit:
            await permit.take()
            raise EngineRequestError

    for _ in range(3):
        with pytest.raises(EngineRequestError):
            await fail()
    assert starts.inside == 0


async def test_one_that_needs_no_start_takes_no_place() -> None:
    starts = RunnerStarts(1)
    async with starts.permit(), starts.permit() as second:
        await second.take()
        assert starts.inside == 1
    assert starts.inside == 0


async def test_who_is_withdrawn_while_it_waits_makes_way() -> None:
    starts, order, end, withdrawn = RunnerStarts(1), list[str](), asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        with pytest.raises(StartWithdrawnError):
            async with starts.permit(withdrawn) as permit:
                await permit.take()
        order.append("withdrawn")

    async with asyncio.TaskGroup() as group:
        group.create_task(start(starts, "a", order, end))
        await settle()
        group.create_task(wait())
        await settle()
        group.create_task(start(starts, "c", order, end))
        await settle()
        withdrawn.set()
        await settle()
        assert (order, starts.waiting) == (["a", "withdrawn"], 1)
        end.set()
    assert order == ["a", "withdrawn", "c"]
    assert starts.inside == 0


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_is_cancelled_and_whenever_no_place_is_lost(seed: int) -> None:
    chance, starts, most = random.Random(seed), RunnerStarts(3), 0

    async def one() -> None:
        nonlocal most
        async with starts.permit() as permit:
            await permit.take()
            most = max(most, starts.inside)
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        tasks = []
        for _ in range(200):
            tasks.append(group.create_task(one()))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            chance.choice(tasks).cancel()
    assert most == 3
    assert (starts.inside, starts.waiting) == (0, 0)


class Starting:
    """How many containers of a life are between made and started; each takes 5 s for that."""

    def __init__(self, life: Life) -> None:
        self.now, self.most, self.order = 0, 0, list[str]()
        self._start = life.backend.start
        self.fails = False
        life.backend.start = self.start  # type: ignore[method-assign]

    async def start(self, name: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(name)
        try:
            await asyncio.sleep(5)
            if self.fails:
                self.fails = False
                raise EngineRequestError
            await self._start(name)
        finally:
            self.now -= 1


async def ask_all(rig: Rig, life: Life, rooms: list[RoomId]) -> None:
    for room in rooms:
        await rig.receive(f"hello from {room}", room=room)
    life.notify()


@pytest.mark.parametrize("max_runners", [None, 4])
def test_many_rooms_at_once_start_a_few_at_a_time(tmp_path: Path, max_runners: int | None) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            starting = Starting(life)
            await ask_all(rig, life, ROOMS)
            await rig.wait_ended(len(ROOMS), timeout_s=300)
            assert starting.most == 2
            assert len(starting.order) == len(ROOMS)
            starts = life.manager._kit.starts
            assert (starts.inside, starts.waiting) == (0, 0)
        for room in ROOMS:
            assert await rig.outcomes(room) == ["done"]

    run(tmp_path, test, docker={"max_starts": 2, "max_runners": max_runners})


def test_a_room_that_works_already_waits_for_no_start(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask_all(rig, life, ROOMS[:1])
            await rig.wait_ended(1)
            starting = Starting(life)
            await ask_all(rig, life, ROOMS[1:])
            await asyncio.sleep(2)
            assert starting.now == 1
            await ask_all(rig, life, ROOMS[:1])
            await asyncio.sleep(2)
            assert await rig.outcomes(ROOMS[0]) == ["done", "done"]

    run(tmp_path, test, docker={"max_starts": 1})


def test_a_turn_that_waits_for_its_start_can_be_cancelled(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        first, second, third = ROOMS[:3]
        async with rig.life() as life:
            starting = Starting(life)
            for room in (first, second, third):
                await ask_all(rig, life, [room])
                await asyncio.sleep(1)
            assert starting.now == 1
            await rig.receive("!cancel", room=second)
            life.notify()
            await asyncio.sleep(1)
            assert await rig.outcomes(second) == ["cancelled"], "while the first still starts"
            assert await rig.outcomes(first) == []
            await rig.wait_ended(3)
            assert len(starting.order) == 2
        assert await rig.outcomes(first) == await rig.outcomes(third) == ["done"]

    run(tmp_path, test, docker={"max_starts": 1})


def test_a_cancel_during_an_attempt_that_fails_waits_for_no_other(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            attempts = 0

            async def fail(_: str) -> None:
                nonlocal attempts
                attempts += 1
                await asyncio.sleep(10)
                raise EngineUnavailableError

            life.backend.inspect = fail  # type: ignore[assignment,method-assign]
            await ask_all(rig, life, ROOMS[:1])

            async def is_sixth() -> bool:
                return attempts == 6

            await rig.wait(is_sixth, timeout_s=300)
            await asyncio.sleep(5)
            began = loop_clock()
            await rig.receive("!cancel", room=ROOMS[0])
            life.notify()
            await rig.wait_ended(1)
            assert loop_clock() - began < 15, "once the attempt is over, and not a pause later"
        assert await rig.outcomes(ROOMS[0]) == ["cancelled"]

    run(tmp_path, test)


def test_a_start_that_fails_is_tried_again_and_holds_nobody_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            starting = Starting(life)
            starting.fails = True
            await ask_all(rig, life, ROOMS[:3])
            await rig.wait_ended(3, timeout_s=60)
            assert len(starting.order) == 4
            assert starting.most == 1
        for room in ROOMS[:3]:
            assert await rig.outcomes(room) == ["done"]

    run(tmp_path, test, docker={"max_starts": 1})


def test_a_room_that_is_left_while_it_waits_makes_way(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        first, second, third = ROOMS[:3]
        async with rig.life() as life:
            starting = Starting(life)
            for room in (first, second, third):
                await ask_all(rig, life, [room])
                await asyncio.sleep(1)
            await life.manager.retire(second)
            await rig.wait_ended(3)
            assert len(starting.order) == 2
        assert await rig.outcomes(first) == await rig.outcomes(third) == ["done"]

    run(tmp_path, test, docker={"max_starts": 1})
