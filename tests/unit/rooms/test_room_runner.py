"""The room's container: which one is adopted, which one replaced, and what stands in the way."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import (
    EngineRequestError,
    EngineUnavailableError,
    PreconditionError,
    WireClosedError,
)
from orchestrator.model import RunnerState
from orchestrator.ports import RunnerInfo
from tests.support.memory_claude import Turn, unknown_session
from tests.support.memory_shim import CliProcess, MemoryShim
from tests.support.room_rig import ROOM, Rig
from tests.unit.rooms.scenario import hang, run, tell, works_for


@pytest.mark.parametrize("error", [EngineRequestError(), WireClosedError()])
def test_an_attach_that_fails_at_first_is_tried_again(tmp_path: Path, error: Exception) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            life.backend.fail_next["attach"] = [error, error]
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        assert await rig.bodies() == ["You said: one"]
        assert len(rig.shims) == 1

    run(tmp_path, test)


def speak_another_version(monkeypatch: pytest.MonkeyPatch, shim: MemoryShim) -> None:
    usual = MemoryShim.note

    def note(self: MemoryShim, **frame: Any) -> None:
        if frame["t"] == "welcome" and self is shim:
            frame = {"t": "welcome", "v": 9, "nonce": frame["nonce"]}
        usual(self, **frame)

    monkeypatch.setattr(MemoryShim, "note", note)


def test_a_runner_of_another_version_is_replaced_when_no_turn_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        speak_another_version(monkeypatch, rig.shim)
        async with rig.life() as life:
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_turn_in_a_runner_of_another_version_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        speak_another_version(monkeypatch, rig.shim)
        async with rig.life() as life:
            await rig.wait_ended(1, timeout_s=3)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["interrupted", "done"]

    run(tmp_path, test)


def test_a_runner_that_contradicts_what_is_stored_is_replaced(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        rig.shim._spool.insert(0, {"t": "applied", "id": "x", "dup": False, "q": 1})
        rig.shim._forget = lambda _: None  # type: ignore[method-assign,assignment]
        async with rig.life() as life:
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_runner_that_is_stopped_by_somebody_all_the_time_fails_the_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            usual = rig.backend.start

            async def start_and_die(name: str) -> None:
                await usual(name)
                await rig.backend.stop(name, grace_s=0)

            rig.backend.start = start_and_die  # type: ignore[method-assign]
            await tell(rig, life, "one")
            await rig.wait_ended(1, timeout_s=300)
        assert "does not stay up" in (await rig.bodies())[0]

    run(tmp_path, test)


def test_directories_that_can_not_be_made_are_told_at_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.errors = [PreconditionError("the disk is read-only")]
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1, timeout_s=3)
        assert await rig.bodies() == ["Failed: the disk is read-only."]

    run(tmp_path, test)


def test_a_running_turn_is_not_taken_up_by_a_host_that_can_not_hold_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        rig.housing.errors = [PreconditionError("the disk is read-only")]
        async with rig.life() as life:
            await rig.wait_ended(1, timeout_s=3)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert "the disk is read-only" in (await rig.bodies())[1]
        assert len(rig.shims) == 2  # what could not be stopped gets no other turn

    run(tmp_path, test)


def test_an_engine_that_is_away_at_the_start_is_waited_for_by_a_running_turn(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
        async with rig.life() as life:
            life.backend.fail_next["inspect"] = [EngineUnavailableError()] * 3
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]

    run(tmp_path, test)


def test_a_runner_that_can_not_be_adopted_is_used_by_the_next_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        async with rig.life() as life:
            life.backend.fail_next["attach"] = [EngineRequestError()]
            await asyncio.sleep(1)
            assert not life.manager.workers[ROOM].has_live_session
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert len(rig.claude.started) == 1

    run(tmp_path, test)


def test_a_turn_whose_runner_was_restarted_behind_its_back_is_told(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            info = await rig.info()
            assert info is not None
            life.backend.is_away = True
            await rig.backend.stop(info.name, grace_s=0)
            await rig.backend.start(info.name)
            await asyncio.sleep(1)
            life.backend.is_away = False
            await rig.wait_ended(1, timeout_s=30)
        info = await rig.info()
        assert info is not None
        assert info.state is RunnerState.RUNNING
        assert await rig.outcomes() == ["interrupted"]
        assert rig.claude.asked == ["hang"]

    run(tmp_path, test)


def test_the_clis_of_the_tests_print_what_the_real_one_prints() -> None:
    """The shapes of the lines in memory are those of recorded ones, key by key."""
    folder = Path(__file__).parents[2] / "recorded" / "claude-2.1.330"
    recorded: dict[str, set[str]] = {}
    for file in folder.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            values = json.loads(line)
            recorded.setdefault(values["type"], set()).update(values)
    printed: list[dict[str, Any]] = [json.loads(unknown_session("s"))]
    process = CliProcess([], {}, lambda **frame: printed.append(json.loads(frame["d"])))
    turn = Turn(process, "s", "u", "p")
    turn.lifecycle("queued")
    turn.text("t")
    turn.result("t")
    for values in printed:
        assert set(values) <= recorded[values["type"]] | {"errors"}, values["type"]


def test_an_idle_runner_that_is_frozen_by_hand_is_replaced_before_a_turn_is_given_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection stays open."""

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            rig.shim.is_mute = True
            monkeypatch.setattr(rig.backend, "inspect", seen_as(RunnerState.PAUSED, rig))
            await tell(rig, life, "two")
            await rig.wait_ended(2, timeout_s=15)
        assert await rig.bodies() == ["You said: one", "You said: two"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def seen_as(state: RunnerState, rig: Rig) -> Any:
    """The engine's answer for the first container, with another state."""
    inspect = rig.backend.inspect

    async def altered(name: str) -> RunnerInfo | None:
        info = await inspect(name)
        return replace(info, state=state) if info is not None and info.generation == 1 else info

    return altered
