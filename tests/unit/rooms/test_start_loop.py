"""A CLI that ends by itself as it is started, or hangs: told with its words, never a loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from tests.support.memory_claude import ExitNow, Turn
from tests.support.memory_shim import CliProcess, MemoryShim
from tests.support.room_rig import Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import run, tell


def crash_at_start(process: CliProcess) -> int:
    process.complain("\x1b[31mFatal\x1b[0m: cannot read settings\n" + "x" * 5000 + "\nthe end")
    return 7


async def crash(turn: Turn) -> None:
    turn.process.complain("oops")
    raise ExitNow(3)


def delay_input(shim: MemoryShim) -> None:
    """What is written to a process reaches it when it has ended already, if it ends at once."""
    inner = shim._command

    def command(kind: str, frame: dict[str, Any]) -> None:
        if kind == "input":
            asyncio.get_running_loop().call_later(0.1, inner, kind, frame)
        else:
            inner(kind, frame)

    shim._command = command  # type: ignore[method-assign] # a fault of the shim's or the CLI's


def test_a_cli_that_ends_as_it_is_started_is_tried_with_pauses_and_told_with_its_last_words(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "zero")
            await rig.wait_ended(1)
            next(iter(rig.shim.sessions.values())).kill(9)
            await asyncio.sleep(1)
            delay_input(rig.shim)
            rig.claude.on_start = crash_at_start
            began = loop_clock()
            await tell(rig, life, "one")
            await rig.wait_ended(2)
            assert len(rig.claude.started) == 4
            assert loop_clock() - began > 2
            rig.claude.on_start = lambda _: None
            await tell(rig, life, "two")
            await rig.wait_ended(3)
        _, failed, answer = await rig.bodies()
        assert "Claude Code ended by itself (code 7)" in failed
        assert failed.endswith("the end`.")
        assert "\x1b" not in failed
        assert len(failed) < 800
        assert answer == "You said: two"

    run(tmp_path, test)


@pytest.mark.parametrize("at_start", [True, False])
def test_a_queue_before_a_cli_that_always_ends_by_itself_does_not_spin(
    tmp_path: Path, at_start: bool
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["turn"] = crash
        async with rig.life() as life:
            if at_start:
                rig.claude.on_start = crash_at_start
            for number in range(12):
                await tell(rig, life, f"turn {number}")
                await asyncio.sleep(0.3)
            await asyncio.sleep(600)
            # 1 + 2 + 4 + … s between them, 300 s at most.
            assert 8 <= len(rig.claude.started) <= 12
            waits = [body for body in await rig.bodies() if "This waits" in body]
            assert 3 <= len(waits) <= 9
            assert "Claude Code ended by itself the last 4 times" in waits[0]

            # One that works ends all of it.
            rig.claude.on_start = lambda _: None
            rig.claude.scripts.clear()
            await rig.wait_ended(12, timeout_s=400)
            before = loop_clock()
            rig.claude.scripts["turn"] = crash
            await tell(rig, life, "turn again")
            await rig.wait_ended(13)
            assert loop_clock() - before < 10
        assert set(await rig.outcomes()) == {"failed", "done"}

    run(tmp_path, test)


def test_a_turn_that_waits_for_a_start_can_be_cancelled(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["turn"] = crash
        async with rig.life() as life:
            for number in range(6):
                await tell(rig, life, f"turn {number}")
                await rig.wait_ended(number + 1)
            await tell(rig, life, "turn on")
            await rig.wait_body("This waits 32 s")
            await tell(rig, life, "!cancel")
            await rig.wait_ended(7, timeout_s=2)
        assert (await rig.outcomes())[-1] == "cancelled"
        assert texts.CANCEL_NOTHING not in await rig.bodies()

    run(tmp_path, test)


def test_after_a_while_nobody_waits_for_failures_of_long_ago(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["turn"] = crash
        async with rig.life() as life:
            for number in range(4):
                await tell(rig, life, f"turn {number}")
                await rig.wait_ended(number + 1)
            await asyncio.sleep(60)
            await tell(rig, life, "fine")
            await rig.wait_ended(5, timeout_s=3)
        assert not any("This waits" in body for body in (await rig.bodies())[-2:])

    run(tmp_path, test)


async def deaf(turn: Turn) -> None:
    """Says something, closes its output, and reacts to nothing but a kill."""
    turn.ignores_interrupt = True
    turn.process.is_deaf = True
    turn.text("working")
    turn.process.write = lambda _: None  # type: ignore[method-assign] # a fault of the shim's or the CLI's
    await asyncio.Event().wait()


def test_a_cli_that_hangs_is_found_in_time_and_stopped_within_20_s_and_the_queue_goes_on(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = deaf
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            began = loop_clock()
            await tell(rig, life, "behind")
            await rig.wait_ended(1, timeout_s=400)
            assert 30 <= loop_clock() - began <= 30 + 20
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["timed_out", "done"]
        assert "Stopped: nothing came for 30 s." in await rig.bodies()
        assert len(rig.shims) == 1

    run(tmp_path, test, defaults={"timeout_s": 30})


def test_a_cli_that_never_reads_its_input_times_out_like_one_that_hangs(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        def never_reads(process: CliProcess) -> None:
            process.is_deaf = True
            process.read = asyncio.Event().wait  # type: ignore[method-assign,assignment] # a fault of the shim's or the CLI's

        rig.claude.on_start = never_reads
        async with rig.life() as life:
            await tell(rig, life, "hello")
            began = loop_clock()
            await rig.wait_ended(1, timeout_s=400)
            assert loop_clock() - began <= 30 + 20 + 2
            rig.claude.on_start = lambda _: None
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["timed_out", "done"]

    run(tmp_path, test, defaults={"timeout_s": 30})


def test_a_credential_that_the_api_refuses_ends_the_turn_before_the_cli_gives_up(
    tmp_path: Path,
) -> None:
    async def refused(turn: Turn) -> None:
        for attempt in range(1, 9):
            turn.line(
                type="system",
                subtype="api_retry",
                attempt=attempt,
                max_retries=8,
                retry_delay_ms=1000,
                error_status=401,
                error="authentication_failed",
            )
            await asyncio.sleep(10)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = refused
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1, timeout_s=20)
        assert await rig.bodies() == [
            "Failed: the API did not accept the credential (401); the operator has to check it."
        ]
        assert await rig.outcomes() == ["failed"]

    run(tmp_path, test)
