"""Lives of the orchestrator end while turns run; connections end; the engine goes away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core import texts
from orchestrator.errors import EngineRefusedError
from tests.support.memory_claude import Turn
from tests.support.room_rig import ROOM, Rig
from tests.unit.rooms.scenario import hang, run, tell, works_for


def test_a_turn_goes_on_while_the_orchestrator_is_away_and_its_answer_is_shown(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
        await asyncio.sleep(4000)  # more than both limits: the answer was there in time
        async with rig.life():
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]
        assert await rig.outcomes() == ["done"]
        assert len(rig.claude.started) == 1

    run(tmp_path, test)


def test_a_turn_that_hangs_since_before_a_restart_still_meets_its_limit(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        await asyncio.sleep(4000)
        async with rig.life():
            # One silence more, in case that it was the clock that was set ahead.
            await rig.wait_ended(1, timeout_s=rig.config.defaults.timeout_s + 100)
        assert await rig.outcomes() == ["timed_out"]

    run(tmp_path, test)


def test_a_runner_that_was_restarted_meanwhile_is_told(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        info = await rig.info()
        assert info is not None
        await rig.backend.stop(info.name, grace_s=1)
        await rig.backend.start(info.name)
        async with rig.life() as life:
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert "started anew" in (await rig.bodies())[1]
        assert rig.claude.asked == ["hang", "after"]

    run(tmp_path, test)


@pytest.mark.parametrize("oom", [False, True])
def test_a_runner_that_died_meanwhile_is_told(tmp_path: Path, oom: bool) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        info = await rig.info()
        assert info is not None
        await rig.backend.stop(info.name, grace_s=1)
        if oom:
            container = rig.backend.engine.containers[info.name]
            container.info = replace(container.info, oom_killed=True)
        async with rig.life():
            await rig.wait_ended(1)
        assert await rig.outcomes() == ["out_of_memory" if oom else "interrupted"]

    run(tmp_path, test)


def test_new_during_a_turn_and_a_restart_shows_the_answer_and_then_begins_anew(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            await tell(rig, life, "!new")
            await rig.wait_body(texts.NEW_CONVERSATION_WHEN_IDLE)
        await asyncio.sleep(100)
        async with rig.life() as life:
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert "finished" in await rig.bodies()
        assert await rig.outcomes() == ["done", "done"]
        assert len(rig.claude.conversations) == 2

    run(tmp_path, test)


def test_new_while_idle_begins_a_new_conversation(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await tell(rig, life, "!new")
            await rig.wait_body(texts.NEW_CONVERSATION)
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert [len(uuids) for uuids in rig.claude.conversations.values()] == [1, 1]

    run(tmp_path, test)


def test_a_cut_connection_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async def chatty(turn: Turn) -> None:
        for i in range(20):
            turn.text(f"part {i}")
            await asyncio.sleep(0.7)
        turn.result("part 19")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["chat"] = chatty
        async with rig.life() as life:
            await tell(rig, life, "chat")
            for _ in range(12):
                await asyncio.sleep(1.3)
                life.backend.cut()
            await rig.wait_ended(1)
        text = "\n\n".join(await rig.bodies())
        assert text == "\n\n".join(f"part {i}" for i in range(20))
        assert rig.claude.asked == ["chat"]

    run(tmp_path, test)


def test_a_connection_that_is_cut_again_and_again_is_not_retried_without_pause(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            before = life.backend.calls.count("attach")
            for _ in range(1000):
                life.backend.cut()
                await asyncio.sleep(0.1)
            assert life.backend.calls.count("attach") - before < 20

    run(tmp_path, test)


def test_an_answer_to_the_cli_that_was_lost_with_its_connection_is_given_again(
    tmp_path: Path,
) -> None:
    async def script(turn: Turn) -> None:
        await asyncio.sleep(5)
        await turn.ask("Bash", "r1")
        turn.text("allowed or not")
        turn.result("allowed or not")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["ask"] = script
        async with rig.life() as life:
            await tell(rig, life, "ask")
            await asyncio.sleep(4)
            inner = rig.shim._command
            dropped: list[str] = []

            def drop_first_reply(kind: str, frame: dict[str, object]) -> None:
                if ":reply:" in str(frame["id"]) and not dropped:
                    dropped.append(str(frame["id"]))
                    life.backend.cut()
                    return
                inner(kind, frame)  # type: ignore[arg-type]

            rig.shim._command = drop_first_reply  # type: ignore[method-assign,assignment]
            await rig.wait_ended(1, timeout_s=60)
            assert dropped
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_an_engine_that_is_away_for_a_minute_is_waited_for(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(90)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            life.backend.lose()
            await asyncio.sleep(60)
            life.backend.is_away = False
            await rig.wait_ended(1)
            life.backend.lose()
            await tell(rig, life, "two")
            await asyncio.sleep(60)
            life.backend.is_away = False
            await rig.wait_ended(2)
        begun, finished, waits, answer = await rig.bodies()
        assert (begun, finished, answer) == ("begun", "finished", "You said: two")
        assert waits.startswith("This waits:")

    run(tmp_path, test)


def test_an_engine_that_stays_away_fails_a_waiting_turn_with_its_reason(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            life.backend.is_away = True
            await tell(rig, life, "one")
            await asyncio.sleep(60)
            assert rig.homeserver.typing[ROOM] is True
            await rig.wait_ended(1, timeout_s=200)
            await asyncio.sleep(1)
            assert rig.homeserver.typing[ROOM] is False
        waits, failed = await rig.bodies()
        assert waits.startswith("This waits: the room's runner can't be had right now")
        assert failed.startswith("Failed: No Docker Engine answers.")

    run(tmp_path, test)


def test_what_the_engine_refuses_for_good_fails_the_turn_at_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            life.backend.fail_next["ensure"] = [EngineRefusedError("no such path")]
            await tell(rig, life, "one")
            await rig.wait_ended(1, timeout_s=3)
        assert await rig.bodies() == ["Failed: no such path."]

    run(tmp_path, test)


def test_a_running_turn_that_can_not_be_reached_ends_at_its_limit_and_works_no_further(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            life.backend.lose()
            await rig.wait_ended(1, timeout_s=400)
            life.backend.is_away = False
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["timed_out", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_cancel_without_a_connection_ends_the_turn_and_its_runner_gets_no_other(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            life.backend.lose()
            await asyncio.sleep(20)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1, timeout_s=25)
            life.backend.is_away = False
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["cancelled", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


@pytest.mark.parametrize("delay_s", [0.0, 0.3, 1.0, 30.0])
def test_cancel_while_connecting_is_quick(tmp_path: Path, delay_s: float) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            life.backend.is_away = True
            await tell(rig, life, "one")
            await asyncio.sleep(0.26 + delay_s)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1, timeout_s=2)
        assert await rig.outcomes() == ["cancelled"]
        assert "Cancelled." in await rig.bodies()

    run(tmp_path, test)


async def cancel_at(rig: Rig, step: int) -> None:
    """Cancel at that step, or as soon as there is something to cancel."""
    rig.claude.scripts["hang"] = hang
    await rig.receive("hang")
    reached = asyncio.Event()
    async with rig.life(mark=(step, reached)) as life:
        await reached.wait()
        await tell(rig, life, "!cancel")
        await rig.wait_ended(1, timeout_s=8)
        assert await rig.outcomes() == ["cancelled"], step
        assert texts.CANCEL_NOTHING not in await rig.bodies(), step
        await tell(rig, life, "after")
        await rig.wait_ended(2)
    assert (await rig.bodies())[-1] == "You said: after", step


def test_cancel_at_every_step_of_a_turn_ends_it_within_seconds(tmp_path: Path) -> None:
    for step in range(1, 80):

        async def test(rig: Rig, step: int = step) -> None:
            await cancel_at(rig, step)

        run(tmp_path / str(step), test)


def test_a_link_lost_while_stopping_is_made_again_and_the_stop_goes_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            life.backend.cut()
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1, timeout_s=10)
        assert await rig.outcomes() == ["cancelled"]
        assert len(rig.shims) == 1

    run(tmp_path, test)


def test_a_runner_of_another_specification_is_replaced_before_the_next_turn(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(20)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
        rig.housing.memory = 2 << 30
        async with rig.life() as life:
            await rig.wait_ended(1)
            assert len(rig.shims) == 1  # the turn was in it
            await tell(rig, life, "two")
            await rig.wait_ended(2)
            assert len(rig.shims) == 2
        rig.housing.memory = 3 << 30
        async with rig.life() as life:
            await asyncio.sleep(1)
            await tell(rig, life, "three")
            await rig.wait_ended(3)
        assert len(rig.shims) == 3
        assert await rig.outcomes() == ["done"] * 3

    run(tmp_path, test)
