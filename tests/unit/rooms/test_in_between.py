"""What a hostile reading found: two things that meet, somebody who may not, a moment in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.core.piece import encode_pieces
from orchestrator.core.policy import Message
from orchestrator.model import EventId, UserId
from orchestrator.rooms.tool_asking import Reply, ToolAsking
from orchestrator.store.api import InboxKind
from orchestrator.store.steer_table import NewSteer
from tests.support.asking import CAROL as DECIDER
from tests.support.asking import handle, questions, react, rows, run_asking
from tests.support.memory_claude import Turn
from tests.support.room_rig import ALICE, ROOM, Life, Rig
from tests.unit.rooms.scenario import hang, run, tell, wait_running, works_for
from tests.unit.rooms.test_amending import redact
from tests.unit.rooms.test_attachments import file_of, held
from tests.unit.rooms.test_parallel import TWO, said_in
from tests.unit.rooms.test_people import settle, state
from tests.unit.rooms.test_upgrade import upgrade

READER = "@carol:else"


async def wants(turn: Turn) -> None:
    answer = await turn.ask("Bash", "r1", {"command": "npm test"})
    turn.text(f"<{answer['response']['behavior']}>")
    turn.result("ok")


async def wait_questions(rig: Rig, count: int) -> None:
    async def are_asked() -> bool:
        return len(await questions(rig)) == count

    await rig.wait(are_asked)


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_connection_that_is_cut_while_a_person_is_waited_for_is_made_again(
    tmp_path: Path, cuts: int
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = wants
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_questions(rig, 1)
            for _ in range(cuts):
                await asyncio.sleep(3)
                life.backend.cut()
            await asyncio.sleep(3)
            (question,) = await questions(rig)
            await react(rig, life, question, "✅")
            await rig.wait_ended(1)
        assert await rig.outcomes() == ["done"]
        assert len(rig.shims) == 1

    run_asking(tmp_path, test)


def test_of_two_answers_none_is_lost_with_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two(turn: Turn) -> None:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(turn.ask("Bash", f"r{n}", {"command": f"do {n}"})) for n in (1, 2)
            ]
        turn.text(" ".join(task.result()["response"]["behavior"] for task in asked))
        turn.result("ok")

    lives: list[Life] = []
    original = ToolAsking.look

    async def look(self: ToolAsking) -> Sequence[Reply]:
        replies = await original(self)
        if len(replies) == 2:
            lives[-1].backend.cut()
            await asyncio.sleep(0.1)
        return replies

    monkeypatch.setattr(ToolAsking, "look", look)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = two
        async with rig.life() as life:
            lives.append(life)
            await tell(rig, life, "go")
            await wait_questions(rig, 2)
            worker = life.manager.workers[ROOM]
            with monkeypatch.context() as late:
                late.setattr(worker, "note_decided", lambda: None)
                await rig.receive("!approve 1", sender=DECIDER)
                await rig.receive("!approve 2", sender=DECIDER)
                await handle(life)
                await asyncio.sleep(2)
            worker.note_decided()
            await rig.wait_ended(1, timeout_s=300)
        assert await rig.outcomes() == ["done"]

    run_asking(tmp_path, test)


def test_who_may_only_read_cancels_nothing_by_a_flood(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            for _ in range(15):
                await rig.receive("!cancel", sender=READER)
            await settle(rig, life)
            await rig.wait_ended(1)
            await asyncio.sleep(70)
        assert (await rig.turns())[0].outcome == "done"

    run(tmp_path, test, access={"users": [ALICE], "readers": ["@*:else"]})


def test_who_has_left_approves_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = wants
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_questions(rig, 1)
            for membership in ("join", "leave"):
                await state(rig, "m.room.member", {"membership": membership}, key=DECIDER)
            await settle(rig, life)
            await rig.receive("!approve", sender=DECIDER)
            await settle(rig, life)
            await asyncio.sleep(3)
            assert [row[0] for row in await rows(rig, "SELECT state FROM approvals")] == ["open"]

    run_asking(tmp_path, test)


def test_an_approval_is_of_what_was_asked_before_it(tmp_path: Path) -> None:
    async def swap(turn: Turn) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(turn.ask("Bash", "r1", {"command": "harmless"}))
            await asyncio.sleep(5)
            turn.line(type="control_cancel_request", request_id="r1")
            first.cancel()
        answer = await turn.ask("Bash", "r2", {"command": "rm -rf /"})
        turn.text(answer["response"]["behavior"])
        turn.result("ok")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = swap
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_questions(rig, 1)
            await rig.receive("!approve", sender=DECIDER)

            async def are_swapped() -> bool:
                return len(await rows(rig, "SELECT state FROM approvals")) == 2

            await rig.wait(are_swapped)
            life.notify()
            await asyncio.sleep(3)
            query = "SELECT state FROM approvals ORDER BY asked_at"
            assert [row[0] for row in await rows(rig, query)][1] == "open"

    run_asking(tmp_path, test)


def test_a_session_that_a_turn_is_in_is_copied_for_another_conversation(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(20)
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            await tell(rig, life, "work")
            await wait_running(rig)
            await tell(rig, life, "!new")
            await tell(rig, life, "!resume 1", thread="$root")
            await tell(rig, life, "secret of the thread", thread="$root")
            await rig.wait_ended(3)
            await asyncio.sleep(5)
        contents = await rig.said()
        assert "finished" not in said_in(contents, "$root")
        assert "secret" not in said_in(contents, None)
        assert set(await rig.outcomes()) == {"done"}

    run(tmp_path, test, defaults=TWO)


def test_files_of_one_name_side_by_side_are_two(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.media = {"one": b"1", "two": b"2"}
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
            for media, root in (("one", "$a"), ("two", "$b")):
                content = file_of(media, "a.txt")
                content["m.relates_to"] = {"rel_type": "m.thread", "event_id": root}
                await rig.receive_event("m.room.message", content)
            life.notify()
            await rig.wait_ended(3)
        assert set(held(rig).values()) == {b"1", b"2"}

    run(tmp_path, test, defaults=TWO)


def test_what_was_taken_back_in_the_old_room_stops_in_the_new_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            event = await tell(rig, life, "work")
            await wait_running(rig)
            await upgrade(rig, life)
            await asyncio.sleep(2)
            await redact(rig, life, event)
            await rig.wait_ended(1)
        assert [turn.outcome for turn in await rig.turns()] == ["cancelled"]

    run(tmp_path, test)


def test_a_cancelled_turn_ends_whatever_it_waits_for(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(90)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            await tell(rig, life, "other", thread="$a")
            await asyncio.sleep(2)
            await tell(rig, life, "!cancel", thread="$a")
            await asyncio.sleep(20)
            assert (await rig.turns())[1].outcome == "cancelled"

    run(tmp_path, test)


def test_of_a_room_that_was_left_nothing_stays_queued(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            message = Message(event_id=EventId("$x"), sender=UserId(ALICE), text="delete it all")
            steer = NewSteer(
                turn_id=(await rig.turns())[0].turn_id,
                pieces=encode_pieces([message], name_senders=False),
                inbox=(1,),
            )
            assert await rig.store.steers.add(steer)
            await rig.receive_row(InboxKind.LEAVE, {}, ROOM)
            life.notify()
            await rig.wait_ended(2)
            await rig.store.rooms.ensure(ROOM, joined=True)
            await tell(rig, life, "hi")
            await asyncio.sleep(30)
        assert "delete it all" not in rig.claude.asked

    run(tmp_path, test)
