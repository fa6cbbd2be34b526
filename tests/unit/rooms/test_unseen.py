"""Nobody allows what the room was not shown, and no text points at what is not there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.core import texts
from orchestrator.core.texts import approval as approval_texts
from orchestrator.core.texts import workspace as workspace_texts
from orchestrator.errors import RequestRefusedError
from orchestrator.model import EventId, JsonObject, JsonValue, RoomId, TxnId
from tests.support.asking import CAROL, handle, questions, react, rows, run_asking
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver, RefusingHomeserver
from tests.support.room_rig import ROOM, Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import tell
from tests.unit.rooms.test_people import settle
from tests.unit.rooms.test_tool_asking import begin, states
from tests.unit.rooms.test_upgrade import NEW, creation, tombstone, upgrade


def refused() -> RequestRefusedError:
    return RequestRefusedError(errcode="M_BAD_JSON", status=400, what="sending")


async def wants_poison(turn: Turn) -> None:
    answer = await turn.ask("Bash", "r1", {"command": "poison"})
    turn.text(f"<{answer['response']['behavior']}> {answer['response'].get('message')}")
    turn.result("ok")


async def is_curious(turn: Turn) -> None:
    given = {"questions": [{"question": "Which poison?", "options": []}]}
    answer = await turn.ask("AskUserQuestion", "r1", given)
    turn.text(f"<{answer['response']['behavior']}> {answer['response'].get('message')}")
    turn.result("ok")


@pytest.mark.parametrize("script", [wants_poison, is_curious])
@pytest.mark.parametrize("crash_at", [0, 90, 100, 110])
def test_a_question_that_the_homeserver_refuses_is_a_no_at_once(
    tmp_path: Path, script: object, crash_at: int
) -> None:
    async def test(rig: Rig) -> None:
        rig.account = RefusingHomeserver(error=refused)
        rig.claude.scripts["go"] = script  # type: ignore[assignment]
        async with rig.life(crash_at=crash_at) as life:
            await tell(rig, life, "go")
            if crash_at:
                await life.points.crashed.wait()
            else:
                await rig.wait_ended(1, timeout_s=30)
        async with rig.life() as life:
            await rig.wait_ended(1, timeout_s=30)
            await asyncio.sleep(3)
            for command in ("!approve", "!approve 1"):
                await rig.receive(command, sender=CAROL)
                await handle(life)
                assert (await rig.bodies())[-1] == approval_texts.NOTHING_OPEN
        states = {state for (state,) in await rows(rig, "SELECT state FROM approvals")}
        assert states == {"withdrawn"}
        assert await rig.outcomes() == ["done"]
        said = [str(body) for body in rig.account.bodies("!room:test")]
        assert sum(f"<deny> {approval_texts.UNSHOWN_REASON}" in body for body in said) == 1
        assert texts.message_refused("M_BAD_JSON") in said

    run_asking(tmp_path, test)


@pytest.mark.parametrize("room", [ROOM, RoomId("!other:test")])
def test_a_question_that_was_redacted_is_a_no_in_its_own_room(tmp_path: Path, room: RoomId) -> None:
    async def test(rig: Rig) -> None:
        await rig.store.rooms.ensure(room, joined=True)
        async with rig.life() as life:
            question = await begin(rig, life, wants_poison)
            await rig.receive_event("m.room.redaction", {}, room=room, redacts=question)
            await settle(rig, life)
            if room == ROOM:
                await rig.wait_ended(1, timeout_s=30)
            assert (await states(rig))[0][0] == ("withdrawn" if room == ROOM else "open")
            await rig.receive("!approve", sender=CAROL)
            await settle(rig, life)
            assert (approval_texts.NOTHING_OPEN in await rig.bodies()) is (room == ROOM)

    run_asking(tmp_path, test)


def test_a_question_that_was_redacted_while_nobody_was_there_is_not_asked_again(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life, wants_poison)
        await rig.receive_event("m.room.redaction", {}, redacts=question)
        async with rig.life():
            await rig.wait_ended(1, timeout_s=30)
        assert [state for state, *_ in await states(rig)] == ["withdrawn"]
        assert f"<deny> {approval_texts.UNSHOWN_REASON}" in await rig.read()
        assert (await rig.read()).count("May I do this?") == 1

    run_asking(tmp_path, test)


@dataclass(slots=True)
class FilelessHomeserver(MemoryHomeserver):
    """Takes no files."""

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        raise RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="uploading")


@pytest.mark.parametrize("takes_files", [True, False])
def test_a_long_question_says_where_all_of_it_is_with_and_without_files(
    tmp_path: Path, *, takes_files: bool
) -> None:
    command = " ".join(f"echo {number};" for number in range(3000))

    async def long(turn: Turn) -> None:
        answer = await turn.ask("Bash", "r1", {"command": command})
        turn.text(answer["response"]["behavior"])
        turn.result("ok")

    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver() if takes_files else FilelessHomeserver()
        rig.claude.scripts["go"] = long
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("May I do this?")
            await asyncio.sleep(60)
            bodies = [str(body) for body in server.bodies("!room:test")]
            (at,) = [i for i, body in enumerate(bodies) if "May I do this?" in body]
            assert "sent before this" in bodies[at]
            assert "in messages after this" in bodies[at]
            if takes_files:
                assert bodies[at - 1] == "question.md"
                assert "echo 2999;" in server.uploads[0][2].decode()
            else:
                assert "question.md" not in bodies
                assert "echo 2999;" in " ".join(bodies[at + 1 :])
            await react(rig, life, (await questions(rig))[-1], "✅")
            await rig.wait_ended(1)

    run_asking(tmp_path, test)


@pytest.mark.parametrize("takes_files", [True, False])
def test_a_long_question_whose_text_was_redacted_is_a_no(
    tmp_path: Path, *, takes_files: bool
) -> None:
    """A member who may redact, and decides nothing, hides what the preview does not show."""
    command = " ".join(f"echo {number};" for number in range(3000))

    async def long(turn: Turn) -> None:
        answer = await turn.ask("Bash", "r1", {"command": command})
        turn.text(f"<{answer['response']['behavior']}>")
        turn.result("ok")

    async def test(rig: Rig) -> None:
        rig.account = MemoryHomeserver() if takes_files else FilelessHomeserver()
        async with rig.life() as life:
            question = await begin(rig, life, long)
            await asyncio.sleep(60)
            query = "SELECT event_id FROM outbox WHERE content LIKE '%{}%' AND event_id <> '{}'"
            word = "question.md" if takes_files else "echo 2999;"
            ((text,),) = await rows(rig, query.format(word, question))
            await rig.receive_event("m.room.redaction", {}, redacts=text)
            await settle(rig, life)
            await react(rig, life, question, "✅")
            await rig.wait_ended(1, timeout_s=30)
            assert (await states(rig))[0][0] == "withdrawn"

    run_asking(tmp_path, test)


@dataclass(slots=True)
class UploadingHomeserver(MemoryHomeserver):
    """Takes files, and no message that names one."""

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        if content.get("msgtype") == "m.file":
            raise refused()
        return self.accept(room_id, content, txn_id)


def test_a_long_question_whose_file_the_room_does_not_get_is_a_no(tmp_path: Path) -> None:
    command = " ".join(f"echo {number};" for number in range(3000))

    async def long(turn: Turn) -> None:
        answer = await turn.ask("Bash", "r1", {"command": command})
        turn.text(f"<{answer['response']['behavior']}>")
        turn.result("ok")

    async def test(rig: Rig) -> None:
        rig.account = UploadingHomeserver()
        rig.claude.scripts["go"] = long
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1, timeout_s=30)
            assert (await states(rig))[0][0] == "withdrawn"

    run_asking(tmp_path, test)


def test_a_host_that_a_clone_may_not_reach_is_no_promise_of_a_question() -> None:
    """It is asked beside git, later, or not at all: after a no, without anybody to ask."""
    text = workspace_texts.clone_refused("example.org")
    assert "above" not in text
    assert "`!egress allow example.org`" in text
    assert "where one is open" in text


@dataclass(slots=True)
class ClosedHomeserver(MemoryHomeserver):
    """The old room is closed, as an upgrade leaves it, from some time on."""

    closed_from: float = math.inf

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        if room_id == ROOM and loop_clock() >= self.closed_from:
            raise RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="sending")
        return self.accept(room_id, content, txn_id)


def test_a_question_that_an_upgrade_forbade_is_not_shown_in_the_new_room(tmp_path: Path) -> None:
    """There nobody could answer it, and its number is another question's."""

    async def asks_late(turn: Turn) -> None:
        await asyncio.sleep(10)
        await wants_poison(turn)

    async def test(rig: Rig) -> None:
        server = rig.account = ClosedHomeserver()
        rig.claude.scripts["go"] = asks_late
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(5)
            server.closed_from = loop_clock()
            await tombstone(rig)
            life.notify()
            await rig.wait_ended(1)
            await creation(rig)
            life.notify()
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
            await asyncio.sleep(5)
        said = [str(body) for body in server.bodies(NEW)]
        assert any(f"<deny> {approval_texts.UNSHOWN_REASON}" in body for body in said)
        assert not any("May I do this?" in body for body in said)
        assert (await rows(rig, "SELECT state FROM approvals")) == [("withdrawn",)]

    run_asking(tmp_path, test)


def test_a_question_that_is_on_its_way_over_an_upgrade_is_asked_in_the_new_room_alone(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = ClosedHomeserver()
        rig.claude.scripts["go"] = wants_poison
        async with rig.life() as life:
            server.latency_s = 20.0
            await tell(rig, life, "go")
            await rig.wait_body("May I do this?")
            await asyncio.sleep(15)
            assert await rows(rig, "SELECT attempts FROM outbox") == [(1,)]
            server.closed_from = loop_clock()
            await upgrade(rig, life)
            await asyncio.sleep(100)
            said = [str(body) for body in server.bodies(NEW)]
            assert sum("May I do this?" in body for body in said) == 1
            await react(rig, life, (await questions(rig, NEW))[-1], "✅", room=NEW)
            await rig.wait_ended(1)

    run_asking(tmp_path, test)
