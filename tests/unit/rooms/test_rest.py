"""A room that nobody writes in: its CLI ends, then its container; the next message has it all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.core import texts
from orchestrator.core.naming import room_slug
from orchestrator.model import RoomId, RunnerState
from tests.support.room_rig import ROOM, Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, hang, run, tell, wait_running, works_for

OTHER = RoomId("!other:test")
RESTS = {"idle_stop_s": 100, "hibernate_s": 1000}


async def state(rig: Rig, room: RoomId = ROOM) -> RunnerState | None:
    info = await rig.info(room)
    return None if info is None else info.state


async def say_in(rig: Rig, life: Life, room: RoomId, text: str) -> None:
    await rig.receive(text, room=room)
    life.notify()


def live(rig: Rig) -> list[str]:
    """What runs in the runner."""
    return sorted(name for name, at in rig.shim.statuses.items() if at["state"] == "running")


def test_the_cli_ends_then_the_container_and_the_next_message_goes_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await tell(rig, life, "!ls")
            await rig.wait_body("Nothing is there")
            assert len(live(rig)) == 2, "a CLI, and the program for the files"
            await asyncio.sleep(90)
            assert len(live(rig)) == 2
            await asyncio.sleep(20)
            assert live(rig) == []
            assert await state(rig) is RunnerState.RUNNING
            await tell(rig, life, "two")
            await rig.wait_ended(2)
            assert len(rig.shims) == 1
            await asyncio.sleep(990)
            assert await state(rig) is RunnerState.RUNNING
            await asyncio.sleep(20)
            assert await state(rig) is RunnerState.EXITED
            await tell(rig, life, "three")
            await rig.wait_ended(3)
            assert len(rig.shims) == 2
        first, *later = rig.claude.started
        session = first[first.index("--session-id") + 1]
        assert [argv[argv.index("--resume") + 1] for argv in later] == [session, session]
        assert rig.claude.asked == ["one", "two", "three"]
        assert await rig.outcomes() == ["done"] * 3

    run(tmp_path, test, defaults=RESTS)


def test_a_turn_that_runs_is_no_rest(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = works_for(1500)
        async with rig.life() as life:
            await tell(rig, life, "long")
            await rig.wait_ended(1, timeout_s=2000)
        assert await rig.outcomes() == ["done"]
        assert len(rig.shims) == 1

    run(tmp_path, test, defaults={**RESTS, "timeout_s": 9000, "ceiling_s": 9000})


def test_what_is_set_to_never_is_never(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(100_000)
            assert len(live(rig)) == 1
            assert await state(rig) is RunnerState.RUNNING

    run(tmp_path, test, defaults={"idle_stop_s": None, "hibernate_s": None})


def test_a_command_wakes_a_container_that_rests_again_later(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(1010)
            assert await state(rig) is RunnerState.EXITED
            await tell(rig, life, "!ls")
            await rig.wait_body("Nothing is there")
            assert await state(rig) is RunnerState.RUNNING
            await asyncio.sleep(500)
            assert await state(rig) is RunnerState.RUNNING
            assert live(rig) == []
            await asyncio.sleep(600)
            assert await state(rig) is RunnerState.EXITED

    run(tmp_path, test, defaults=RESTS)


def test_an_engine_that_is_away_is_asked_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(990)
            life.backend.lose()
            await asyncio.sleep(100)
            life.backend.is_away = False
            await asyncio.sleep(1100)
            assert await state(rig) is RunnerState.EXITED
            await tell(rig, life, "two")
            await rig.wait_ended(2)

    run(tmp_path, test, defaults=RESTS)


@pytest.mark.parametrize("rest_s", [100, 1000])
def test_a_message_at_the_moment_of_rest_is_answered_once(tmp_path: Path, rest_s: float) -> None:
    async def once(folder: Path, at: float) -> None:
        async with open_rig(folder, defaults=RESTS) as rig:
            async with rig.life() as life:
                await tell(rig, life, "one")
                await rig.wait_ended(1)
                await asyncio.sleep(at)
                await tell(rig, life, "two")
                await rig.wait_ended(2)
            assert rig.claude.asked == ["one", "two"], at
            assert await rig.outcomes() == ["done", "done"], at
            assert audit(folder) == (), at

    async def main() -> None:
        for number in range(24):
            # The message becomes a turn some 0.3 s after it was sent.
            await once(tmp_path / str(number), rest_s - 0.6 + number * 0.05)

    run_rooms(main())


def test_a_crash_at_any_step_of_going_to_rest_loses_nothing(tmp_path: Path) -> None:
    sections = {"defaults": {"idle_stop_s": 5, "hibernate_s": 10}}

    async def once(folder: Path, crash_at: int) -> int:
        async with open_rig(folder, **sections) as rig:
            async with rig.life(crash_at=crash_at) as life:
                await tell(rig, life, "one")
                await asyncio.sleep(20)
                count = life.points.count
            async with rig.life() as life:
                await rig.wait_ended(1)
                await tell(rig, life, "two")
                await rig.wait_ended(2)
            assert rig.claude.asked == ["one", "two"], crash_at
            assert await rig.outcomes() == ["done", "done"], crash_at
            return count

    async def main() -> None:
        total = await once(tmp_path / "whole", 0)
        assert total > 20
        for crash_at in range(1, total + 1, 2):
            await once(tmp_path / str(crash_at), crash_at)

    run_rooms(main())


def test_with_one_place_the_idle_room_makes_room_for_the_other(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for number, room in enumerate([ROOM, OTHER, ROOM, OTHER], start=1):
                await say_in(rig, life, room, f"to {number}")
                await rig.wait_ended(number)
                await asyncio.sleep(1)
                states = [await state(rig, ROOM), await state(rig, OTHER)]
                assert states.count(RunnerState.RUNNING) == 1
            assert not any("waits" in body for body in await rig.bodies())
        assert await rig.outcomes() == ["done", "done"]
        assert await rig.outcomes(OTHER) == ["done", "done"]

    run(tmp_path, test, docker={"max_runners": 1})


def test_a_room_that_works_is_waited_for_and_the_waiting_one_is_told_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            await say_in(rig, life, OTHER, "mine")
            await say_in(rig, life, OTHER, "!ls")
            await asyncio.sleep(30)
            assert await state(rig, OTHER) is None
            told = [b for b in await rig.bodies(OTHER) if b == texts.no_place(1)]
            assert len(told) == 1
            await rig.wait_ended(2)
            await rig.wait_body("Nothing is there", room=OTHER)
            told = [b for b in await rig.bodies(OTHER) if b == texts.no_place(1)]
            assert len(told) == 1
            assert await state(rig, ROOM) is RunnerState.EXITED

    run(tmp_path, test, docker={"max_runners": 1})


def test_a_cancelled_turn_between_does_not_lose_the_request_for_the_place(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            await tell(rig, life, "taken back")
            await asyncio.sleep(2)
            await say_in(rig, life, OTHER, "mine")
            await asyncio.sleep(2)
            turn = next(turn for turn in await rig.turns() if turn.prompt == "taken back")
            await rig.receive_event(
                "m.room.redaction", {"redacts": turn.asked[0]}, redacts=turn.asked[0]
            )
            life.notify()
            await rig.wait_ended(3, timeout_s=60)
        assert await rig.outcomes(OTHER) == ["done"]

    run(tmp_path, test, docker={"max_runners": 1}, defaults={"hibernate_s": None})


def test_one_that_waits_for_a_place_can_be_cancelled_and_holds_nobody_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            await say_in(rig, life, OTHER, "mine")
            await asyncio.sleep(5)
            await say_in(rig, life, OTHER, "!cancel")
            await rig.wait_ended(1, timeout_s=20)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(2, timeout_s=20)
            await tell(rig, life, "again")
            await rig.wait_ended(3, timeout_s=20)
        assert await rig.outcomes(OTHER) == ["cancelled"]
        assert await rig.outcomes() == ["cancelled", "done"]

    run(tmp_path, test, docker={"max_runners": 1})


def test_a_room_that_gives_its_place_up_has_its_copy_made_before(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.workspace.mkdir(parents=True)
        (rig.claude.workspace / "a.txt").write_text("a" * 100_000)
        async with rig.life() as life:
            await tell(rig, life, "one")
            await say_in(rig, life, OTHER, "two")
            await rig.wait_ended(2)
            await asyncio.sleep(5)
        for room in (ROOM, OTHER):
            (copy,) = await rig.store.copies.of_room(room_slug(room))
            assert copy.after is not None, room

    run(tmp_path, test, docker={"max_runners": 1}, defaults={"snapshots": {"keep": 5}})


def test_what_runs_is_taken_up_again_though_fewer_may_run_now(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            rig.claude.scripts["work"] = works_for(60)
            async with rig.life() as life:
                await tell(rig, life, "work")
                await say_in(rig, life, OTHER, "work")
                await wait_running(rig, 2)
            docker = rig.config.docker.model_copy(update={"max_runners": 1})
            rig.config = rig.config.model_copy(update={"docker": docker})
            async with rig.life() as life:
                await asyncio.sleep(20)
                assert "finished" not in str(await rig.bodies())
                await rig.wait_ended(2, timeout_s=60)
                await asyncio.sleep(5)
                states = [await state(rig, ROOM), await state(rig, OTHER)]
                assert states.count(RunnerState.RUNNING) == 1
        assert rig.claude.asked == ["work", "work"]

    run_rooms(main())
