"""Turns at a time: each once, in somebody's name, told when missed, and bounded."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.schedule import (
    GRACE_S,
    LEAST_EVERY_S,
    MAX_PER_ROOM,
    Fault,
    Hindrance,
    Removal,
    Wish,
    next_due,
    parse_wish,
)
from orchestrator.core.texts import schedule as texts
from orchestrator.core.thread import MAIN, parse_thread
from orchestrator.model import JsonObject, RoomId
from orchestrator.store.api import Replacement
from orchestrator.store.checking import APPLICATION_ID
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.schedule_table import ScheduleRow, ScheduleTable
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.store import open_store
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ALICE, Life, Rig, open_rig, run_rooms
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import audit, run, tell
from tests.unit.rooms.test_people import settle, state
from tests.unit.rooms.test_room_settings import ACCESS, CAROL, say
from tests.unit.rooms.test_upgrade import NEW, upgrade

BOB = "@bob:test"
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC).timestamp()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("argument", "wish"),
    [
        ("in 2h go on", Wish(text="go on", due_at=NOW + 7200, cron=None)),
        ("IN 90 min  look\nthere", Wish(text="look\nthere", due_at=NOW + 5400, cron=None)),
        ("at 2026-12-24T18:00 x", Wish(text="x", due_at=at("2026-12-24T18:00"), cron=None)),
        ("at 2026-12-24 18:00Z x", Wish(text="x", due_at=at("2026-12-24T18:00"), cron=None)),
        ('"0 9 * * 1-5" x', Wish(text="x", due_at=at("2026-11-27T09:00"), cron="0 9 * * 1-5")),
        ("“0  9 * * *” x", Wish(text="x", due_at=at("2026-11-27T09:00"), cron="0 9 * * *")),
        ("remove 3", Removal(number=3)),
        ("", Fault.FORM),
        ("soon x", Fault.FORM),
        ("in 2h", Fault.FORM),
        ("in 2 fortnights x", Fault.FORM),
        ("at 2026-13-01T00:00 x", Fault.FORM),
        ("at 2026-11-26T11:59 x", Fault.PAST),
        ("in 0s x", Fault.PAST),
        ("in 400d x", Fault.TOO_FAR),
        ('"0 9 * *" x', Fault.CRON),
        ('"* * * * * *" x', Fault.CRON),
        ('"0 9 31 2 *" x', Fault.CRON),
        ('"a b c d e" x', Fault.CRON),
        ('"* * * * *" x', Fault.TOO_OFTEN),
        ('"0,1 9 * * *" x', Fault.TOO_OFTEN),
        ('"*/7 0,23 1,10,20,25,31 * *" x', Fault.TOO_OFTEN),
        ("in 1h " + "x" * 4001, Fault.TOO_LONG),
    ],
)
def test_what_is_wished_for(argument: str, wish: Wish | Removal | Fault) -> None:
    assert parse_wish(argument, now=NOW) == wish


@given(st.text(max_size=60) | st.from_regex(r'"[-0-9*/, ]{1,20}" x', fullmatch=True))
def test_any_text_is_a_wish_for_later_or_a_fault(text: str) -> None:
    wish = parse_wish(text, now=NOW)
    if isinstance(wish, Wish):
        assert wish.due_at > NOW
        if wish.cron is not None:
            after = next_due(wish.cron, after=wish.due_at)
            assert after is None or after >= wish.due_at + LEAST_EVERY_S
    elif isinstance(wish, Fault):
        assert texts.FAULTS[wish].count("\n") == 0


def test_one_for_once_and_one_for_ever_run_at_their_times(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            assert "Scheduled for" in await say(rig, life, "!schedule in 10m once")
            assert "and again" in await say(rig, life, '!schedule "*/30 * * * *" ever')
            assert "`ever`" in await say(rig, life, "!schedule")
            await asyncio.sleep(2.2 * 3600)
            listed = await say(rig, life, "!schedule")
            assert "`once`" not in listed
            assert "`ever`" in listed
        assert sorted(rig.claude.asked) == ["ever"] * 4 + ["once"]
        assert texts.begins("once", ALICE) in await rig.bodies()

    run(tmp_path, test)


def test_what_was_missed_by_long_is_told_once_and_what_by_little_is_made_up_for(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, "!schedule in 10m long")
            await say(rig, life, '!schedule "0 * * * *" hourly')
        await asyncio.sleep(5 * 3600)
        async with rig.life() as life:
            await asyncio.sleep(60)
            missed = [body for body in await rig.bodies() if "Missed" in body]
            assert len(missed) == 2, "of five hours one word"
            assert rig.claude.asked == []
            await say(rig, life, "!schedule in 10m short")
        await asyncio.sleep(600 + GRACE_S / 2)
        async with rig.life():
            await rig.wait_ended(1)
        assert rig.claude.asked == ["short"]

    run(tmp_path, test)


def test_of_two_times_that_were_missed_none_is_lost_without_a_word(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, '!schedule "*/5 * * * *" often')
            (made,) = await rig.store.schedules.of_room(RoomId("!room:test"))
        await asyncio.sleep(made.due_at - loop_clock() + 301)
        async with rig.life():
            await asyncio.sleep(20)
            assert sum("Missed" in body for body in await rig.bodies()) == 1
            await rig.wait_ended(1, timeout_s=400)
        assert rig.claude.asked == ["often"]

    run(tmp_path, test)


@pytest.mark.parametrize("step", range(10))
def test_a_crash_at_any_step_runs_it_once(tmp_path: Path, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            async with rig.life() as life:
                await say(rig, life, "!schedule in 10m go")
            await asyncio.sleep(600)
            async with rig.life(crash_at=step) as life:

                async def is_over() -> bool:
                    return life.points.crashed.is_set() or len(await rig.outcomes()) > 0

                await rig.wait(is_over)
            async with rig.life():
                await rig.wait_ended(1)
                await asyncio.sleep(60)
            assert rig.claude.asked == ["go"]
            assert sum("Scheduled by" in body for body in await rig.bodies()) == 1

    run_rooms(main())
    assert audit(tmp_path) == ()


def test_nothing_is_run_for_whoever_may_not_run_turns_any_more(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, "!schedule in 10m mine")
        rig.config = rig.config.model_copy(
            update={"access": rig.config.access.model_copy(update={"users": ("@bob:test",)})}
        )
        async with rig.life():
            await asyncio.sleep(700)
        assert rig.claude.asked == []
        assert (await rig.bodies())[-1] == texts.not_run("mine", ALICE)

    run(tmp_path, test)


def test_a_schedule_is_removed_by_whoever_made_it_or_an_admin(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, "!schedule in 10m one")
            await say(rig, life, "!schedule in 20m two")
            bob = await say(rig, life, "!schedule remove 1", by="@bob:test")
            assert bob == texts.NOT_YOURS
            assert await say(rig, life, "!schedule remove 3") == texts.no_such(3, 2)
            assert await say(rig, life, "!schedule remove 1") == texts.removed("one")
            assert await say(rig, life, "!schedule remove 1", by=CAROL) == texts.removed("two")
            await asyncio.sleep(1500)
        assert rig.claude.asked == []

    run(tmp_path, test, access=ACCESS)


def test_a_room_has_so_many_at_most(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.account = MemoryHomeserver()
        async with rig.life() as life:
            for _ in range(MAX_PER_ROOM):
                await say(rig, life, "!schedule in 3h x")
                await asyncio.sleep(10)
            assert await say(rig, life, "!schedule in 3h x") == texts.TOO_MANY

    run(tmp_path, test)


# Whoever made it is gone...


async def member(rig: Rig, life: Life, who: str, membership: str) -> None:
    await state(rig, "m.room.member", {"membership": membership}, key=who)
    await settle(rig, life)


@pytest.mark.parametrize("membership", ["ban", "leave"])
def test_nothing_is_run_for_whoever_left_the_room_or_was_sent_away(
    tmp_path: Path, membership: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await member(rig, life, ALICE, "join")
            await say(rig, life, "!schedule in 50m once")
            await say(rig, life, '!schedule "*/30 * * * *" ever')
            await member(rig, life, ALICE, membership)
            listed = await say(rig, life, "!schedule", by=BOB)
            assert listed.count(f"**not run**: `{ALICE}` has left this room") == 2
            await asyncio.sleep(3 * 3600)
            bodies = await rig.bodies()
            left = Hindrance.LEFT
            assert bodies.count(texts.not_run("once", ALICE, left)) == 1
            assert bodies.count(texts.not_run("ever", ALICE, left, is_kept=True)) == 1
            assert rig.claude.asked == []
            assert "`once`" not in await say(rig, life, "!schedule", by=BOB)
            await member(rig, life, ALICE, "join")
            assert "not run" not in await say(rig, life, "!schedule", by=BOB)
            await asyncio.sleep(1800)
            assert rig.claude.asked == ["ever"]
            await member(rig, life, ALICE, membership)
            await asyncio.sleep(3 * 3600)
        again = texts.not_run("ever", ALICE, Hindrance.LEFT, is_kept=True)
        assert (await rig.bodies()).count(again) == 2, "told again, as it is for another reason"
        assert rig.claude.asked == ["ever"]

    run(tmp_path, test)


def test_one_with_a_pattern_waits_for_the_right_to_run_turns(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await say(rig, life, '!schedule "*/30 * * * *" ever')
        before, access = rig.config, rig.config.access.model_copy(update={"users": (BOB,)})
        rig.config = rig.config.model_copy(update={"access": access})
        async with rig.life() as life:
            assert "may not run turns here" in await say(rig, life, "!schedule", by=BOB)
            await asyncio.sleep(3 * 3600)
        told = texts.not_run("ever", ALICE, Hindrance.ROLE, is_kept=True)
        assert (await rig.bodies()).count(told) == 1
        assert rig.claude.asked == []
        rig.config = before
        async with rig.life():
            await asyncio.sleep(1800)
        assert rig.claude.asked == ["ever"]

    run(tmp_path, test)


# In a thread...


def test_what_was_made_in_a_thread_runs_in_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "!schedule in 10m go", thread="$root")
            await rig.wait_body("Scheduled for")
            assert "in a thread" in await say(rig, life, "!schedule")
            await asyncio.sleep(700)
        (turn,) = await rig.turns()
        assert (turn.session, turn.outcome) == ("$root", "done")
        said = {str(c["body"]): c for c in await rig.said() if "body" in c}
        for body in (texts.begins("go", ALICE), "You said: go"):
            assert parse_thread(said[body]) == "$root"

    run(tmp_path, test)


def test_after_an_upgrade_it_goes_on_outside_of_the_thread(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "!schedule in 10m go", thread="$root")
            await rig.wait_body("Scheduled for")
        new, old = RoomId("!new:test"), RoomId("!room:test")
        rooms = rig.store.rooms
        await rooms.ensure(new, joined=True)
        await rig.store.database.run(
            lambda db: (
                db.execute(
                    "UPDATE rooms SET replaced_by = ?, replaced_at = 0 WHERE room_id = ?",
                    (new, old),
                ),
                db.execute("UPDATE rooms SET replaces = ? WHERE room_id = ?", (old, new)),
            )
        )
        assert await rig.store.move_room(Replacement(old=old, new=new), [], now=loop_clock())
        (moved,) = await rig.store.schedules.of_room(new)
        assert moved.session == "left:$root"
        async with rig.life():
            await asyncio.sleep(700)
        assert all(parse_thread(c) is None for c in await rig.said(new))
        assert "You said: go" in await rig.bodies(new)

    run(tmp_path, test)


@pytest.mark.parametrize("wish", ["in 10m go", '"0 * * * *" go'])
def test_an_upgrade_just_as_it_is_due_takes_it_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, f"!schedule {wish}")
            await rig.wait_body("Scheduled for")
            read = ScheduleTable.due

            async def due(table: ScheduleTable, *, now: float) -> Sequence[ScheduleRow]:
                found = await read(table, now=now)
                if found and await rig.store.rooms.get(NEW) is None:
                    await upgrade(rig, life)
                return found

            monkeypatch.setattr(ScheduleTable, "due", due)
            await asyncio.sleep(3700)
        (turn,) = await rig.turns()
        assert (turn.room_id, turn.outcome) == (NEW, "done")
        assert "You said: go" in await rig.bodies(NEW)
        assert texts.begins("go", ALICE) not in await rig.bodies()

    run(tmp_path, test)


@pytest.mark.parametrize("before", [None, "leave"])
def test_who_is_only_invited_into_the_new_room_has_left_neither(
    tmp_path: Path, before: str | None
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await member(rig, life, ALICE, "join")
            await say(rig, life, "!schedule in 10m go")
            await upgrade(rig, life)
            for membership in [before, "invite"] if before else ["invite"]:
                content: JsonObject = {"membership": membership}
                await rig.receive_event("m.room.member", content, BOB, NEW, state_key=ALICE)
            await settle(rig, life)
            await asyncio.sleep(700)
        is_gone = texts.not_run("go", ALICE, Hindrance.LEFT) in await rig.bodies(NEW)
        assert is_gone is (before is not None), "an invitation alone brings nobody back"
        assert ("You said: go" in await rig.bodies(NEW)) is not is_gone

    run(tmp_path, test)


async def test_a_schedule_from_before_threads_runs_in_the_main_timeline(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
        for script in MIGRATIONS[:5]:
            db.executescript(script)
        db.execute(
            "INSERT INTO schedules VALUES (1, '!room:test', 'go', 9e9, NULL, ?, 0)", (ALICE,)
        )
        db.execute("PRAGMA user_version = 5")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.commit()
    async with open_store(tmp_path) as store:
        (kept,) = await store.schedules.of_room(RoomId("!room:test"))
    assert (kept.text, kept.session, kept.is_paused) == ("go", MAIN, False)
