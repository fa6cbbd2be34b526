"""A number that a room was shown means what it meant then, or nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.texts import approval as approval_texts
from orchestrator.core.texts import setting as setting_texts
from tests.support.asking import CAROL, handle, questions, react, rows, run_asking
from tests.support.memory_claude import Turn
from tests.support.room_rig import Life, Rig
from tests.unit.rooms.scenario import run, tell, wait_running, works_for
from tests.unit.rooms.test_tool_asking import begin
from tests.unit.rooms.test_upgrade import NEW, upgrade

ERIN = "@erin:test"
ACCESS = {"users": ["@alice:test"], "approvers": [CAROL, ERIN]}


async def asks_twice(turn: Turn) -> None:
    async with asyncio.TaskGroup() as group:
        for number in (1, 2):
            group.create_task(turn.ask("Bash", f"r{number}", {"command": f"do {number}"}))
    turn.result("ok")


async def takes_one_back(turn: Turn) -> None:
    """The first of two is taken back, after a while."""
    loop = asyncio.get_running_loop()
    first = loop.create_task(turn.ask("Bash", "r1", {"command": "do 1"}))
    second = loop.create_task(turn.ask("Bash", "r2", {"command": "do 2"}))
    await asyncio.sleep(20)
    turn.line(type="control_cancel_request", request_id="r1")
    first.cancel()
    await second
    turn.result("ok")


async def asked(rig: Rig, count: int) -> None:
    async def are_asked() -> bool:
        return len(await questions(rig)) == count

    await rig.wait(are_asked)


async def order(rig: Rig, life: Life, text: str, who: str = CAROL) -> str:
    await rig.receive(text, sender=who)
    await handle(life)
    return (await rig.bodies())[-1]


async def decided(rig: Rig) -> list[Any]:
    return [s for (s,) in await rows(rig, "SELECT state FROM approvals ORDER BY rowid")]


@pytest.mark.parametrize("command", ["!approve 1", "!deny 1 not this"])
def test_the_number_of_a_question_that_is_gone_decides_no_other(
    tmp_path: Path, command: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, takes_one_back)
            await asked(rig, 2)
            await asyncio.sleep(30)
            assert await decided(rig) == ["withdrawn", "open"]
            verb = command.split()[0]
            said = await order(rig, life, command)
            assert said.startswith(approval_texts.not_open(1, verb))
            assert "**2**: `Bash: do 2`" in said
            assert await decided(rig) == ["withdrawn", "open"]
            await order(rig, life, f"{verb} 2")
            assert "open" not in await decided(rig)

    run_asking(tmp_path, test, access=ACCESS)


def test_a_question_keeps_its_number_over_a_restart_and_the_next_one_gets_another(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, asks_twice)
            await asked(rig, 2)
            await react(rig, life, (await questions(rig))[0], "❌")
        async with rig.life() as life:
            assert "No question 1 waits" in await order(rig, life, "!approve 1")
            await order(rig, life, "!approve 2")
            await rig.wait_ended(1)
            assert await decided(rig) == ["refused", "granted_once"]
            await begin(rig, life, asks_twice)
            await asked(rig, 4)
            shown = [body for body in await rig.bodies() if "May I do this?" in body]
            assert ["`!approve 3` and `!deny 3 REASON`" in body for body in shown] == [
                False,
                False,
                True,
                False,
            ]
            assert "`Bash: do 2`" in await order(rig, life, "!deny 4")
            assert (await decided(rig))[2:] == ["open", "refused"]

    run_asking(tmp_path, test, access=ACCESS)


def test_without_a_number_nothing_is_decided_where_another_question_has_just_ended(
    tmp_path: Path,
) -> None:
    """Its sender may have typed it for the one that is gone."""

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, asks_twice)
            await asked(rig, 2)
            await order(rig, life, "!deny 1", ERIN)
            assert "Which one?" in await order(rig, life, "!approve", CAROL)
            assert await decided(rig) == ["refused", "open"]
            await asyncio.sleep(61)
            await order(rig, life, "!approve", CAROL)
            assert await decided(rig) == ["refused", "granted_once"]

    run_asking(tmp_path, test, access=ACCESS)


def test_who_decided_the_last_one_needs_no_number_for_the_next(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, asks_twice)
            await asked(rig, 2)
            await order(rig, life, "!deny 1")
            await order(rig, life, "!approve")
            assert await decided(rig) == ["refused", "granted_once"]

    run_asking(tmp_path, test, access=ACCESS)


async def fill(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = works_for(60)
    await tell(rig, life, "work")
    await wait_running(rig)
    for word in ("two", "three", "four"):
        await tell(rig, life, word)
        await asyncio.sleep(1)


async def dropped(rig: Rig) -> list[str]:
    return [turn.prompt for turn in await rig.turns() if turn.cancelled_by is not None]


def test_the_number_of_a_message_that_waits_is_its_own_also_over_a_restart(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await fill(rig, life)
            listed = await ask(rig, life, "!queue")
            assert "- **2**: `@alice:test`: `two`\n- **3**: `@alice:test`: `three`" in listed
            assert "Taken back: `two`" in await ask(rig, life, "!queue drop 2")
            assert await ask(rig, life, "!queue drop 2") == setting_texts.no_such(2)
        async with rig.life() as life:
            assert "Taken back: `three`" in await ask(rig, life, "!queue drop 3")
            assert "**4**: `@alice:test`: `four`" in await ask(rig, life, "!queue")
            assert await dropped(rig) == ["two", "three"]
            await rig.wait_ended(4)
            assert await ask(rig, life, "!queue drop 4") == setting_texts.QUEUE_EMPTY

    run(tmp_path, test)


def test_a_list_shows_its_numbers_as_they_are_in_every_client(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await fill(rig, life)
            await ask(rig, life, "!queue drop 3")
            await ask(rig, life, "!queue")
            html = str((await rig.said())[-1]["formatted_body"])
            assert "<ol" not in html
            assert "<strong>2</strong>" in html
            assert "<strong>4</strong>" in html

    run(tmp_path, test)


def test_an_upgrade_of_the_room_changes_no_number(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            await fill(rig, life)
            await upgrade(rig, life)
            await asyncio.sleep(2)
            await rig.receive("!queue drop 4", room=NEW)
            await handle(life)
            assert await dropped(rig) == ["three"]

    run(tmp_path, test)


async def ask(rig: Rig, life: Life, text: str) -> str:
    before = len(await rig.bodies())
    await tell(rig, life, text)

    async def is_answered() -> bool:
        return len(await rig.bodies()) > before

    await rig.wait(is_answered)
    return (await rig.bodies())[-1]
