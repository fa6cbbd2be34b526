"""Messages that are steered, changed or taken back: the audit finds each one's end, and no loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.accounting import account
from orchestrator.core.evidence import SeenEvent
from orchestrator.core.verdict import Problem
from orchestrator.model import EventId
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.snapshot import read_snapshot
from tests.support.memory_claude import Turn
from tests.support.room_rig import Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, hang, tell, wait_running, works_for
from tests.unit.rooms.test_amending import edit, redact

STEERS = {"while_running": "steer"}
Change = Callable[[Rig, Life], Coroutine[Any, Any, None]]


def judge(folder: Path, change: Change, **defaults: Any) -> list[SeenEvent]:
    async def main() -> list[SeenEvent]:
        async with open_rig(folder, defaults=defaults) as rig:
            async with rig.life() as life:
                await change(rig, life)
            return rig.received

    return run_rooms(main())


async def takes_in_silence(turn: Turn) -> None:
    """What comes within 10 s is read, and nothing more is said: the result comes alone."""
    turn.text("begun")
    await asyncio.sleep(10)
    turn.take_in()
    turn.result("begun")


async def begin(rig: Rig, life: Life) -> EventId:
    event_id = await tell(rig, life, "work")
    await wait_running(rig)
    await asyncio.sleep(2)
    return event_id


async def steers_and_is_answered(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = takes_in_silence
    await begin(rig, life)
    await tell(rig, life, "!steer with care")
    await rig.wait_ended(1)


async def steers_by_message(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = takes_in_silence
    await begin(rig, life)
    await tell(rig, life, "with care")
    await rig.wait_ended(1)


async def steers_and_cancels(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = hang
    await begin(rig, life)
    await tell(rig, life, "!steer with care")
    await asyncio.sleep(2)
    await tell(rig, life, "!cancel")
    await rig.wait_ended(1)


async def steers_into_what_is_over(rig: Rig, life: Life) -> None:
    """The runner refuses it: it becomes a turn of its own."""
    rig.claude.scripts["work"] = works_for(10)
    await begin(rig, life)
    rig.shim.refuses_steers = True
    await tell(rig, life, "!steer with care")
    await rig.wait_ended(2)


async def steers_and_takes_it_back_at_once(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = works_for(10)
    await begin(rig, life)
    event_id = await rig.receive("!steer a secret")
    await rig.receive_event("m.room.redaction", {"redacts": event_id}, redacts=event_id)
    life.notify()
    await rig.wait_ended(1)


async def takes_back_what_waits(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = works_for(20)
    await begin(rig, life)
    event_id = await tell(rig, life, "never mind")
    await asyncio.sleep(3)
    await redact(rig, life, event_id)
    await rig.wait_ended(2)


async def takes_back_what_runs(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = hang
    await redact(rig, life, await begin(rig, life))
    await rig.wait_ended(1)


async def takes_back_what_was_answered(rig: Rig, life: Life) -> None:
    event_id = await tell(rig, life, "hello")
    await rig.wait_ended(1)
    await redact(rig, life, event_id)


async def takes_back_a_command(rig: Rig, life: Life) -> None:
    event_id = await tell(rig, life, "!help")
    await rig.wait_body("!cancel")
    await redact(rig, life, event_id)
    await redact(rig, life, "$of-somebody-else")


async def changes_what_waits(rig: Rig, life: Life) -> None:
    rig.claude.scripts["work"] = works_for(20)
    await begin(rig, life)
    event_id = await tell(rig, life, "frist")
    await asyncio.sleep(3)
    await edit(rig, life, event_id, "first")
    await rig.wait_ended(2)


@pytest.mark.parametrize(
    ("change", "defaults"),
    [
        (steers_and_is_answered, {}),
        (steers_by_message, STEERS),
        (steers_and_cancels, {}),
        (steers_into_what_is_over, {}),
        (steers_and_takes_it_back_at_once, {}),
        (takes_back_what_waits, {}),
        (takes_back_what_runs, {}),
        (takes_back_what_was_answered, {}),
        (takes_back_a_command, {}),
        (changes_what_waits, {}),
    ],
)
def test_each_message_has_its_end(tmp_path: Path, change: Change, defaults: Any) -> None:
    assert audit(tmp_path, judge(tmp_path, change, **defaults)) == ()


def test_a_message_that_was_taken_back_counts_as_cancelled(tmp_path: Path) -> None:
    events = judge(tmp_path, takes_back_what_waits)
    evidence = read_snapshot(tmp_path / DATABASE_NAME).evidence
    report = account(replace(evidence, events=events), now=evidence.turns[0].created_at)
    assert [e.event_type for e in events].count("m.room.redaction") == 1
    assert sorted(report.states) == ["$e1", "$e3"], "a redaction is no message"
    assert report.outcomes == {"cancelled": 1, "done": 1}


def test_what_a_turn_that_runs_has_yet_to_be_given_is_in_hand(tmp_path: Path) -> None:
    """Also where the audit looks in the moment before it leaves."""

    async def steers(rig: Rig, life: Life) -> None:
        rig.claude.scripts["work"] = hang
        await begin(rig, life)
        await tell(rig, life, "!steer with care")
        await rig.wait_body("Passed on")
        asked = '["$e1"]'
        await rig.store.database.run(lambda db: db.execute("UPDATE turns SET asked = ?", (asked,)))

    assert audit(tmp_path, judge(tmp_path, steers)) == ()


def test_what_is_lost_among_them_is_found(tmp_path: Path) -> None:
    async def loses(rig: Rig, life: Life) -> None:
        await steers_and_is_answered(rig, life)
        lost = "UPDATE turns SET asked = '[\"$e1\"]'"
        await rig.store.database.run(lambda db: db.execute(lost))

    found = audit(tmp_path, judge(tmp_path, loses))
    assert [(f.problem, f.event_id) for f in found] == [(Problem.NO_END, "$e3")]
