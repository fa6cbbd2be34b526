"""A room's disk as its worker sees it: told once, stopped where it is only counted, let go of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.core.disk import DiskUsage
from orchestrator.model import RunnerState
from tests.support.room_rig import ROOM, Rig
from tests.unit.rooms.scenario import hang, run, tell

MIB = 1 << 20
ENFORCED = DiskUsage(
    used_bytes=MIB, limit_bytes=100 * MIB, files=10, limit_files=1000, is_enforced=True
)
COUNTED = replace(ENFORCED, is_enforced=False)


def test_a_room_is_told_once_that_its_disk_is_full_and_again_when_it_was_not(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = ENFORCED
        async with rig.life() as life:
            for number, used in enumerate((1, 99, 100, 99, 1, 100), start=1):
                await tell(rig, life, f"message {number}")
                await rig.wait_ended(number)
                rig.housing.usage = replace(ENFORCED, used_bytes=used * MIB)
        told = [body for body in await rig.bodies() if "disk is full" in body]
        assert len(told) == 1
        assert "99 MiB of 100 MiB" in told[0]
        assert "limits.disk" in told[0]

    run(tmp_path, test)


def test_a_room_without_files_left_is_told_which_limit_it_met(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = replace(ENFORCED, files=1000)
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_body("takes no more files: it has 1000 of 1000")

    run(tmp_path, test)


def test_a_cli_that_starts_on_a_full_disk_can_run_the_command_that_empties_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            rig.housing.is_home_full = True
            await tell(rig, life, "!new")
            await rig.wait_body("starts a new conversation")
            await tell(rig, life, "two")
            await rig.wait_body("You said: two")
        first, second = rig.shim.sessions.values()
        assert first.env["CLAUDE_CODE_TMPDIR"] == "/home/agent/.tmp"
        assert second.env["CLAUDE_CODE_TMPDIR"] == "/tmp"

    run(tmp_path, test)


def test_a_turn_that_grows_a_counted_room_past_its_limit_is_stopped_and_the_next_may_clean_up(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = COUNTED
        rig.claude.scripts["grow"] = hang
        async with rig.life() as life:
            await tell(rig, life, "grow")
            await rig.wait_body("working")
            rig.housing.usage = replace(COUNTED, used_bytes=101 * MIB)
            await rig.wait_body("it met this room's disk limit")
            await rig.wait_ended(1)
            await tell(rig, life, "clean")
            await rig.wait_body("You said: clean")
        assert await rig.outcomes() == ["failed", "done"]

    run(tmp_path, test)


def test_an_idle_room_that_is_counted_and_grows_has_its_runner_stopped(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = COUNTED
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            rig.housing.usage = replace(COUNTED, used_bytes=101 * MIB)

            async def is_stopped() -> bool:
                info = await rig.info()
                return info is not None and info.state is RunnerState.EXITED

            await rig.wait(is_stopped)
            rig.housing.usage = COUNTED
            await tell(rig, life, "two")
            await rig.wait_body("You said: two")

    run(tmp_path, test)


def test_a_room_past_twice_its_limit_takes_no_turn_until_there_is_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = replace(COUNTED, used_bytes=201 * MIB)
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_body("the operator has to make room")
            assert rig.shims == []
            rig.housing.usage = COUNTED
            await tell(rig, life, "two")
            await rig.wait_body("You said: two")

    run(tmp_path, test)


def test_a_disk_that_met_an_error_is_told_and_the_next_turn_has_a_new_runner(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = ENFORCED
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            rig.housing.usage = replace(ENFORCED, is_sick=True)
            await tell(rig, life, "two")
            await rig.wait_body("met an error")
            rig.housing.usage = ENFORCED
            await tell(rig, life, "three")
            await rig.wait_ended(3)
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_disk_that_can_not_be_looked_at_holds_nothing_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.usage = OSError()
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_body("You said: one")
            await tell(rig, life, "!status")
            await rig.wait_body("- Disk: unknown (OSError)")

    run(tmp_path, test)


def test_the_status_of_a_room_at_rest_has_what_its_disk_holds(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.resting_usage = replace(ENFORCED, used_bytes=123 << 20, limit_bytes=5 << 30)
        async with rig.life() as life:
            await tell(rig, life, "!status")
            await rig.wait_body("- Disk: 123 MiB of 5 GiB, ")

    run(tmp_path, test)


def test_only_a_room_without_a_container_may_have_its_files_moved(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            made = list(rig.housing.vacant)
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        async with rig.life() as life:
            await tell(rig, life, "three")
            await rig.wait_ended(3)
        # Once for the one container that was made, right before it; never with one there.
        assert made[-1] is True
        assert made.count(True) == rig.housing.vacant.count(True) == 1

    run(tmp_path, test)


def test_a_room_that_is_left_keeps_nothing_mounted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await life.manager.retire(ROOM)

            async def is_vacated() -> bool:
                return bool(rig.housing.vacated)

            await rig.wait(is_vacated)
        info = await rig.info()
        assert info is not None
        assert info.state is RunnerState.EXITED

    run(tmp_path, test)
