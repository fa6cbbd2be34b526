"""We stand still for a while, as in a machine that was suspended: that is no turn's fault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from tests.support.room_rig import Rig, StoreLoop
from tests.unit.rooms.scenario import hang, run, tell, works_for, works_in_steps


def freeze(seconds: float) -> None:
    """The clock goes on, and nothing else does."""
    cast("StoreLoop", asyncio.get_running_loop()).now += seconds


def test_a_turn_whose_answer_came_while_we_stood_still_is_done(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(100)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            freeze(7200)
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_a_turn_that_goes_on_after_we_stood_still_has_its_whole_time(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_in_steps(10, 100)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            for number in (0, 3, 6):
                await rig.wait_body(f"step {number}", timeout_s=1000)
                freeze(7200)
            await rig.wait_ended(1, timeout_s=2000)
        assert (await rig.bodies())[-1].endswith("finished")
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_a_turn_that_says_nothing_afterwards_still_meets_its_limit(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            freeze(7200)
            await rig.wait_ended(1, timeout_s=rig.config.defaults.timeout_s + 60)
        assert await rig.outcomes() == ["timed_out"]

    run(tmp_path, test)
