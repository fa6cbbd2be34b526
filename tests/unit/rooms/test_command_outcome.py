"""A command's answer says to a program, too, what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.turn_mark import ANSWER_KEY
from orchestrator.errors import RequestRefusedError
from orchestrator.model import Priority
from tests.support.room_rig import ALICE, Life, Rig
from tests.unit.rooms.scenario import hang, run, tell, wait_running
from tests.unit.rooms.test_manager import refused_row
from tests.unit.rooms.test_room_settings import ACCESS, CAROL
from tests.unit.rooms.test_workspace_commands import KEPT, turn

URL = "https://example.org/team/project.git"


async def outcome_of(rig: Rig, life: Life, text: str, *, by: str = ALICE) -> object:
    """How the answer to what somebody says ends."""
    asked = await rig.receive(text, sender=by)
    life.notify()
    return await outcome_to(rig, asked)


async def outcome_to(rig: Rig, asked: str) -> object:
    async def ends() -> list[Any]:
        marks: list[Any] = [c[ANSWER_KEY] for c in await rig.said() if ANSWER_KEY in c]
        return [mark for mark in marks if mark["to"] == asked and mark["final"]]

    async def is_over() -> bool:
        return bool(await ends())

    await rig.wait(is_over)
    (end,) = await ends()
    return end["outcome"]


@pytest.mark.parametrize(
    ("text", "by", "outcome"),
    [
        ("!status", ALICE, "done"),
        ("!cancel", ALICE, "done"),
        ("!restart", ALICE, "done"),
        ("!model sonnet", ALICE, "done"),
        ("!nonsense", ALICE, "refused"),
        ("!help nonsense", ALICE, "refused"),
        ("!restart now", ALICE, "refused"),
        ("!mode nonsense", ALICE, "refused"),
        ("!timeout 9h", ALICE, "refused"),
        ("!budget usd 9", ALICE, "refused"),
        ("!budget nonsense", CAROL, "refused"),
        ("!cost nonsense", ALICE, "refused"),
        ("!queue nonsense", ALICE, "refused"),
        ("!queue drop 1", ALICE, "refused"),
        ("!retry", ALICE, "refused"),
        ("!resume 5", ALICE, "refused"),
        ("!steer this", ALICE, "refused"),
        ("!approve", ALICE, "refused"),
        ("!approve nonsense", ALICE, "refused"),
        ("!schedule nonsense", ALICE, "refused"),
        ("!schedule remove 1", ALICE, "refused"),
        ("!egress nonsense", CAROL, "refused"),
        ("!egress allow example.org", ALICE, "refused"),
        ("!egress revoke example.org", CAROL, "refused"),
        ("!egress allow example.org", CAROL, "done"),
        ("!invite-agent nobody", CAROL, "refused"),
        ("!invite-agent @agent:test", CAROL, "done"),
        ("!undo", ALICE, "refused"),
        ("!undo nonsense", ALICE, "refused"),
        ("!diff nonsense", ALICE, "refused"),
        ("!export nonsense", ALICE, "refused"),
        ("!export", ALICE, "refused"),
        ("!compact", ALICE, "refused"),
        ("!ls", ALICE, "done"),
        ("!get nothing", ALICE, "refused"),
        ("!clone http://example.org/x.git", ALICE, "refused"),
        (f"!clone {URL}", ALICE, "failed"),
        ("Hello", "@mallory:test", "refused"),
    ],
)
def test_the_answers_end_says_what_came_of_it(
    tmp_path: Path, text: str, by: str, outcome: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            assert await outcome_of(rig, life, text, by=by) == outcome

    run(tmp_path, test, access=ACCESS, defaults=KEPT)


def test_what_worked_ends_as_done_also_where_a_file_is_the_end(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.clones[URL] = 0
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="1")
            for text in ("!export", "!get a", "!diff", "!undo", "!undo back", f"!clone {URL}"):
                assert await outcome_of(rig, life, text) == "done"
            assert await outcome_of(rig, life, f"!clone {URL}") == "refused"

    run(tmp_path, test, defaults=KEPT)


def test_an_export_that_lacks_the_workspace_has_failed(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="x" * 5000)
            assert await outcome_of(rig, life, "!export") == "failed"

    run(tmp_path, test, defaults={"snapshots": {"keep": 3, "max_size": 1000}})


def test_a_clone_that_is_stopped_was_cancelled_and_one_beside_a_turn_refused(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.clones[URL], rig.claude.clone_s = 0, 500
        rig.claude.scripts["long"] = hang
        async with rig.life() as life:
            asked = await tell(rig, life, f"!clone {URL}")
            await asyncio.sleep(30)
            assert await outcome_of(rig, life, "!cancel") == "done"
            assert await outcome_to(rig, asked) == "cancelled"
            await tell(rig, life, "long")
            await wait_running(rig)
            assert await outcome_of(rig, life, f"!clone {URL}") == "refused"

    run(tmp_path, test, defaults=KEPT)


def test_a_clone_that_takes_too_long_has_timed_out(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.clones[URL], rig.claude.clone_s = 0, 5000
        async with rig.life() as life:
            asked = await tell(rig, life, f"!clone {URL}")
            await asyncio.sleep(700)
            assert await outcome_to(rig, asked) == "timed_out"

    run(tmp_path, test, defaults=KEPT)


def test_an_agent_whom_the_homeserver_does_not_let_in_was_refused(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        error = RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="inviting")
        rig.homeserver.errors = [error]
        async with rig.life() as life:
            assert await outcome_of(rig, life, "!invite-agent @other:test", by=CAROL) == "refused"

    run(tmp_path, test, access=ACCESS)


def test_a_command_whose_file_is_refused_for_good_has_failed(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        end = {"to": "$asked", "final": True, "outcome": "done"}
        row = refused_row(Priority.NOTICE, {"msgtype": "m.file", "body": "a.zip", ANSWER_KEY: end})
        error = RequestRefusedError(errcode="M_TOO_LARGE", status=413, what="x")
        async with rig.life() as life:
            await life.manager.tell_refused(replace(row, has_file=True), error)
        (said,) = await rig.said()
        assert said[ANSWER_KEY] == {**end, "outcome": "failed"}

    run(tmp_path, test)
