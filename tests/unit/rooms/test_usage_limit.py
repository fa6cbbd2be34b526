"""A usage limit with a reset time: shown, and waited for where the room's settings say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.going_on import WAIT_MARGIN_S, build_prompt_again
from orchestrator.model import TurnState
from tests.support.memory_claude import Turn
from tests.support.room_rig import ROOM, Rig, open_rig, run_rooms
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import audit, run, tell

WAIT = {"defaults": {"on_usage_limit": "wait"}}
HOUR = 3600.0
WORDS = "You've hit your 5-hour limit · resets 3am (UTC)"


def limited(
    times: int = 1, *, resets_in_s: float = 5 * HOUR, pause_s: float = 0.0
) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    """Meets the limit the first times that it is asked, then answers."""
    asked = 0

    async def script(turn: Turn) -> None:
        nonlocal asked
        asked += 1
        if asked > times:
            turn.text("answer")
            turn.result("answer")
            return
        info = {"status": "rejected", "resetsAt": loop_clock() + resets_in_s}
        turn.line(type="rate_limit_event", rate_limit_info=info)
        await asyncio.sleep(pause_s)
        content = [{"type": "text", "text": WORDS}]
        turn.line(
            type="assistant",
            message={"content": content},
            parent_tool_use_id=None,
            error="rate_limit",
            api_error="usage_limit_reached",
        )
        turn.result(
            WORDS, is_error=True, terminal_reason="api_error", api_error="usage_limit_reached"
        )

    return script


@pytest.mark.parametrize("sections", [{}, WAIT])
def test_a_limit_that_is_not_waited_for_is_told_with_its_reset_and_what_to_type(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    async def test(rig: Rig) -> None:
        # A reset in nine days is no limit that there is.
        rig.claude.scripts["go"] = limited(resets_in_s=9 * 24 * HOUR)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await asyncio.sleep(6 * HOUR)
            assert await rig.bodies() == [
                f"Failed: a usage limit was met: `{WORDS}`. `!retry` has another go when it has "
                "reset."
            ]
            await tell(rig, life, "!retry")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["failed", "done"]

    run(tmp_path, test, **sections)


def test_a_limit_is_waited_for_over_a_restart_and_what_is_behind_waits_too(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = limited()
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await asyncio.sleep(1)
            assert rig.homeserver.typing[ROOM] is False
            await tell(rig, life, "later")
            await rig.wait_body("Queued")
            await asyncio.sleep(2 * HOUR)
            await tell(rig, life, "!status")
            await rig.wait_body("Runner:")
        async with rig.life():
            await asyncio.sleep(3 * HOUR)
            assert rig.claude.asked == ["go"]
            await asyncio.sleep(WAIT_MARGIN_S)
            await rig.wait_ended(3)
        assert rig.claude.asked == ["go", build_prompt_again("go"), "later"]
        waiting, queued, status, *answers = await rig.bodies()
        assert waiting == (
            f"Waiting: a usage limit was met: `{WORDS}`. Going on with `go` at "
            "2027-01-15 13:01 UTC (1 of 3); what is sent meanwhile waits behind it. "
            "`!cancel` withdraws it."
        )
        assert "wait until 2027-01-15 13:01 UTC" in queued
        assert "2 waiting (at most 20), until 2027-01-15 13:01 UTC" in status
        assert answers == ["answer", "You said: later"]
        assert await rig.outcomes() == ["done", "done"]

    run(tmp_path, test, **WAIT)


def test_a_turn_that_waits_can_be_cancelled_and_the_next_one_is_tried_at_once(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = limited()
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await tell(rig, life, "later")
            await rig.wait_body("Queued")
            await tell(rig, life, "!cancel")
            await rig.wait_ended(3, timeout_s=10)
        assert await rig.outcomes() == ["cancelled", "done"]
        assert rig.claude.asked == ["go", "later"]

    run(tmp_path, test, **WAIT)


def test_a_limit_that_is_met_again_and_again_is_waited_for_three_times(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = limited(times=10)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(40 * HOUR)
        assert len(rig.claude.asked) == 4
        bodies = await rig.bodies()
        assert ["Waiting" in body for body in bodies] == [True, True, True, False]
        assert bodies[3].startswith("Failed: a usage limit was met")
        assert await rig.outcomes() == ["failed"]

    run(tmp_path, test, **WAIT)


def test_a_limit_after_which_the_model_went_on_is_not_what_a_later_failure_waits_for(
    tmp_path: Path,
) -> None:
    async def script(turn: Turn) -> None:
        turn.line(
            type="rate_limit_event",
            rate_limit_info={"status": "rejected", "resetsAt": loop_clock() + HOUR},
        )
        turn.text("on extra usage")
        await asyncio.sleep(10)
        turn.result("x", is_error=True, api_error="usage_limit_reached")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = script
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("on extra usage")
            await rig.wait_ended(1)
        assert await rig.outcomes() == ["failed"]

    run(tmp_path, test, **WAIT)


async def wait_and_crash(folder: Path, crash_at: int) -> tuple[int, list[str]]:
    async with open_rig(folder, **WAIT) as rig:
        rig.claude.scripts["go"] = limited(resets_in_s=HOUR / 4, pause_s=3)
        await rig.receive("go")
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                turns = await rig.turns()
                return life.points.crashed.is_set() or len(turns) == 2

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life():
            await asyncio.sleep(HOUR / 4 + WAIT_MARGIN_S)
            await rig.wait_ended(2)
        assert rig.claude.asked == ["go", build_prompt_again("go")], crash_at
        assert await rig.outcomes() == ["done"], crash_at
        assert audit(folder) == (), crash_at
        assert all(t.state is TurnState.ENDED for t in await rig.turns())
        return count, await rig.bodies()


def test_a_crash_at_any_step_before_a_wait_forgets_neither_the_turn_nor_its_reset(
    tmp_path: Path,
) -> None:
    steps, usual = run_rooms(wait_and_crash(tmp_path / "none", 0))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        _, read = run_rooms(wait_and_crash(tmp_path / str(crash_at), crash_at))
        assert read == usual, crash_at
