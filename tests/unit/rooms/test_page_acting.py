"""What is asked for on the status page: done once, by the rooms' own ways, and the room is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from loguru import logger

from orchestrator.core.page_action import PageAction, PageVerb
from orchestrator.core.reason import LEFT_ROOM
from orchestrator.model import EventId, RoomId
from orchestrator.store.api import InboxKind, NewInboxRow
from tests.support.asking import ACCESS, AGENTS, HOST, ask, handle, rows, run_asking
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ROOM, Life, Rig, open_rig, run_rooms
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.test_tool_asking import begin, states

BY = "`status page`"


async def act(
    rig: Rig, life: Life, verb: PageVerb, subject: str = "", *, once: str = "a", room: RoomId = ROOM
) -> bool:
    """Somebody presses a button; `once` is the form's."""
    raw = PageAction(verb=verb, subject=subject).model_dump_json()
    row = NewInboxRow(kind=InboxKind.PAGE, room_id=room, event_id=EventId(f"page:{once}"), raw=raw)
    is_new = await rig.store.inbox.add(row, now=loop_clock())
    await handle(life)
    return is_new


async def works(turn: Turn) -> None:
    turn.text("at it")
    await asyncio.sleep(600)
    turn.result("done")


async def started(rig: Rig, life: Life, text: str = "work") -> str:
    rig.claude.scripts[text] = works
    await rig.receive(text)
    life.notify()

    async def runs() -> bool:
        return any(turn.state == "running" for turn in await rig.turns())

    await rig.wait(runs)
    return (await rig.turns())[-1].turn_id


def test_the_turn_that_was_seen_is_cancelled_and_the_room_is_told_by_whom(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            turn = await started(rig, life)
            assert await act(rig, life, PageVerb.CANCEL, turn)
            await rig.wait_ended(1)
            assert await rig.outcomes() == ["cancelled"]
            told = [c for c in await rig.said() if BY in str(c["body"])]
            assert [c["body"] for c in told] == [f"By {BY}: Stopping…"]
            assert "m.relates_to" not in told[0], "there is no message to reply to"

    run_asking(tmp_path, test)


def test_a_turn_that_has_ended_is_left_alone_and_so_is_the_one_after_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.receive("hello")
            life.notify()
            await rig.wait_ended(1)
            first = (await rig.turns())[0].turn_id
            second = await started(rig, life)
            assert second != first
            await act(rig, life, PageVerb.CANCEL, first)
            await act(rig, life, PageVerb.CANCEL, "no such turn", once="b")
            assert [t.cancelled_by for t in await rig.turns()] == [None, None]
            assert (await rig.bodies())[-1] == f"By {BY}: That turn has ended already."

    run_asking(tmp_path, test)


def test_a_turn_of_another_room_is_not_met(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        other = RoomId("!other:test")
        await rig.store.rooms.ensure(other, joined=True)
        async with rig.life() as life:
            turn = await started(rig, life)
            await act(rig, life, PageVerb.CANCEL, turn, room=other)
            assert (await rig.turns())[0].cancelled_by is None

    run_asking(tmp_path, test)


def test_a_form_that_is_sent_twice_acts_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await started(rig, life)
            assert await act(rig, life, PageVerb.RESTART)
            assert not await act(rig, life, PageVerb.RESTART)
            said = [body for body in await rig.bodies() if BY in body]
            assert len(said) == 1
            (setting,) = await rows(rig, "SELECT key, value, set_by FROM settings")
            assert setting == ("restart", "page:a", "status page")

    run_asking(tmp_path, test)


def test_what_a_crash_left_undone_is_done_by_the_next_life_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            turn = await started(rig, life)
        raw = PageAction(verb=PageVerb.CANCEL, subject=turn).model_dump_json()
        row = NewInboxRow(kind=InboxKind.PAGE, room_id=ROOM, event_id=EventId("page:x"), raw=raw)
        await rig.store.inbox.add(row, now=loop_clock())
        async with rig.life() as life:
            await rig.wait_ended(1)
        async with rig.life() as life:
            await handle(life)
        assert sum(BY in body for body in await rig.bodies()) == 1
        assert await rig.outcomes() == ["cancelled"]

    run_asking(tmp_path, test)


@pytest.mark.parametrize(
    ("verb", "state", "told"),
    [
        (PageVerb.ALLOW, "granted_once", "<allow> allowed once"),
        (PageVerb.REFUSE, "refused", "<deny> status page did not allow it."),
    ],
)
def test_a_tool_is_allowed_or_not_and_both_the_room_and_the_log_say_by_whom(
    tmp_path: Path, verb: PageVerb, state: str, told: str
) -> None:
    seen: list[dict[str, object]] = []

    async def test(rig: Rig) -> None:
        logger.enable("orchestrator")
        handler = logger.add(
            lambda m: seen.append(m.record["extra"]), filter=lambda r: "audit" in r["extra"]
        )
        try:
            async with rig.life() as life:
                await begin(rig, life)
                ((own_id,),) = await rows(rig, "SELECT approval_id FROM approvals")
                await act(rig, life, verb, own_id)
                await act(rig, life, PageVerb.REFUSE, own_id, once="b")
                await rig.wait_ended(1)
        finally:
            logger.remove(handler)
        assert await states(rig) == [(state, "status page", None)]
        bodies = await rig.bodies()
        assert sum(told in body for body in bodies) == 1, bodies
        assert sum(body.startswith(("✅", "❌")) and BY in body for body in bodies) == 1

    run_asking(tmp_path, test)
    by = {entry["action"]: entry.get("by") or entry.get("sender") for entry in seen}
    verb_word = "grant" if verb is PageVerb.ALLOW else "refuse"
    assert by[f"page.{verb}"] == by[f"tool.{verb_word}"] == "status page"


def test_a_host_is_granted_for_an_hour_and_no_longer(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            ((own_id,),) = await rows(rig, "SELECT approval_id FROM approvals")
            await act(rig, life, PageVerb.ALLOW, own_id)
            assert rig.doors.connect(HOST)
            ((by, seconds),) = await rows(
                rig, "SELECT granted_by, expires_at - granted_at FROM grants"
            )
            assert (by, seconds) == ("status page", 3600)
            assert BY in (await rig.bodies())[-1]

    run_asking(tmp_path, test)


def test_an_agents_question_is_not_answered_from_there(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, asks)
            ((own_id,),) = await rows(rig, "SELECT approval_id FROM approvals")
            await act(rig, life, PageVerb.ALLOW, own_id)
            await act(rig, life, PageVerb.ALLOW, "no such question", once="b")
            assert await states(rig) == [("open", None, None)]
            await act(rig, life, PageVerb.REFUSE, own_id, once="c")
            assert await states(rig) == [("refused", "status page", None)]

    async def asks(turn: Turn) -> None:
        asked = {"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}
        answer = await turn.ask("AskUserQuestion", "r1", {"questions": [asked]})
        turn.text(str(answer["response"]["behavior"]))
        turn.result("ok")

    run_asking(tmp_path, test)


def test_a_question_of_another_room_is_not_decided(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        other = RoomId("!other:test")
        await rig.store.rooms.ensure(other, joined=True)
        async with rig.life() as life:
            await begin(rig, life)
            ((own_id,),) = await rows(rig, "SELECT approval_id FROM approvals")
            await act(rig, life, PageVerb.ALLOW, own_id, room=other)
            assert await states(rig) == [("open", None, None)]

    run_asking(tmp_path, test)


async def press_and_crash(folder: Path, crash_at: int, verb: PageVerb) -> int:
    """A form that is stored, a life that ends at that step of doing it, and one that goes on."""
    async with open_rig(folder, access=ACCESS, agents=AGENTS) as rig:
        rig.account = MemoryHomeserver()
        await rig.store.rooms.ensure(ROOM, joined=True)
        subject = ""
        async with rig.life() as life:
            if verb is PageVerb.ALLOW:
                await ask(rig)
                ((subject,),) = await rows(rig, "SELECT approval_id FROM approvals")
        raw = PageAction(verb=verb, subject=subject).model_dump_json()
        row = NewInboxRow(kind=InboxKind.PAGE, room_id=ROOM, event_id=EventId("page:a"), raw=raw)
        await rig.store.inbox.add(row, now=loop_clock())
        async with rig.life(crash_at=crash_at) as life:
            await asyncio.sleep(3)
            count = life.points.count
        async with rig.life() as life:
            await handle(life)
            await asyncio.sleep(2)
            assert rig.doors.connect(HOST) is (verb is PageVerb.ALLOW), crash_at
        told = [str(body) for body in rig.account.bodies(ROOM) if BY in str(body)]
        assert len(told) == 1, (crash_at, told)
        grants = await rows(rig, "SELECT granted_by FROM grants")
        assert grants == ([("status page",)] if verb is PageVerb.ALLOW else []), crash_at
        (state,) = await rig.inbox_states()
        assert state[0] in ("used", "ignored"), crash_at
        return count


@pytest.mark.parametrize("verb", [PageVerb.ALLOW, PageVerb.RESTART, PageVerb.CANCEL])
def test_a_crash_at_any_step_does_it_once_and_tells_it_once(tmp_path: Path, verb: PageVerb) -> None:
    steps = run_rooms(press_and_crash(tmp_path / "none", 0, verb))
    assert steps > 10
    for crash_at in range(1, steps + 1):
        run_rooms(press_and_crash(tmp_path / str(crash_at), crash_at, verb))


def test_in_a_room_that_was_left_nothing_is_done(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.store.rooms.ensure(ROOM, joined=False)
            await act(rig, life, PageVerb.RESTART)
            assert await rig.bodies() == []
            assert await rig.inbox_states() == [("ignored", LEFT_ROOM)]

    run_asking(tmp_path, test)


def test_all_of_what_a_turn_asks_can_be_seen_while_it_waits_and_after_a_restart(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            ((own_id,),) = await rows(rig, "SELECT approval_id FROM approvals")
            assert shown(life, own_id) == "```bash\nnpm test\n```"
            assert shown(life, "another") is None
        async with rig.life() as life:

            async def is_seen() -> bool:
                return shown(life, own_id) is not None

            await rig.wait(is_seen)
            await act(rig, life, PageVerb.ALLOW, own_id)
            await rig.wait_ended(1)
            assert shown(life, own_id) is None

    run_asking(tmp_path, test)


def shown(life: Life, approval_id: str) -> str | None:
    worker = life.manager.workers.get(ROOM)
    drivers = [] if worker is None else list(worker.drivers.values())
    found = [asked for d in drivers if (asked := d.asked(approval_id)) is not None]
    return found[0].markdown if found else None
