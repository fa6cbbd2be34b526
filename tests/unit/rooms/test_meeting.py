"""Where parts meet that know little of each other: upgrades, retries, floods, restores, clocks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.accounting import account
from orchestrator.core.evidence import SeenEvent, build_digest
from orchestrator.core.going_on import build_prompt_again
from orchestrator.core.turn_mark import parse_mark
from orchestrator.core.verdict import Remark, Report
from orchestrator.errors import RequestRefusedError
from orchestrator.model import EventId, JsonObject, RoomId, UserId
from orchestrator.rooms.outgoing import TURN_KEY
from orchestrator.store.api import InboxKind
from orchestrator.store.growth import drop_old_words
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.snapshot import read_snapshot
from tests.support.memory_claude import Turn
from tests.support.room_rig import ALICE, ME, ROOM, Life, Rig, open_rig, run_rooms
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import audit, hang, run, tell, works_for
from tests.unit.rooms.test_going_on import kill_runner
from tests.unit.rooms.test_restore import make_copy, restored
from tests.unit.rooms.test_upgrade import NEW, creation, deliver, tombstone, upgrade
from tests.unit.rooms.test_usage_limit import limited

FORBIDDEN = RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="sending an event")


def test_what_was_interrupted_before_an_upgrade_can_be_retried_in_the_new_room(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("working")
            await kill_runner(rig)
            await rig.wait_ended(1)
            await deliver(rig)
            await upgrade(rig, life)
            del rig.claude.scripts["work"]
            await rig.receive("!retry", room=NEW)
            life.notify()
            await rig.wait_ended(2)
        assert rig.claude.asked[-1] == build_prompt_again("work")
        assert await rig.outcomes(NEW) == ["done"]
        assert audit(tmp_path) == ()

    run(tmp_path, test)


def sealed(key: str, text: str) -> dict[str, Any]:
    clear = {
        "type": "m.room.message",
        "sender": ALICE,
        "content": {"msgtype": "m.text", "body": text},
    }
    return {"key": key, "clear": clear}


async def say_sealed(rig: Rig, key: str, text: str, room: RoomId = ROOM) -> EventId:
    return await rig.receive_event("m.room.encrypted", sealed(key, text), room=room)


def test_a_message_whose_key_is_late_outlives_the_upgrade_and_leaving_the_old_room(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.encryption", {"algorithm": "x"}, state_key="")
        await rig.receive_event("m.room.encryption", {"algorithm": "x"}, ALICE, NEW, state_key="")
        async with rig.life() as life:
            await say_sealed(rig, "k", "late")
            await say_sealed(rig, "never", "lost")
            life.notify()
            await asyncio.sleep(1)
            await upgrade(rig, life)
            await rig.receive_row(InboxKind.LEAVE, {})
            life.notify()
            await asyncio.sleep(5)
            await rig.receive_row(InboxKind.TO_DEVICE, {"key": "k", "room_id": ROOM}, None)
            life.notify()
            await rig.wait_body("You said: late", room=NEW)
            await rig.wait_body(texts.UNDECRYPTABLE, room=NEW, timeout_s=400)

    run(tmp_path, test)


def test_the_end_mark_that_an_upgrade_forbade_goes_into_the_new_room_and_nothing_else(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async def work(turn: Turn) -> None:
            turn.text("all of it")
            await asyncio.sleep(20)
            turn.result("all of it")

        rig.claude.scripts["work"] = work
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("all of it")
            await deliver(rig)
            await rig.wait_ended(1)
            await refuse_all(rig, life)
            await upgrade(rig, life)
            await deliver(rig)
        marks = [c for c in [*await rig.said(), *await rig.said(NEW)] if TURN_KEY in c]
        assert sum(bool(c[TURN_KEY]["final"]) for c in marks) == 1  # type: ignore[index,call-overload]
        assert await rig.bodies(NEW) == [texts.ROOM_CONTINUES]
        assert audit(tmp_path) == ()

    run(tmp_path, test)


@pytest.mark.parametrize("is_known_s", [0, 5])
def test_whoever_is_sent_out_of_the_old_room_before_the_new_one_is_known_still_tells_each_end(
    tmp_path: Path, is_known_s: float
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            working = await rig.receive("work")
            life.notify()
            await rig.wait_body("working")
            await deliver(rig)
            collected = await rig.receive("just before", sender="@bob:test")
            await tombstone(rig)
            await rig.receive_row(InboxKind.LEAVE, {})
            life.notify()
            await asyncio.sleep(is_known_s)
            await refuse_all(rig, life)
            await creation(rig)
            life.notify()
            await rig.wait_body("You said: just before", room=NEW)
        marks: list[Any] = [content.get(TURN_KEY) for content in await rig.said(NEW)]
        ends = {mark["asked"][0]: mark["outcome"] for mark in marks if mark and mark["final"]}
        assert ends == {working: "refused", collected: "done"}

    run(tmp_path, test)


async def refuse_all(rig: Rig, life: Life) -> None:
    """As the sender does when the homeserver forbids each message."""
    while heads := await rig.store.outbox.outbox_heads(now=loop_clock(), limit=9):
        for row in heads:
            await life.manager.tell_refused(row, FORBIDDEN)
            await rig.store.outbox.mark_refused(row.seq, reason="M_FORBIDDEN", now=loop_clock())


def test_a_cancel_in_a_flood_has_its_end_wherever_a_life_ends(tmp_path: Path) -> None:
    steps = run_rooms(flood_and_cancel(tmp_path / "none", 0))
    for crash_at in range(1, steps + 1):
        run_rooms(flood_and_cancel(tmp_path / str(crash_at), crash_at))


async def flood_and_cancel(folder: Path, crash_at: int) -> int:
    limit = {"sender_burst": 1, "sender_per_minute": 1}
    async with open_rig(folder, gateway=limit) as rig:
        rig.claude.scripts["hang"] = hang
        await rig.receive("hang")
        async with rig.life() as life:
            await rig.wait_body("working")
            await rig.receive("behind", sender="@bob:test")
            life.notify()
            await rig.wait_body("Queued")
        await rig.receive("within its limit again")
        cancel = await rig.receive("!cancel")
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                cancelled = "cancelled" in await rig.outcomes()
                return life.points.crashed.is_set() or cancelled

            await rig.wait(is_over)
            count = life.points.count
        async with rig.life():
            await asyncio.sleep(200)
            await rig.store.database.run(lambda db: db.execute("UPDATE outbox SET state = 'sent'"))
            await asyncio.sleep(200)
        asked: list[str] = []
        for content in await rig.said():
            mark: Any = content.get(TURN_KEY)
            asked += mark["asked"] if mark and mark["final"] else []
        assert asked.count(cancel) == 1, (crash_at, asked)
        outcomes = await rig.outcomes()
        assert outcomes.count("cancelled") == 1, (crash_at, outcomes)
        return count


def test_a_wait_that_a_wrong_clock_made_is_no_longer_than_a_limit_can_last(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = limited()
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("Waiting: ")
        # A year back: what was stored is a year ahead.
        query = "UPDATE turns SET not_before = not_before + 365 * 86400 WHERE state = 'queued'"
        await rig.store.database.run(lambda db: db.execute(query))
        await rig.store.begin_life(now=loop_clock())
        async with rig.life() as life:
            await tell(rig, life, "behind it")
            await asyncio.sleep(9 * 86400)
        assert await rig.outcomes() == ["done", "done"]

    run(tmp_path, test, defaults={"on_usage_limit": "wait"})


def test_poison_that_waits_in_a_copy_keeps_nobody_from_restoring_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            deep = "[" * 3000 + "]" * 3000
            raw = f'{{"type": "m.room.message", "event_id": "$p", "content": {deep}}}'
            await rig.receive_row(InboxKind.TIMELINE, raw, ROOM, EventId("$p"))
            await rig.receive_row(InboxKind.TIMELINE, "not JSON", ROOM, EventId("$q"))
            copy = make_copy(tmp_path)
            async with restored(rig, tmp_path, copy), rig.life():
                await rig.wait_body("restored from a copy")

    run_rooms(main())


def test_a_second_restore_from_another_copy_replaces_the_runner_of_the_first(
    tmp_path: Path,
) -> None:

    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            rig.claude.scripts["work"] = works_for(300)
            async with rig.life() as life:
                await tell(rig, life, "hello")
                await rig.wait_ended(1)
                first = make_copy(tmp_path)
                kept = first.rename(tmp_path / "first.sqlite3")
                await kill_runner(rig)
                await tell(rig, life, "again")
                await rig.wait_ended(2)
                second = make_copy(tmp_path)
            async with restored(rig, tmp_path, kept):
                async with rig.life() as life:
                    await tell(rig, life, "work")
                    await rig.wait_body("begun")
                await asyncio.sleep(1)
                async with restored(rig, tmp_path, second), rig.life():
                    await asyncio.sleep(30)
                    assert await rig.backend.list() == []

    run_rooms(main())


async def kept_end(rig: Rig) -> JsonObject:
    """What the homeserver has of the last turn's end."""
    ends: list[Any] = [c for c in await rig.said() if TURN_KEY in c]
    return next(c for c in reversed(ends) if c[TURN_KEY]["final"])


def own(event_id: str, content: JsonObject, event_type: str = "m.room.message") -> SeenEvent:
    return SeenEvent(
        room_id=ROOM,
        event_id=EventId(event_id),
        sender=UserId(ME),
        event_type=event_type,
        is_own=True,
        is_new=False,
        digest=build_digest(content),
        mark=parse_mark(content),
    )


def report(folder: Path, *events: SeenEvent) -> Report:
    evidence = replace(read_snapshot(folder / DATABASE_NAME).evidence, events=events)
    return account(evidence, now=evidence.turns[0].created_at)


def test_the_answer_that_a_restored_copy_does_not_know_is_no_second_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            rig.claude.scripts["work"] = works_for(30)
            async with rig.life() as life:
                await tell(rig, life, "work")
                await rig.wait_body("begun")
                copy = make_copy(tmp_path)
                await rig.wait_ended(1)
                known = own("$answer", await kept_end(rig))
            async with restored(rig, tmp_path, copy):
                await deliver(rig)
                found = report(tmp_path, known)
            assert found.findings == ()
            assert [note.remark for note in found.notes] == [Remark.UNKNOWN_EVENT]

    run_rooms(main())


def test_an_event_that_was_redacted_is_no_copy_of_a_notice_whose_words_were_dropped(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            await upgrade(rig, life)
            notice = "UPDATE outbox SET room_id = ? WHERE room_id = ?"
            await rig.store.database.run(lambda db: db.execute(notice, (ROOM, NEW)))
            await deliver(rig)
        await drop_old_words(rig.store.database, now=loop_clock() + 8 * 86400)
        assert report(tmp_path, own("$redacted", {})).findings == ()

    run(tmp_path, test)


def test_a_retry_is_no_second_run_for_the_audit_although_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("working")
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            del rig.claude.scripts["work"]
            await tell(rig, life, "!retry")
            await rig.wait_ended(2)
        # As if the clock had been set back by an hour between the two.
        earlier = "UPDATE turns SET created_at = created_at - 3600 WHERE continues IS NOT NULL"
        await rig.store.database.run(lambda db: db.execute(earlier))
        assert audit(tmp_path) == ()

    run(tmp_path, test)
