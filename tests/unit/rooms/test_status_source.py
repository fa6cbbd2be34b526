"""What the status page is given: one look at rooms that are at work, ask, wait and rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from loguru import logger

from orchestrator.audit_log import open_audit_log
from orchestrator.control.models import SyncState
from orchestrator.core.approval import ApprovalKind
from orchestrator.core.budget import utc_day
from orchestrator.core.page_action import PageAction, PageVerb
from orchestrator.core.status_view import SeenRoom, Stage
from orchestrator.errors import EngineUnavailableError, StoreError
from orchestrator.matrix.sync import SyncStatus
from orchestrator.model import RoomId, TurnOutcome, UserId
from orchestrator.overview import Overview
from orchestrator.status.source import StatusSource
from orchestrator.store.spending_table import SpendingTable, Spent
from orchestrator.views import Views
from tests.support.asking import CAROL, REVIEWER, ask, rows, run_asking, uses
from tests.support.room_rig import ALICE, ME, ROOM, Life, Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.test_page_acting import started
from tests.unit.rooms.test_tool_asking import begin, wants

OTHER = RoomId("!other:test")


def views_of(rig: Rig, life: Life) -> Views:
    kit = life.manager._kit
    overview = Overview(kit, life.manager, cast("Any", None), me=UserId(ME), started_at=0.0)
    overview.note_sync(SyncStatus(connected=True, at=1.0, reason=None))
    assert overview.sync.state is SyncState.CONNECTED
    return Views(
        kit=kit,
        manager=life.manager,
        sender=cast("Any", None),
        overview=overview,
        state_dir=rig.folder,
        status_tokens=None,
        notify_inbox=life.notify,
    )


def source_of(rig: Rig, life: Life) -> StatusSource:
    async def look(*, is_strict: bool) -> tuple[str, ...]:
        assert is_strict
        return ("homeserver: 502",)

    views = views_of(rig, life)
    return StatusSource(
        kit=views.kit,
        manager=life.manager,
        overview=views.overview,
        look=look,
        state_dir=rig.folder,
    )


async def room_of(source: StatusSource, room_id: RoomId = ROOM) -> SeenRoom:
    await asyncio.sleep(2)  # a look is kept for a second
    return next(room for room in (await source.view()).rooms if room.room_id == room_id)


def test_turns_at_work_and_waiting_are_seen_with_their_tools_and_their_age(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            source = source_of(rig, life)
            room = await room_of(source)
            assert (room.runner, room.turns) == (None, ())
            await started(rig, life)
            rig.claude.scripts["tool"] = uses("Bash", command="make all")
            await rig.receive("more")
            life.notify()
            await asyncio.sleep(10)
            room = await room_of(source)
            assert [turn.stage for turn in room.turns] == [Stage.WORKS, Stage.WAITS]
            assert 10 <= room.turns[0].age_s <= 20
            assert room.turns[0].sender == ALICE
            assert room.runner is not None
            assert (room.runner.state, room.runner.cli_runs) == ("running", True)

    run_asking(tmp_path, test)


def test_a_turn_that_is_being_stopped_is_seen_as_that(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            source = source_of(rig, life)
            turn = await started(rig, life)
            await rig.store.interrupt(cast("Any", turn), by=cast("Any", "$x"))
            assert (await room_of(source)).turns[0].stage is Stage.STOPS

    run_asking(tmp_path, test)


def test_a_tool_that_runs_is_seen(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = uses("Bash", command="make all")
        async with rig.life() as life:
            await rig.receive("go")
            life.notify()
            await asyncio.sleep(10)
            assert (await room_of(source_of(rig, life))).turns[0].tools == ("Bash: make all",)

    run_asking(tmp_path, test)


def test_what_waits_for_a_person_is_seen_whole_with_who_may_decide(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            source = source_of(rig, life)
            await ask(rig)
            await begin(rig, life, wants)
            room = await room_of(source)
            assert [turn.stage for turn in room.turns] == [Stage.ASKS]
            view = await source.view()
            host, tool = view.questions
            assert (host.kind, host.what) == (ApprovalKind.EGRESS, "https example.org:443")
            assert (tool.kind, tool.what) == (ApprovalKind.TOOL, "Bash: npm test")
            assert CAROL in tool.deciders
            assert REVIEWER not in tool.deciders, "agents never decide"
            assert round(tool.expires_at - tool.asked_at) == 3600
            seen = await source.subject(tool.approval_id)
            assert seen is not None
            assert seen.whole == "```bash\nnpm test\n```"
            of_host = await source.subject(host.approval_id)
            assert of_host is not None
            assert of_host.whole == "https example.org:443"
            assert seen.digest != of_host.digest
            assert await source.subject("none such") is None
            views = views_of(rig, life)
            action = PageAction(verb=PageVerb.REFUSE, subject=tool.approval_id)
            assert await views.act(seen.question.room_id, "o" * 16, action)
            assert not await views.act(seen.question.room_id, "o" * 16, action)
            await rig.wait_ended(1)
            assert await source.subject(tool.approval_id) is None

    run_asking(tmp_path, test)


def test_while_the_turn_is_not_taken_up_again_its_question_is_not_shown_whole(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, wants)
            ((own_id,),) = await rows(rig, "SELECT approval_id FROM approvals")
        async with rig.life() as life:
            seen = await source_of(rig, life).subject(own_id)
            assert seen is not None
            assert seen.whole is None

    run_asking(tmp_path, test)


def test_ends_costs_and_what_is_wrong_are_seen(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.store.rooms.ensure(OTHER, joined=False)
        async with rig.life() as life:
            for text in ("one", "two"):
                await rig.receive(text)
                life.notify()
                await asyncio.sleep(5)
            await rig.wait_ended(2)
            room = await rig.store.rooms.get(ROOM)
            assert room is not None
            rig.doors.spent[room.slug] = 3_000_000
            now = loop_clock()
            last, old = utc_day(now - 29 * 86400), utc_day(now - 30 * 86400)
            days = {(room.slug, last): Spent(2, 1_000_000), (room.slug, old): Spent(1, 5)}
            await SpendingTable(rig.store.database).keep(days, today=utc_day(now))
            with open_audit_log(rig.folder):
                for slug in (room.slug, "gone---1"):
                    log = logger.bind(action="egress_proxy", room=slug, host="a.b", port=443)
                    log.bind(audit=True).info("x")
            await rig.store.rooms.update(ROOM, name="release")
            view = await source_of(rig, life).view()
            assert [(one.room, one.target) for one in view.exits] == [
                ("gone---1", "a.b:443"),
                ("release", "a.b:443"),
            ]
            assert [end.outcome for end in view.ends] == [TurnOutcome.DONE, TurnOutcome.DONE]
            assert view.ends[0].ended_at > view.ends[1].ended_at
            assert view.problems == ("homeserver: 502",)
            (seen,) = view.rooms  # one that was left is not shown
            assert (seen.today_micro_usd, seen.month_micro_usd) == (3_000_000, 3_000_000)

    run_asking(tmp_path, test)


def test_an_engine_that_does_not_answer_costs_the_runners_alone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await started(rig, life)
            source = source_of(rig, life)

            async def away() -> Any:
                raise EngineUnavailableError

            async def hangs() -> Any:
                await asyncio.Event().wait()

            for runners in (away, hangs):
                source._overview.runners = runners  # type: ignore[method-assign]
                room = await room_of(source)
                assert room.runner is None
                assert len(room.turns) == 1
                assert not (await source.view()).has_engine

    run_asking(tmp_path, test)


def test_many_who_look_at_once_cost_one_look(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            source, looks = source_of(rig, life), 0
            own = source._view

            async def count() -> Any:
                nonlocal looks
                looks += 1
                await asyncio.sleep(0.5)
                return await own()

            source._view = count  # type: ignore[method-assign]
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(source.view(), name="look")
            assert looks == 1
            await asyncio.sleep(2)
            await source.view()
            assert looks == 2

    run_asking(tmp_path, test)


def test_a_look_that_fails_is_not_kept(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            source = source_of(rig, life)
            own, failures = source._view, [StoreError("full")]

            async def once() -> Any:
                if failures:
                    raise failures.pop()
                return await own()

            source._view = once  # type: ignore[method-assign]
            try:
                await source.view()
            except StoreError:
                logger.debug("as expected")
            assert len((await source.view()).rooms) == 1
            assert failures == []

    run_asking(tmp_path, test)
