"""A message into a running turn is its sender's, as a turn would be: their limits hold for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.naming import room_slug
from orchestrator.core.texts import conversation as texts
from orchestrator.model import UserId
from tests.support.asking import CAROL
from tests.support.memory_claude import Turn
from tests.support.room_rig import ALICE, ROOM, Life, Rig
from tests.unit.rooms.scenario import audit, run, wait_running
from tests.unit.rooms.test_going_on import kill_runner
from tests.unit.rooms.test_people import AGENTS, REVIEWER, say

BOB, SLUG = "@bob:test", room_slug(ROOM)


def limited(while_running: str = "queue", **budget: Any) -> dict[str, Any]:
    return {
        "access": {"users": ["@*:test"]},
        "agents": AGENTS,
        "defaults": {"budget": budget, "while_running": while_running},
    }


async def takes_in(turn: Turn) -> None:
    turn.text("begun")
    await asyncio.sleep(60)
    turn.take_in()
    turn.text("finished")
    turn.result("finished")


async def begin(rig: Rig, life: Life, by: str = ALICE) -> None:
    rig.claude.scripts["work"] = takes_in
    await say(rig, life, "work", by)
    await wait_running(rig)
    await asyncio.sleep(2)


async def steer(rig: Rig, life: Life, text: str, by: str) -> str:
    said = await say(rig, life, text, by)
    await asyncio.sleep(3)
    return said


def test_who_has_had_their_turns_steers_no_more(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, "mine", BOB)
            await rig.wait_ended(1)
            await begin(rig, life)
            said = await steer(rig, life, "!steer by Bob", BOB)
            await rig.wait_ended(2)
        assert said.startswith("Not taken: you have had the 1 turn")
        assert rig.claude.asked == ["mine", "work"]

    run(tmp_path, test, **limited(person_turns_per_day=1))
    assert audit(tmp_path) == ()


def test_what_goes_into_a_turn_counts_as_one_of_its_sender_over_restarts(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            assert await steer(rig, life, "!steer one", BOB) == texts.STEERED
        async with rig.life() as life:
            await asyncio.sleep(5)
            assert await steer(rig, life, "!steer two", BOB) == texts.STEERED
            assert (await steer(rig, life, "!steer three", BOB)).startswith("Not taken")
            await rig.wait_ended(1)
            await say(rig, life, "a turn", BOB)
            await rig.wait_ended(2)
        assert rig.claude.asked == ["work", "one", "two"]
        assert await rig.outcomes() == ["done", "refused"]

    run(tmp_path, test, **limited(person_turns_per_day=2))


def test_who_has_spent_what_they_may_steers_no_more(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.doors.spent_for[UserId(BOB)] = 1_500_000
        async with rig.life() as life:
            await begin(rig, life)
            said = await steer(rig, life, "!steer by Bob", BOB)
            await rig.wait_ended(1)
        assert "you have spent what one person may in a day" in said
        assert rig.claude.asked == ["work"]

    run(tmp_path, test, **limited(person_usd_per_day=1))


def test_what_a_turn_costs_from_then_on_is_the_steerers_too_over_a_restart(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            assert rig.doors.payers[SLUG] == (ALICE,)
            await steer(rig, life, "!steer by Bob", BOB)
            assert set(rig.doors.payers[SLUG]) == {ALICE, BOB}
        rig.doors.payers.clear()
        async with rig.life() as life:
            await asyncio.sleep(5)
            assert set(rig.doors.payers[SLUG]) == {ALICE, BOB}
            await rig.wait_ended(1)
            await say(rig, life, "next")
            await rig.wait_ended(2)
            assert rig.doors.payers[SLUG] == (ALICE,)

    run(tmp_path, test, **limited())


def test_what_goes_on_by_itself_costs_the_steerers_too_and_a_retry_who_retries(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            await steer(rig, life, "!steer by Bob", BOB)
            await kill_runner(rig)
            await rig.wait_ended(1)
            await asyncio.sleep(5)
            assert set(rig.doors.payers[SLUG]) == {ALICE, BOB}
            await say(rig, life, "!cancel")
            await rig.wait_ended(2)
            await say(rig, life, "!retry", CAROL)
            await wait_running(rig)
            assert rig.doors.payers[SLUG] == (CAROL,)
            await rig.wait_ended(3)

    sections = limited()
    sections["defaults"]["on_interrupt"] = "resume"
    run(tmp_path, test, **sections)


def test_where_messages_go_into_the_turn_one_past_the_limit_is_refused_as_a_turn(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, "mine", BOB)
            await rig.wait_ended(1)
            await begin(rig, life)
            await steer(rig, life, "by Bob", BOB)
            await rig.wait_ended(3)
        assert rig.claude.asked == ["mine", "work"]
        assert await rig.outcomes() == ["done", "done", "refused"]
        assert "you have had the 1 turn" in await rig.read()

    run(tmp_path, test, **limited("steer", person_turns_per_day=1))
    assert audit(tmp_path) == ()


@pytest.mark.parametrize("prefix", ["", "!steer "])
def test_agents_that_steer_are_not_heard_after_so_many_until_a_person_writes(
    tmp_path: Path, prefix: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            for text in ("one", "two", "three", "four"):
                await steer(rig, life, f"{prefix}{text}", REVIEWER)
            assert "Agents have asked for 2 turns in a row here" in await rig.read()
            await steer(rig, life, f"{prefix}go on", ALICE)
            await steer(rig, life, f"{prefix}five", REVIEWER)
            await rig.wait_ended(1)
            await asyncio.sleep(10)
        assert rig.claude.asked == ["work", "one", "two", "go on", "five"]

    run(tmp_path, test, **limited("steer", agent_turns_in_a_row=2))


def test_agents_turns_and_what_they_steer_count_together(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, by=REVIEWER)
            await steer(rig, life, "!steer one", REVIEWER)
            said = await steer(rig, life, "!steer two", REVIEWER)
            await rig.wait_ended(1)
        assert said.startswith("Not taken: Agents have asked for 2 turns in a row")
        assert rig.claude.asked == ["work", "one"]

    run(tmp_path, test, **limited(agent_turns_in_a_row=2))
