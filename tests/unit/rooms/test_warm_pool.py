"""Runners made ahead: each is taken by one room at most, whatever happens, and gives way to all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import meters
from orchestrator.core import texts
from orchestrator.core.memory_pressure import MemorySight
from orchestrator.core.naming import room_slug, runner_name
from orchestrator.errors import PreconditionError
from orchestrator.model import RoomId, RunnerState
from orchestrator.ports import RunnerInfo
from orchestrator.store.api import RoomRow, SpareRow
from tests.support.room_rig import INSTALLATION, ROOM, Life, Rig, config, open_rig, run_rooms
from tests.unit.rooms.scenario import run, tell, works_for
from tests.unit.rooms.test_upgrade import NEW, deliver, upgrade

OTHER = RoomId("!other:test")
ONE = {"prewarm": 1}
SHORT = MemorySight(stalled_percent=40.0, available_percent=50.0)


async def spares(rig: Rig) -> Sequence[SpareRow]:
    return await rig.store.spares.all()


async def container(rig: Rig, row: SpareRow | RoomRow) -> RunnerInfo | None:
    return await rig.backend.inspect(runner_name(INSTALLATION, row.slug))


async def wait_full(rig: Rig, count: int = 1, *, timeout_s: float = 100) -> list[RunnerInfo]:
    """Until so many are ready; their containers."""

    async def is_full() -> bool:
        return [row.is_ready for row in await spares(rig)] == [True] * count

    await rig.wait(is_full, timeout_s=timeout_s)
    infos = [await container(rig, row) for row in await spares(rig)]
    assert all(info is not None and info.state is RunnerState.RUNNING for info in infos)
    return [info for info in infos if info is not None]


async def room_of(rig: Rig, room: RoomId = ROOM) -> RoomRow:
    row = await rig.store.rooms.get(room)
    assert row is not None
    return row


async def check_places(rig: Rig) -> None:
    """No place is two's, and no container nobody's."""
    rows = [*await spares(rig), *await rig.store.rooms.all()]
    assert len({row.slug for row in rows}) == len({row.index for row in rows}) == len(rows)
    assert {info.slug for info in await rig.backend.list()} <= {row.slug for row in rows}


async def say_in(rig: Rig, life: Life, room: RoomId, text: str) -> None:
    await rig.receive(text, room=room)
    life.notify()


def test_a_new_room_takes_one_and_another_is_made(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            (made,) = await wait_full(rig)
            assert rig.housing.prepared == 0, "nothing that is a room's: no door"
            assert meters.REGISTRY.get_sample_value("aiagentchat_spare_runners") == 1
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            room = await room_of(rig)
            info = await container(rig, room)
            assert info is not None
            assert (info.container_id, room.slug) == (made.container_id, made.slug)
            (again,) = await wait_full(rig)
            assert again.container_id != made.container_id
            assert len(rig.shims) == 2
            await check_places(rig)
        assert await rig.bodies() == ["You said: hello"]

    run(tmp_path, test, docker=ONE)


def test_without_it_a_room_has_a_place_of_its_own_name(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await asyncio.sleep(60)
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
        assert (await room_of(rig)).slug == room_slug(ROOM)
        assert not await spares(rig)
        assert len(rig.shims) == 1

    run(tmp_path, test)


def test_of_two_rooms_at_once_one_has_the_one_that_there_is(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            (made,) = await wait_full(rig)
            await rig.receive("one", room=ROOM)
            await say_in(rig, life, OTHER, "two")
            await rig.wait_ended(2)
            slugs = {(await room_of(rig, room)).slug for room in (ROOM, OTHER)}
            assert made.slug in slugs
            assert len(slugs) == 2
            await wait_full(rig)
            await check_places(rig)
        assert await rig.bodies() == ["You said: one"]
        assert await rig.bodies(OTHER) == ["You said: two"]

    run(tmp_path, test, docker=ONE)


async def crash_while_filling(folder: Path, crash_at: int) -> int:
    async with open_rig(folder, docker={"prewarm": 2}) as rig:
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                rows = await spares(rig)
                full = len(rows) == 2 and all(row.is_ready for row in rows)
                return life.points.crashed.is_set() or full

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life():
            await wait_full(rig, 2)
            await check_places(rig)
            assert len(await rig.backend.list()) == 2
        return count


def test_a_crash_at_any_step_of_filling_leaves_nothing_behind(tmp_path: Path) -> None:
    steps = run_rooms(crash_while_filling(tmp_path / "none", 0))
    assert steps > 30
    for crash_at in range(1, steps + 1):
        run_rooms(crash_while_filling(tmp_path / str(crash_at), crash_at))


async def crash_while_taking(folder: Path, crash_at: int) -> int:
    async with open_rig(folder, docker=ONE) as rig:
        async with rig.life():
            (made,) = await wait_full(rig)
        await rig.receive("one")
        await rig.receive("two", room=OTHER)
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                full = [row.is_ready for row in await spares(rig)] == [True]
                ended = sum(t.outcome is not None for t in await rig.turns()) == 2
                return life.points.crashed.is_set() or (ended and full)

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life():
            await rig.wait_ended(2, timeout_s=60)
            await wait_full(rig)
            await check_places(rig)
            assert len(await rig.backend.list()) == 3
        rows = [await room_of(rig, room) for room in (ROOM, OTHER)]
        (taker,) = [row for row in rows if row.slug == made.slug]
        info = await container(rig, taker)
        assert info is not None
        assert info.container_id == made.container_id, crash_at
        assert [await rig.bodies(room) for room in (ROOM, OTHER)] == [
            ["You said: one"],
            ["You said: two"],
        ], crash_at
        return count


def test_a_crash_at_any_step_of_taking_one_neither_loses_nor_doubles_it(tmp_path: Path) -> None:
    steps = run_rooms(crash_while_taking(tmp_path / "none", 0))
    assert steps > 100
    for crash_at in range(1, steps + 1, 2):
        run_rooms(crash_while_taking(tmp_path / str(crash_at), crash_at))


async def crash_while_letting_go(folder: Path, crash_at: int) -> int:
    async with open_rig(folder, docker={"prewarm": 2}) as rig:
        async with rig.life():
            await wait_full(rig, 2)
        rig.config = config()
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                return life.points.crashed.is_set() or not await spares(rig)

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life():

            async def is_gone() -> bool:
                return not await spares(rig)

            await rig.wait(is_gone)
            assert not await rig.backend.list()
            assert len(set(rig.housing.cleared)) == 2
        return count


def test_too_many_are_removed_with_their_files_whatever_step_a_crash_meets(tmp_path: Path) -> None:
    steps = run_rooms(crash_while_letting_go(tmp_path / "none", 0))
    assert steps > 10
    for crash_at in range(1, steps + 1):
        run_rooms(crash_while_letting_go(tmp_path / str(crash_at), crash_at))


def test_one_of_an_earlier_life_is_found_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            (made,) = await wait_full(rig)
        async with rig.life() as life:
            await asyncio.sleep(60)
            (found,) = await wait_full(rig)
            assert found.container_id == made.container_id
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            assert (await room_of(rig)).slug == made.slug

    run(tmp_path, test, docker=ONE)


def test_one_of_another_configuration_is_replaced_in_its_place(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            (made,) = await wait_full(rig)
        rig.housing.memory *= 2
        async with rig.life():
            await asyncio.sleep(30)
            (other,) = await wait_full(rig)
            assert other.slug == made.slug
            assert other.spec_hash != made.spec_hash
            assert len(await rig.backend.list()) == 1

    run(tmp_path, test, docker=ONE)


def test_a_room_with_a_profile_of_its_own_gets_its_own_container_before_its_turn(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.of_room[ROOM] = 5 << 30
        async with rig.life() as life:
            (made,) = await wait_full(rig)
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            room = await room_of(rig)
            info = await container(rig, room)
            assert info is not None
            assert room.slug == made.slug
            assert info.spec_hash != made.spec_hash
            assert info.container_id != made.container_id
            assert rig.housing.vacant == [*[False] * (len(rig.housing.vacant) - 1), True]
        assert await rig.bodies() == ["You said: hello"]

    run(tmp_path, test, docker=ONE)


def test_one_that_died_is_replaced_and_one_that_dies_always_is_made_less_often(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            (made,) = await wait_full(rig)
            await rig.backend.stop(made.name, grace_s=0)
            await asyncio.sleep(20)
            (other,) = await wait_full(rig)
            assert other.container_id != made.container_id
            for _ in range(1000):
                await asyncio.sleep(1)
                for info in await rig.backend.list():
                    await rig.backend.stop(info.name, grace_s=0)
            assert 3 < life.backend.calls.count("start") < 30

    run(tmp_path, test, docker=ONE)


def test_a_room_that_took_a_dead_one_gets_another_container(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            (made,) = await wait_full(rig)
        await rig.backend.stop(made.name, grace_s=0)
        await rig.store.rooms.ensure(ROOM, joined=True)
        await rig.receive("hello")
        async with rig.life():
            await rig.wait_ended(1)
            assert (await room_of(rig)).slug == made.slug
        assert await rig.bodies() == ["You said: hello"]

    run(tmp_path, test, docker=ONE)


def test_with_one_place_a_room_that_there_is_has_it_and_the_pool_has_what_is_left(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(60)
            assert not any(row.is_ready for row in await spares(rig)), "the place is the room's"
            await asyncio.sleep(100)
            await wait_full(rig)
            await tell(rig, life, "two")
            await rig.wait_ended(2, timeout_s=5)
            running = [i for i in await rig.backend.list() if i.state is RunnerState.RUNNING]
            assert [info.slug for info in running] == [(await room_of(rig)).slug]
            await asyncio.sleep(200)
            await wait_full(rig)
        assert await rig.bodies() == ["You said: one", "You said: two"]

    defaults = {"idle_stop_s": 60, "hibernate_s": 100}
    run(tmp_path, test, docker={"prewarm": 1, "max_runners": 1}, defaults=defaults)


def test_with_one_place_a_new_room_takes_runner_and_place(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            (made,) = await wait_full(rig)
            await tell(rig, life, "one")
            await rig.wait_ended(1, timeout_s=5)
            (only,) = await rig.backend.list()
            assert only.container_id == made.container_id
            await say_in(rig, life, OTHER, "two")
            await rig.wait_ended(2, timeout_s=30)
            await check_places(rig)
        assert await rig.bodies(OTHER) == ["You said: two"]

    run(tmp_path, test, docker={"prewarm": 4, "max_runners": 1})


def test_where_memory_is_short_they_go_first_and_none_is_made(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await wait_full(rig, 2)
            await asyncio.sleep(60)
            rig.memory = SHORT
            await asyncio.sleep(6)
            assert [row.is_ready for row in await spares(rig)] == [False] * 2
            assert len(await rig.backend.list()) == 1
            assert life.manager.workers[ROOM].has_live_session
            await asyncio.sleep(60)
            assert not life.manager.workers[ROOM].has_live_session, "then rooms rest"
            assert len(await rig.backend.list()) == 1
            rig.memory = MemorySight(stalled_percent=0.0, available_percent=50.0)
            await wait_full(rig, 2)

    run(tmp_path, test, docker={"prewarm": 2}, defaults={"idle_stop_s": None, "hibernate_s": None})


def test_on_a_full_disk_none_is_made(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.space = False
        async with rig.life():
            await asyncio.sleep(600)
            assert not await spares(rig)
            rig.housing.space = True
            await wait_full(rig)

    run(tmp_path, test, docker=ONE)


def test_an_engine_that_is_away_and_a_place_that_is_damaged_are_waited_out(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await wait_full(rig)
            life.backend.lose()
            await asyncio.sleep(600)
            life.backend.is_away = False
            await wait_full(rig)
        rig.config = config(docker={"prewarm": 2})
        rig.housing.errors = [PreconditionError("damaged") for _ in range(2)]
        async with rig.life():
            await wait_full(rig, 2)
            await check_places(rig)
            assert len(await rig.backend.list()) == 2

    run(tmp_path, test, docker=ONE)


def test_it_is_made_while_no_room_starts(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            busy = life.manager._kit.starts
            assert await busy.enter(asyncio.Event())
            await asyncio.sleep(60)
            assert not await spares(rig)
            busy.leave()
            await wait_full(rig)

    run(tmp_path, test, docker={**ONE, "max_starts": 1})


def test_an_upgraded_room_keeps_its_runner_and_what_the_new_one_took_goes(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            (first,) = await wait_full(rig)
            await tell(rig, life, "remember")
            await rig.wait_ended(1)
            (second,) = await wait_full(rig)
            await deliver(rig)
            await upgrade(rig, life)
            await rig.receive("go on", room=NEW)
            life.notify()
            await rig.wait_ended(2)
            new, old = await room_of(rig, NEW), await room_of(rig, ROOM)
            assert (new.slug, old.slug) == (first.slug, second.slug)
            info = await container(rig, new)
            assert info is not None
            assert info.container_id == first.container_id
            assert await container(rig, old) is None
            await wait_full(rig)
            await check_places(rig)
        assert await rig.bodies(NEW) == [texts.ROOM_CONTINUES, "You said: go on"]

    run(tmp_path, test, docker=ONE)


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.3])
def test_a_room_that_works_is_never_asked_for_its_place(tmp_path: Path, delay_s: float) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            await asyncio.sleep(delay_s)
            await tell(rig, life, "work")
            await rig.wait_ended(1)
            assert await rig.outcomes() == ["done"]

    run(tmp_path, test, docker={"prewarm": 3, "max_runners": 2})
