"""Rooms among each other: contained failures, rooms that are left and joined again, commands."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.naming import refused_txn_id
from orchestrator.core.turn_mark import ANSWER_KEY
from orchestrator.errors import (
    EgressError,
    EngineRequestError,
    EngineUnavailableError,
    ImageMissingError,
    RequestRefusedError,
    StoreCorruptError,
)
from orchestrator.model import Priority, RoomId, RunnerState, TxnId
from orchestrator.rooms.cli_session import CliSessions
from orchestrator.rooms.idle import IdleEar
from orchestrator.rooms.turn_run import TurnRun
from orchestrator.rooms.worker import RoomWorker
from orchestrator.store.api import InboxKind, OutboxRow
from tests.support.crash_points import CrashPoints
from tests.support.memory_claude import Turn
from tests.support.room_rig import ROOM, Rig, build_life
from tests.unit.rooms.scenario import hang, run, tell, works_for

OTHER = RoomId("!other:test")


def test_a_bug_in_one_room_is_told_there_and_the_room_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = TurnRun._line

    async def buggy(self: TurnRun, event: Any) -> None:
        if "poison" in event.line:
            raise KeyError("bug")
        await usual(self, event)

    monkeypatch.setattr(TurnRun, "_line", buggy)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(3)
        async with rig.life() as life:
            await rig.receive("work", room=OTHER)
            await tell(rig, life, "poison")
            await rig.wait_body(texts.FAILED_INSIDE.rstrip("."))
            await tell(rig, life, "after")
            await rig.wait_body("You said: after")
            await rig.wait_body("finished", room=OTHER)
            await asyncio.sleep(1)
            assert rig.homeserver.typing[ROOM] is False
        assert await rig.outcomes() == ["failed", "done"]
        info = await rig.info()
        assert info is not None
        assert info.generation == 2  # what was left of the turn is gone with its container

    run(tmp_path, test)


def test_a_bug_while_the_engine_is_away_still_gives_no_turn_to_the_old_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            life.backend.is_away = True

            async def bug(*_: object, **__: object) -> None:
                raise KeyError("bug")

            monkeypatch.setattr(TurnRun, "_act_on_time", bug)
            life.manager.workers[ROOM].wake()
            await rig.wait_ended(1)
            monkeypatch.undo()
            life.backend.is_away = False
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["failed", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_room_that_always_fails_is_not_a_busy_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0

    async def bug(*_: object, **__: object) -> None:
        nonlocal failures
        failures += 1
        raise KeyError("bug")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            monkeypatch.setattr(IdleEar, "hear", bug)
            session, process = next(iter(rig.shim.sessions.items()))
            Turn(process, session, "other", "").text("poison")
            await asyncio.sleep(3600)
        assert 3 < failures < 30

    run(tmp_path, test)


def test_a_room_whose_failure_can_not_even_be_told_keeps_no_other_room_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0

    async def bug(*_: object, **__: object) -> None:
        nonlocal failures
        failures += 1
        raise KeyError("bug")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            monkeypatch.setattr(RoomWorker, "fail_current", bug)
            monkeypatch.setattr(IdleEar, "hear", bug)
            session, process = next(iter(rig.shim.sessions.items()))
            Turn(process, session, "other", "").text("poison")
            await asyncio.sleep(10)
            monkeypatch.undo()
            await asyncio.sleep(120)
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert failures > 1

    run(tmp_path, test)


def test_a_failing_store_ends_the_rooms_with_its_error(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)

        async def until_it_is_damaged() -> None:
            async with rig.life() as life:
                await tell(rig, life, "work")
                await rig.wait_body("begun")
                life.database.fail = StoreCorruptError
                await asyncio.sleep(60)

        with pytest.raises(ExceptionGroup) as caught:
            await until_it_is_damaged()
        assert caught.group_contains(StoreCorruptError)
        async with rig.life():
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ImageMissingError(), "runner image is not there"),
        (EngineRequestError(), "did not answer in time"),
    ],
)
def test_an_engine_that_refuses_fails_the_turn_with_its_reason(
    tmp_path: Path, error: Exception, word: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            life.backend.fail_next["ensure"] = [error] * 20
            await tell(rig, life, "one")
            await rig.wait_ended(1, timeout_s=200)
        assert word in (await rig.bodies())[0]

    run(tmp_path, test)


def test_a_door_that_can_not_be_opened_at_first_is_tried_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.housing.errors = [EgressError(), EgressError()]
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        assert await rig.bodies() == ["You said: one"]

    run(tmp_path, test)


def test_a_room_that_is_left_ends_its_turns_and_its_runner_and_can_be_joined_again(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "waits behind")
            await rig.receive_row(InboxKind.LEAVE, {})
            life.notify()
            await asyncio.sleep(1)
            assert {t.outcome for t in await rig.turns()} == {"refused"}
            assert rig.homeserver.typing[ROOM] is False
            await asyncio.sleep(20)
            info = await rig.info()
            assert info is not None
            assert info.state is RunnerState.EXITED
            assert ROOM not in life.manager.workers
            await tell(rig, life, "back again")
            await rig.wait_body("You said: back again")
        assert await rig.store.outbox.waiting() == 1

    run(tmp_path, test)


def test_a_room_that_is_joined_again_at_once_waits_for_its_old_runner_to_stop(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await rig.receive_row(InboxKind.LEAVE, {})
            await rig.receive_row(InboxKind.SUMMARY, {"m.joined_member_count": 2})
            await rig.receive_row(InboxKind.LEAVE, {})
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_message_of_a_room_that_was_left_before_its_window_closed_is_no_turn(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.receive("hello")
            await rig.receive_row(InboxKind.LEAVE, {})
            life.notify()
            await asyncio.sleep(5)
        assert await rig.turns() == []
        assert ("ignored", "left the room") in await rig.inbox_states()
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert not room.joined

    run(tmp_path, test)


def test_what_a_crash_left_of_a_room_that_was_left_is_ended_at_the_next_start(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
        await rig.store.rooms.ensure(ROOM, joined=False)
        async with rig.life() as life:
            await asyncio.sleep(20)
            assert ROOM not in life.manager.workers
        assert [t.outcome for t in await rig.turns()] == ["refused"]
        info = await rig.info()
        assert info is not None
        assert info.state is RunnerState.EXITED

    run(tmp_path, test)


@pytest.mark.parametrize("error", [EngineUnavailableError(), EngineRequestError()])
def test_a_runner_that_can_not_be_stopped_does_not_keep_the_room(
    tmp_path: Path, error: Exception
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            life.backend.fail_next["stop"] = [error]
            await rig.receive_row(InboxKind.LEAVE, {})
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done", "done"]

    run(tmp_path, test)


def test_an_engine_that_is_away_at_the_start_is_asked_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
        async with rig.life() as life:
            life.backend.is_away = True
            await asyncio.sleep(50)
            life.backend.is_away = False
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", "finished"]

    run(tmp_path, test)


def test_a_full_queue_is_told_and_the_turn_is_not_taken(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            for text in ("hang", "second", "third", "fourth"):
                await tell(rig, life, text)
                await asyncio.sleep(1)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(4)
        bodies = await rig.bodies()
        assert texts.queue_full(2) in bodies
        assert texts.queued(2) in bodies
        assert sorted(await rig.outcomes()) == ["cancelled", "done", "done", "refused"]
        assert rig.claude.asked == ["hang", "second", "third"]

    run(tmp_path, test, gateway={"max_queued_turns": 2})


def test_commands_are_answered_as_replies(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for command in ("!help", "!status", "!cancel", "!statsu"):
                await tell(rig, life, command)
                await asyncio.sleep(0.5)
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await tell(rig, life, "!status")
            await asyncio.sleep(1)
            life.backend.is_away = True
            await tell(rig, life, "!status")
            await asyncio.sleep(1)
        bodies = await rig.bodies()
        assert "`!cancel`" in bodies[0]
        assert "Runner: none yet" in bodies[1]
        assert "Spending: $0.00 spent today (UTC)" in bodies[1]
        assert "Account: no limit of the homeserver's met yet, 1 message waiting" in bodies[1]
        assert bodies[2] == texts.CANCEL_NOTHING
        assert "Did you mean `!status`?" in bodies[3]
        assert "running, generation 1" in bodies[5]
        assert "Session: live" in bodies[5]
        assert "unknown (EngineUnavailableError)" in bodies[6]
        replies: list[Any] = [c.get("m.relates_to") for c in await rig.said()]
        assert replies[0] == {"m.in_reply_to": {"event_id": "$e1"}}

    run(tmp_path, test)


def test_status_does_not_wait_for_an_engine_that_hangs(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:

            async def hang_for_ever(*_: object) -> None:
                await asyncio.Event().wait()

            life.backend.inspect = hang_for_ever  # type: ignore[method-assign]
            await tell(rig, life, "!status")
            await rig.wait_body("the engine does not answer", timeout_s=3)

    run(tmp_path, test)


def refused_row(priority: Priority, content: Any) -> OutboxRow:
    return OutboxRow(
        seq=1,
        room_id=ROOM,
        txn_id=TxnId("t"),
        event_type="m.room.message",
        content=content,
        priority=priority,
        attempts=1,
        not_before=0,
        created_at=0,
    )


def test_an_answer_that_is_too_large_is_told_with_the_mark_that_it_bore(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        mark = {"turn": "t1", "final": True, "outcome": "done"}
        row = refused_row(Priority.FINAL, {"org.aiagentchat.turn": mark})
        error = RequestRefusedError(errcode="M_TOO_LARGE", status=413, what="x")
        async with rig.life() as life:
            await life.manager.tell_refused(row, error)
            await life.manager.tell_refused(row, error)
        (said,) = await rig.said()
        assert said["body"] == texts.MESSAGE_TOO_LARGE
        assert said["org.aiagentchat.turn"] == mark

    run(tmp_path, test)


@pytest.mark.parametrize("errcode", ["M_BAD_JSON", "M_UNKNOWN", "M_TOO_LARGE"])
def test_whatever_is_refused_for_good_is_told_in_its_place_and_that_once(
    tmp_path: Path, errcode: str
) -> None:
    async def test(rig: Rig) -> None:
        relation = {"m.in_reply_to": {"event_id": "$asked"}}
        end = {"to": "$asked", "final": True}
        content = {"body": "an answer", "m.relates_to": relation, ANSWER_KEY: end}
        row = refused_row(Priority.NOTICE, content)
        error = RequestRefusedError(errcode=errcode, status=403, what="x")
        async with rig.life() as life:
            await life.manager.tell_refused(row, error)
            await life.manager.tell_refused(row, error)
            (said,) = await rig.said()
            (stand_in,) = await rig.store.outbox.outbox_heads(now=math.inf, limit=9)
            await life.manager.tell_refused(stand_in, error)
            assert await rig.said() == [said]
        assert said["body"] == texts.message_refused(errcode)
        assert said["m.relates_to"] == relation
        assert said[ANSWER_KEY] == end
        assert stand_in.txn_id == refused_txn_id(row.txn_id)

    run(tmp_path, test)


def test_who_may_not_speak_says_nothing_and_an_end_that_may_not_be_marked_is_said(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        mark = {"turn": "t1", "asked": ["$asked"], "final": True, "outcome": "done"}
        row = refused_row(Priority.FINAL, {"org.aiagentchat.turn": mark})
        error = RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="x")
        async with rig.life() as life:
            await life.manager.tell_refused(row, error)
            assert await rig.said() == []
            end_mark = replace(row, event_type="org.aiagentchat.turn")
            await life.manager.tell_refused(end_mark, error)
        (said,) = await rig.said()
        assert said["org.aiagentchat.turn"] == mark

    run(tmp_path, test)


def test_nothing_is_left_behind_by_many_lives_and_lost_connections(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await asyncio.sleep(1)
            usual = {t.get_name() for t in asyncio.all_tasks()}
            count = len(asyncio.all_tasks())
            for i in range(10):
                life.backend.cut()
                await asyncio.sleep(20)
                await tell(rig, life, f"turn {i}")
                await rig.wait_ended(i + 2)
            await asyncio.sleep(1)
            assert len(asyncio.all_tasks()) == count, usual

    run(tmp_path, test)


def test_a_runner_that_does_not_end_its_sessions_is_condemned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            sessions = CliSessions.clear

            async def mute_first(self: CliSessions, own: str) -> None:
                rig.shim.is_mute = True
                await sessions(self, own)

            monkeypatch.setattr(CliSessions, "clear", mute_first)
            await rig.wait_ended(1, timeout_s=400)
            await asyncio.sleep(10)
            monkeypatch.undo()
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["timed_out", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_the_states_of_the_parts_can_be_read(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            worker = life.manager.workers[ROOM]
            assert "rooms=1 busy=1" in repr(life.manager)
            assert "open" in repr(worker)
            (driver,) = worker._drivers.values()
            assert "TurnRun" in repr(driver)
            assert "typing=1" in repr(life.courtesies)
            assert "cursor=" in repr(life.intake)
            assert "RunnerInfo" in repr(await worker.inspect())

    run(tmp_path, test)


def test_a_manager_that_does_not_run_says_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        life = build_life(rig, CrashPoints())
        with pytest.raises(RuntimeError, match="not running"):
            await life.manager._ensure_worker(ROOM)

    run(tmp_path, test)
