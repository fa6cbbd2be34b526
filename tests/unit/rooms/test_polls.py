"""Questions of the agent as polls: asked once, answered once, closed, and by nobody else's vote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.poll import POLL_END, POLL_START
from orchestrator.core.texts import approval as approval_texts
from orchestrator.errors import RequestRefusedError
from orchestrator.model import EventId, JsonValue, RoomId, TxnId
from orchestrator.store.api import InboxKind
from orchestrator.store.approval_table import ApprovalTable
from tests.support.asking import CAROL, REVIEWER, handle, questions, react, rows, run_asking
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ALICE, ME, ROOM, Life, Rig, config, open_rig, run_rooms

BOB, DAVE = "@bob:test", "@dave:test"
RESPONSE = "org.matrix.msc3381.poll.response"
POLLS = {"questions": "polls"}
DATABASE = {"question": "Which database?", "options": [{"label": "SQLite"}, {"label": "MySQL"}]}
TESTS = {
    "question": "Which tests?",
    "options": [{"label": "unit"}, {"label": "e2e"}, {"label": "fuzz"}],
    "multiSelect": True,
}
NAME = {"question": "Its name?", "options": []}


def asks(*asked: dict[str, Any]) -> Any:
    """A turn that asks these questions, and says what it was answered."""

    async def script(turn: Turn) -> None:
        answer = await turn.ask("AskUserQuestion", "r1", {"questions": list(asked)})
        response = answer["response"]
        turn.text(str(response.get("updatedInput", {}).get("answers") or response.get("message")))
        turn.result("ok")

    return script


async def polls(rig: Rig, kind: str = POLL_START) -> list[tuple[str | None, dict[str, Any]]]:
    """The room's polls (or their ends), in order: event and content."""
    found = await rows(
        rig, f"SELECT event_id, content FROM outbox WHERE event_type = '{kind}' ORDER BY seq"
    )
    return [(event_id, json.loads(content)) for event_id, content in found]


async def begin(
    rig: Rig, life: Life, *asked: dict[str, Any], by: str = ALICE
) -> tuple[EventId, EventId]:
    """A turn that asks; the events of its first question and of the poll beside it."""
    rig.claude.scripts["go"] = asks(*asked)
    await rig.receive("go", sender=by)
    life.notify()
    return await latest(rig, 1)


async def latest(rig: Rig, count: int) -> tuple[EventId, EventId]:
    """The `count`-th question and its poll, once both are sent."""

    async def is_sent() -> bool:
        found = await polls(rig)
        return len(found) >= count and found[-1][0] is not None

    await rig.wait(is_sent)
    event_id = (await polls(rig))[-1][0]
    return (await questions(rig))[-1], EventId(event_id or "")


async def ids(rig: Rig) -> list[str]:
    """The answers' ids of the latest poll."""
    content = (await polls(rig))[-1][1]
    return [answer["id"] for answer in content[POLL_START]["answers"]]


def response(poll: str, *answers: str) -> dict[str, Any]:
    relation = {"rel_type": "m.reference", "event_id": poll}
    return {"m.relates_to": relation, RESPONSE: {"answers": list(answers)}}


async def vote(rig: Rig, life: Life, poll: str, *answers: str, by: str = ALICE) -> EventId:
    """Somebody votes, and that is handled as far as it can be."""
    event_id = await rig.receive_event(RESPONSE, response(poll, *answers), by)
    await handle(life)
    return event_id


async def reply(rig: Rig, life: Life, to: str, words: str, *, by: str = ALICE) -> None:
    relation = {"m.in_reply_to": {"event_id": to}}
    content: Any = {"msgtype": "m.text", "body": words, "m.relates_to": relation}
    await rig.receive_event("m.room.message", content, by)
    await handle(life)


async def states(rig: Rig) -> list[tuple[Any, ...]]:
    return await rows(rig, "SELECT state, decided_by, picks FROM approvals ORDER BY asked_at")


async def closed(rig: Rig) -> list[str]:
    """The polls that were closed, in order, as their ends name them."""
    ends = await polls(rig, POLL_END)
    return [content["m.relates_to"]["event_id"] for _, content in ends]


def test_a_question_is_a_poll_besides_and_the_first_vote_answers_and_closes_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question, poll = await begin(rig, life, DATABASE)
            ((_, content),) = await polls(rig)
            assert content[POLL_START]["question"]["org.matrix.msc1767.text"] == "Which database?"
            (asked,) = [b for b in await rig.bodies() if "I have a question" in b]
            assert "1. `SQLite`" in asked
            assert "Vote in the poll below" in asked
            assert question != poll
            await vote(rig, life, poll, (await ids(rig))[1])
            await rig.wait_ended(1)
            await vote(rig, life, poll, (await ids(rig))[0])
        assert await states(rig) == [("granted_once", ALICE, "[1]")]
        assert await closed(rig) == [poll]
        bodies = await rig.bodies()
        assert "{'Which database?': 'MySQL'}" in await rig.read()
        assert sum("answered `Which database?`: `MySQL`" in body for body in bodies) == 1

    run_asking(tmp_path, test, defaults=POLLS)


@pytest.mark.parametrize(
    ("event_type", "form"),
    [
        ("m.poll.response", lambda answers: {"m.selections": answers}),
        ("m.poll.response", lambda answers: {"m.poll.response": {"answers": answers}}),
    ],
)
def test_a_vote_of_the_stable_type_answers_too(tmp_path: Path, event_type: str, form: Any) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, poll = await begin(rig, life, DATABASE)
            relation: Any = {"rel_type": "m.reference", "event_id": poll}
            content = {"m.relates_to": relation, **form((await ids(rig))[:1])}
            await rig.receive_event(event_type, content, ALICE)
            await handle(life)
            await rig.wait_ended(1)
        assert await states(rig) == [("granted_once", ALICE, "[0]")]

    run_asking(tmp_path, test, defaults=POLLS)


def test_several_questions_are_polls_one_after_another_and_one_for_words_has_none(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, first = await begin(rig, life, DATABASE, TESTS, NAME)
            await vote(rig, life, first, (await ids(rig))[0])
            question, second = await latest(rig, 2)
            a, _, c = await ids(rig)
            assert any("Then react to it with ✅" in body for body in await rig.bodies())
            await vote(rig, life, second, a, c)
            await react(rig, life, question, "✅", by=ALICE)
            assert len(await questions(rig)) == 3
            assert len(await polls(rig)) == 2
            await reply(rig, life, (await questions(rig))[-1], "mine")
            await rig.wait_ended(1)
        assert await closed(rig) == [first, second]
        answers = {
            "Which database?": "SQLite", "Which tests?": "unit, fuzz", "Its name?": "mine",
        }  # fmt: skip
        assert str(answers) in await rig.read()

    run_asking(tmp_path, test, defaults=POLLS)


def test_of_several_answers_the_last_vote_of_each_counts_until_a_tick_takes_them(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question, poll = await begin(rig, life, TESTS)
            a, b, c = await ids(rig)
            await react(rig, life, poll, "✅", by=ALICE)
            await vote(rig, life, poll, a, by=CAROL)
            await vote(rig, life, poll, b, by=CAROL)
            await vote(rig, life, poll, a, "spoilt", by=ALICE)
            assert (await states(rig))[0][:2] == ("open", None)
        # What is voted outlives the process.
        async with rig.life() as life:
            await react(rig, life, question, "3️⃣", by=ALICE)
            await react(rig, life, poll, "✅", by=ALICE)
            await rig.wait_ended(1)
            await vote(rig, life, poll, c, by=CAROL)
        assert await states(rig) == [("granted_once", ALICE, "[1, 2]")]
        assert await closed(rig) == [poll]
        assert "{'Which tests?': 'e2e, fuzz'}" in await rig.read()

    run_asking(tmp_path, test, defaults=POLLS)


def test_a_vote_that_is_taken_back_is_none_nor_is_one_of_whoever_has_left(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, poll = await begin(rig, life, TESTS)
            a, b, c = await ids(rig)
            await vote(rig, life, poll, a, by=CAROL)
            event_id = await vote(rig, life, poll, b, by=CAROL)
            await rig.receive_event("m.room.redaction", {}, CAROL, redacts=event_id)
            await vote(rig, life, poll, a, by=DAVE)
            leave: Any = {"membership": "leave"}
            await rig.receive_event("m.room.member", leave, DAVE, state_key=DAVE)
            await handle(life)
            await react(rig, life, poll, "✅", by=ALICE)
            assert (await states(rig))[0][:2] == ("open", None)
            await vote(rig, life, poll, c, by=ALICE)
            await react(rig, life, poll, "✅", by=ALICE)
            await rig.wait_ended(1)
        assert await states(rig) == [("granted_once", ALICE, "[2]")]

    access = {"users": [ALICE], "approvers": [CAROL, DAVE]}
    run_asking(tmp_path, test, defaults=POLLS, access=access)


def test_a_vote_of_somebody_who_may_not_answer_any_more_is_not_taken(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, poll = await begin(rig, life, TESTS)
            a, b, _ = await ids(rig)
            await vote(rig, life, poll, a, by=CAROL)
        rig.config = config(defaults=POLLS, access={"users": [ALICE, CAROL]})
        async with rig.life() as life:
            await handle(life)
            await react(rig, life, poll, "✅", by=ALICE)
            assert (await states(rig))[0][:2] == ("open", None)
            await vote(rig, life, poll, b, by=ALICE)
            await react(rig, life, poll, "✅", by=ALICE)
            await rig.wait_ended(1)
        assert await states(rig) == [("granted_once", ALICE, "[1]")]

    run_asking(tmp_path, test, defaults=POLLS)


def spoofs(question: str, poll: str, mine: list[str], other: list[str]) -> list[tuple[Any, ...]]:
    """Who sends what as a vote."""
    good = response(poll, mine[0])
    return [
        *((by, good) for by in (BOB, REVIEWER, ME, "@stranger:else", "@alice:else", "@gone:test")),
        (ALICE, response("$somebody-elses", mine[0])),
        (ALICE, response(question, mine[0])),
        (ALICE, response(poll, other[0])),
        (ALICE, response(poll, "1")),
        (ALICE, response(poll, "SQLite")),
        (ALICE, response(poll)),
        (ALICE, response(poll, *mine)),
        (ALICE, response(poll, mine[0], *["x"] * 1000)),
        (ALICE, {}),
        (ALICE, {**good, "m.relates_to": {"rel_type": "m.thread", "event_id": poll}}),
        (ALICE, {**good, "m.relates_to": {"m.in_reply_to": {"event_id": poll}}}),
    ]


def test_what_is_no_vote_of_somebody_who_may_answer_decides_nothing_and_says_nothing(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, earlier = await begin(rig, life, TESTS, DATABASE)
            other = await ids(rig)
            await vote(rig, life, earlier, other[0])
            await react(rig, life, earlier, "✅", by=ALICE)
            question, poll = await latest(rig, 2)
            leave: Any = {"membership": "leave"}
            await rig.receive_event("m.room.member", leave, "@gone:test", state_key="@gone:test")
            said = await rig.bodies()
            for by, content in spoofs(question, poll, await ids(rig), other):
                await rig.receive_event(RESPONSE, content, by)
                await handle(life)
                assert (await states(rig))[1] == ("open", None, "[]"), (by, content)
            elsewhere = RoomId("!other:test")
            await rig.store.rooms.ensure(elsewhere, joined=True)
            await rig.receive_event(RESPONSE, response(poll, (await ids(rig))[0]), ALICE, elsewhere)
            await handle(life)
            assert (await states(rig))[1] == ("open", None, "[]")
            assert await rig.bodies() == said
            assert {state for state, _ in await rig.inbox_states()} <= {"used", "ignored"}

    access = {"users": [ALICE, BOB], "approvers": [CAROL, REVIEWER, "@gone:test"]}
    run_asking(tmp_path, test, defaults=POLLS, access=access)


def test_a_number_or_words_to_the_poll_answer_it_and_a_no_closes_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, first = await begin(rig, life, DATABASE, TESTS, DATABASE)
            await react(rig, life, first, "2️⃣", by=ALICE)
            _, second = await latest(rig, 2)
            await reply(rig, life, second, "all of them")
            _, third = await latest(rig, 3)
            await rig.receive("!deny 3 none of these", sender=CAROL)
            await handle(life)
            await rig.wait_ended(1)
        assert [state for state, *_ in await states(rig)] == [
            "granted_once", "granted_once", "refused",
        ]  # fmt: skip
        assert await closed(rig) == [first, second, third]
        assert any("none of these" in body for body in await rig.bodies())

    run_asking(tmp_path, test, defaults=POLLS)


@pytest.mark.parametrize("how", ["time", "cancel"])
def test_a_poll_that_nobody_answers_is_closed_with_its_question(tmp_path: Path, how: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, poll = await begin(rig, life, DATABASE)
            if how == "cancel":
                await rig.receive("!cancel")
                await handle(life)
            await rig.wait_ended(1, timeout_s=4000)
            await handle(life)
            await vote(rig, life, poll, (await ids(rig))[0])
        assert (await states(rig))[0][0] == {"time": "expired", "cancel": "withdrawn"}[how]
        assert await closed(rig) == [poll]
        assert sum("over already" in body for body in await rig.bodies()) == 1

    run_asking(tmp_path, test, defaults=POLLS)


@dataclass(slots=True)
class SlowPollServer(MemoryHomeserver):
    """Takes polls, and says so only when it is let to."""

    gate: asyncio.Event | None = None
    refuses: bool = False

    async def answer(
        self, room_id: RoomId, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        event_id = None
        if POLL_START in content:
            if self.refuses:
                raise RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="sending")
            event_id = self.accept(room_id, content, txn_id)
            if self.gate is not None:
                await self.gate.wait()
        return event_id or self.accept(room_id, content, txn_id)


async def begin_slowly(rig: Rig, life: Life, server: SlowPollServer) -> EventId:
    """A turn asks; its poll's event, which only the homeserver knows yet."""
    rig.claude.scripts["go"] = asks(DATABASE)
    await rig.receive("go")
    life.notify()

    async def is_out() -> bool:
        return any(POLL_START in content for content in server.contents)

    await rig.wait(is_out)
    at = [POLL_START in content for content in server.contents].index(True)
    return EventId(f"${at}")


def test_a_vote_before_we_know_the_polls_event_is_held_unless_it_is_taken_back(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        gate = asyncio.Event()
        server = rig.account = SlowPollServer(gate=gate)
        async with rig.life() as life:
            poll = await begin_slowly(rig, life, server)
            a, b = await ids(rig)
            first = await vote(rig, life, poll, a)
            await vote(rig, life, poll, b)
            assert await states(rig) == [("open", None, "[]")]
            await rig.receive_event("m.room.redaction", {}, ALICE, redacts=first)
            await handle(life)
            gate.set()
            await rig.wait_ended(1)
        assert await states(rig) == [("granted_once", ALICE, "[1]")]
        assert await closed(rig) == [poll]

    run_asking(tmp_path, test, defaults=POLLS)


@pytest.mark.parametrize("what", ["vote", "reaction"])
def test_what_is_looked_at_while_we_learn_of_the_polls_event_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    gate = asyncio.Event()
    is_sending = ApprovalTable.is_sending

    async def learn_meanwhile(table: ApprovalTable, room_id: RoomId) -> bool:
        gate.set()
        await asyncio.sleep(2)
        return await is_sending(table, room_id)

    async def test(rig: Rig) -> None:
        server = rig.account = SlowPollServer(gate=gate)
        async with rig.life() as life:
            poll = await begin_slowly(rig, life, server)
            monkeypatch.setattr(ApprovalTable, "is_sending", learn_meanwhile)
            if what == "vote":
                await vote(rig, life, poll, (await ids(rig))[1])
            else:
                await react(rig, life, poll, "2️⃣", by=ALICE)
            await rig.wait_ended(1)
        assert await states(rig) == [("granted_once", ALICE, "[1]")]

    run_asking(tmp_path, test, defaults=POLLS)


def test_a_question_that_is_answered_while_its_poll_is_on_the_way_closes_it_then(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        gate = asyncio.Event()
        server = rig.account = SlowPollServer(gate=gate)
        async with rig.life() as life:
            poll = await begin_slowly(rig, life, server)
            await react(rig, life, (await questions(rig))[0], "2️⃣", by=ALICE)
            ((event_id, content),) = await polls(rig, POLL_END)
            assert event_id is None
            assert "m.relates_to" not in content
            gate.set()
            await rig.wait_ended(1)
            await handle(life)
        ends: Any = [content for content in server.contents if POLL_END in content]
        assert [end["m.relates_to"]["event_id"] for end in ends] == [poll]

    run_asking(tmp_path, test, defaults=POLLS)


@pytest.mark.parametrize(("command", "by"), [("!deny", CAROL), ("!cancel", ALICE)])
def test_a_question_that_is_over_before_its_poll_has_left_has_none(
    tmp_path: Path, command: str, by: str
) -> None:
    async def test(rig: Rig) -> None:
        rig.account = None  # nothing is sent
        async with rig.life() as life:
            rig.claude.scripts["go"] = asks(DATABASE)
            await rig.receive("go")
            life.notify()
            await rig.wait_body("Vote in the poll")
            assert len(await polls(rig)) == 1
            await rig.receive(command, sender=by)
            await handle(life)
            await rig.wait_ended(1)
        assert (await states(rig))[0][0] in ("refused", "withdrawn")
        assert await polls(rig) == await polls(rig, POLL_END) == []

    run_asking(tmp_path, test, defaults=POLLS)


def test_a_poll_that_is_refused_is_told_and_the_question_answered_by_a_reaction(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.account = SlowPollServer(refuses=True)
        async with rig.life() as life:
            rig.claude.scripts["go"] = asks(DATABASE)
            await rig.receive("go")
            life.notify()
            await rig.wait_body(approval_texts.no_poll("M_FORBIDDEN"))
            await react(rig, life, (await questions(rig))[0], "1️⃣", by=ALICE)
            await rig.wait_ended(1)
        assert await polls(rig, POLL_END) == []
        assert "{'Which database?': 'SQLite'}" in await rig.read()

    run_asking(tmp_path, test, defaults=POLLS)


def test_a_poll_that_would_not_fit_is_left_out_and_reactions_are_asked_for(tmp_path: Path) -> None:
    long = {"question": "Which?", "options": [{"label": str(n) + "x" * 110} for n in range(9)]}

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            rig.claude.scripts["go"] = asks(long)
            await rig.receive("go")
            life.notify()
            await rig.wait_body("React with a number")
            assert await polls(rig) == []

    run_asking(tmp_path, test, defaults=POLLS, gateway={"max_event_bytes": 4096})


def test_without_the_setting_a_question_has_no_poll(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            rig.claude.scripts["go"] = asks(DATABASE)
            await rig.receive("go")
            life.notify()
            await rig.wait_body("React with a number")
            await handle(life)
            await react(rig, life, (await questions(rig))[0], "1️⃣", by=ALICE)
            await rig.wait_ended(1)
        assert await polls(rig) == await polls(rig, POLL_END) == []

    run_asking(tmp_path, test)


def test_what_is_asked_in_a_thread_is_a_poll_of_the_thread(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            rig.claude.scripts["go"] = asks(DATABASE)
            root = await rig.receive("hello")
            await rig.receive("go", thread=root)
            life.notify()
            _, poll = await latest(rig, 1)
            relation = (await polls(rig))[0][1]["m.relates_to"]
            assert (relation["rel_type"], relation["event_id"]) == ("m.thread", root)
            await vote(rig, life, poll, (await ids(rig))[0])
            await rig.wait_ended(2)
        assert await closed(rig) == [poll]

    run_asking(tmp_path, test, defaults=POLLS)


def test_an_encrypted_vote_that_is_taken_back_before_its_key_comes_is_none(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, poll = await begin(rig, life, DATABASE)
            a, b = await ids(rig)
            sent = []
            for answer in (a, b):
                clear: Any = {
                    "type": RESPONSE, "sender": ALICE, "content": response(poll, answer),
                }  # fmt: skip
                content: Any = {"key": "k1", "clear": clear}
                sent.append(await rig.receive_event("m.room.encrypted", content, ALICE))
            await handle(life)
            await rig.receive_event("m.room.redaction", {}, ALICE, redacts=sent[0])
            await handle(life)
            assert (await states(rig))[0][0] == "open"
            await rig.receive_row(InboxKind.TO_DEVICE, {"key": "k1", "room_id": ROOM}, None)
            await handle(life)
            await rig.wait_ended(1)
        assert await states(rig) == [("granted_once", ALICE, "[1]")]

    run_asking(tmp_path, test, defaults=POLLS)


def test_a_room_that_is_replaced_takes_no_poll_along(tmp_path: Path) -> None:
    new = RoomId("!new:test")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            _, poll = await begin(rig, life, DATABASE)
            content: Any = {"body": "replaced", "replacement_room": new}
            await rig.receive_event("m.room.tombstone", content, ALICE, state_key="")
            predecessor: Any = {"predecessor": {"room_id": ROOM, "event_id": "$t"}}
            await rig.receive_event("m.room.create", predecessor, ALICE, new, state_key="")
            life.notify()
            await handle(life)
            assert (await states(rig))[0][0] == "withdrawn"
            # The turn asks again, in the new room; the old room's poll answers nothing.
            await vote(rig, life, poll, (await ids(rig))[0])
            assert [state for state, *_ in await states(rig)][:1] == ["withdrawn"]
        found = await rows(rig, f"SELECT room_id FROM outbox WHERE event_type = '{POLL_END}'")
        assert found == []
        (first, *_) = await rows(
            rig, f"SELECT room_id FROM outbox WHERE event_type = '{POLL_START}' ORDER BY seq"
        )
        assert first == (ROOM,)

    run_asking(tmp_path, test, defaults=POLLS)


async def ask_and_vote(folder: Path, crash_at: int) -> int:
    """A crash at that step of a turn that asks, and another life that goes on."""
    async with open_rig(folder, defaults=POLLS) as rig:
        account = rig.account = MemoryHomeserver()
        await rig.store.rooms.ensure(ROOM, joined=True)
        rig.claude.scripts["go"] = asks(TESTS)
        await rig.receive("go")
        async with rig.life(crash_at=crash_at) as life:
            await vote_and_end(rig, life)
            count = life.points.count
        async with rig.life() as life:
            await vote_and_end(rig, life)
            await asyncio.sleep(5)
        assert await states(rig) == [("granted_once", ALICE, "[0, 2]")], crash_at
        starts = [n for n, content in enumerate(account.contents) if POLL_START in content]
        ends: Any = [content for content in account.contents if POLL_END in content]
        assert len(starts) == 1, (crash_at, account.contents)
        assert [e["m.relates_to"]["event_id"] for e in ends] == [f"${starts[0]}"], crash_at
        told = [str(body) for body in account.bodies(ROOM)]
        assert sum("{'Which tests?': 'unit, fuzz'}" in body for body in told) == 1, crash_at
        return count


async def vote_and_end(rig: Rig, life: Life) -> None:
    async def is_asked() -> bool:
        found = await polls(rig)
        return life.points.crashed.is_set() or bool(found and found[0][0])

    await rig.wait(is_asked)
    if not life.points.crashed.is_set():
        _, poll = await latest(rig, 1)
        a, _, c = await ids(rig)
        await rig.receive_event(RESPONSE, response(poll, a, c), ALICE, event_id="$vote")
        content: Any = {
            "m.relates_to": {"rel_type": "m.annotation", "event_id": poll, "key": "✅"},
        }  # fmt: skip
        await rig.receive_event("m.reaction", content, ALICE, event_id="$tick")
        life.notify()

    async def is_over() -> bool:
        return life.points.crashed.is_set() or await rig.outcomes() == ["done"]

    await rig.wait(is_over)


def test_a_crash_at_any_step_makes_one_poll_one_end_and_one_answer(tmp_path: Path) -> None:
    steps = run_rooms(ask_and_vote(tmp_path / "none", 0))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        run_rooms(ask_and_vote(tmp_path / str(crash_at), crash_at))
