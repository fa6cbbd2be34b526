"""Budgets of rooms and people as a room meets them: stopped, warned, raised, over restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.allowance import LimitName
from orchestrator.core.budget import utc_day
from orchestrator.core.naming import room_slug
from orchestrator.model import UserId
from tests.support.room_rig import ALICE, ROOM, Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import run
from tests.unit.rooms.test_people import say, settle

BOB, SLUG = "@bob:test", room_slug(ROOM)
ACCESS = {"admins": [ALICE], "users": [BOB]}


def budget(**limits: Any) -> dict[str, Any]:
    return {"access": ACCESS, "defaults": {"budget": limits}}


def test_the_turns_of_a_room_are_counted_over_restarts_and_raised_by_an_admin(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        for number in range(4):
            async with rig.life() as life:
                await say(rig, life, f"message {number}", BOB)
                await rig.wait_ended(number + 1)
        assert rig.claude.asked == ["message 0", "message 1"]
        refused = [b for b in await rig.bodies() if "Not taken" in b]
        assert len(refused) == 2
        assert "2 turns for today. Nothing more is taken until 00:00 UTC, in" in refused[0]
        assert "`!budget +1 turns`" in refused[0]
        async with rig.life() as life:
            assert "3 turns until" in await say(rig, life, "!budget +1 turns")
            await say(rig, life, "message 4", BOB)
            await rig.wait_ended(5)
        assert rig.claude.asked[-1] == "message 4"

    run(tmp_path, test, **budget(turns_per_day=2))


def test_a_persons_turns_are_their_own_and_the_next_day_begins_anew(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for sender in (BOB, BOB, ALICE):
                await say(rig, life, f"from {sender}", sender)
                await asyncio.sleep(5)
            assert rig.claude.asked == [f"from {BOB}", f"from {ALICE}"]
            await asyncio.sleep(86400)
            await say(rig, life, "next day", BOB)
            await asyncio.sleep(5)
        assert rig.claude.asked[-1] == "next day"

    run(tmp_path, test, **budget(person_turns_per_day=1))


def test_spent_money_stops_turns_and_a_raise_reaches_the_gateway_at_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.doors.spent[SLUG] = 5_000_000
        async with rig.life() as life:
            await say(rig, life, "no", BOB)
            await rig.wait_ended(1)
            assert "spent its budget for today: $5.00" in (await rig.bodies())[-1]
            day = utc_day(loop_clock())
            assert "$7.50 until 00:00 UTC" in await say(rig, life, "!budget +2.5")
            assert rig.doors.allowances[SLUG].on(day).get(LimitName.USD) == 7_500_000
            await say(rig, life, "yes", BOB)
            await rig.wait_ended(2)
            assert "$20.00 a day" in await say(rig, life, "!budget usd 20")
            assert "No limit any more" in await say(rig, life, "!budget usd off")
            assert "$5.00 a day" in await say(rig, life, "!budget usd default")
        rig.doors.allowances.clear()
        async with rig.life() as life:
            await say(rig, life, "and now", BOB)
            await rig.wait_ended(3)
            assert rig.doors.allowances[SLUG].on(day).get(LimitName.USD) == 7_500_000
            assert rig.doors.payers[SLUG] == (BOB,)
        assert rig.claude.asked == ["yes", "and now"]

    run(tmp_path, test, **budget(usd_per_day=5))


def test_what_one_person_spent_anywhere_stops_them_and_nobody_else_and_is_not_told(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.doors.spent_for[UserId(BOB)] = 1_234_567
        async with rig.life() as life:
            for sender in (BOB, ALICE):
                await say(rig, life, f"from {sender}", sender)
                await asyncio.sleep(5)
            assert "used up" in await say(rig, life, "!budget", BOB)
        assert rig.claude.asked == [f"from {ALICE}"]
        assert "1.23" not in await rig.read()

    run(tmp_path, test, **budget(person_usd_per_day=1))


@pytest.mark.parametrize("crash_at", range(1, 60, 3))
def test_a_warning_at_80_percent_is_told_once_a_day_wherever_a_life_ends(
    tmp_path: Path, crash_at: int
) -> None:
    async def test(rig: Rig) -> None:
        rig.doors.spent[SLUG] = 850_000
        await rig.receive("one")
        async with rig.life(crash_at=crash_at):
            await asyncio.sleep(10)
        for text in ("two", "three"):
            async with rig.life() as life:
                await say(rig, life, text)
                await asyncio.sleep(10)
        warned = [b for b in await rig.bodies() if "80 %" in b]
        assert len(warned) == 1
        assert "00:00 UTC" in warned[0]
        assert rig.claude.asked[-1] == "three"

    run(tmp_path, test, **budget(usd_per_day=1))


@pytest.mark.parametrize("crash_at", range(1, 16))
def test_a_raise_adds_once_wherever_a_life_ends(tmp_path: Path, crash_at: int) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive("!budget +1")
        async with rig.life(crash_at=crash_at):
            await asyncio.sleep(5)
        async with rig.life() as life:
            await settle(rig, life)
        assert len(await rig.bodies()) == 1
        assert "is $6.00 until" in (await rig.bodies())[0]

    run(tmp_path, test, **budget(usd_per_day=5))


@pytest.mark.parametrize("bad", ["lots", "+", "usd", "usd -3", "turns 1.5", "+5 cats", "usd 0"])
def test_bad_input_is_answered_with_the_form_and_changes_nothing(tmp_path: Path, bad: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            assert "The form is `!budget +5`" in await say(rig, life, f"!budget {bad}")
            assert "more than a budget can be" in await say(rig, life, "!budget +99999999")
            assert "The form is `!cost`" in await say(rig, life, "!cost year")
        assert await rig.store.settings.of_room(ROOM) == {}

    run(tmp_path, test, **budget(usd_per_day=5))


def test_the_command_shows_what_is_used_of_what(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.doors.spent[SLUG] = 1_000_000
        async with rig.life() as life:
            shown = await say(rig, life, "!budget", BOB)
        assert "$1.00 of $5.00 today" in shown
        assert "0 turns of 9 turns today" in shown
        assert "no limit by person (dollars)" in shown

    run(tmp_path, test, **budget(usd_per_day=5, turns_per_day=9))
