"""A turn asks, a person decides: once each, over restarts, and never by anybody else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import tool_request
from orchestrator.core.texts import approval as approval_texts
from orchestrator.model import EventId
from tests.support.asking import CAROL, REVIEWER, handle, questions, react, rows, run_asking
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ALICE, ROOM, Life, Rig, open_rig, run_rooms

BOB = "@bob:test"
SUGGESTION = {
    "type": "addRules",
    "behavior": "allow",
    "destination": "localSettings",
    "rules": [{"toolName": "Bash", "ruleContent": "npm test:*"}],
}


async def wants(turn: Turn) -> None:
    """A turn that asks for one command, and says what it was answered."""
    given = {"command": "npm test", "description": "tests"}
    answer = await turn.ask("Bash", "r1", given, permission_suggestions=[SUGGESTION])
    response = answer["response"]
    said = response.get("message") or ("allowed " + str(response.get("updatedPermissions", "once")))
    turn.text(f"<{response['behavior']}> {said}")
    turn.result("ok")


async def begin(rig: Rig, life: Life, script: Any = wants, *, by: str = ALICE) -> EventId:
    """A message whose turn asks; the event of its question."""
    rig.claude.scripts["go"] = script
    before = len(await questions(rig))
    await rig.receive("go", sender=by)
    life.notify()

    async def is_asked() -> bool:
        return len(await questions(rig)) > before

    await rig.wait(is_asked)
    return (await questions(rig))[-1]


async def reply(rig: Rig, life: Life, to: str, words: str, *, by: str = CAROL) -> None:
    content = {
        "msgtype": "m.text",
        "body": words,
        "m.relates_to": {"m.in_reply_to": {"event_id": to}},
    }
    await rig.receive_event("m.room.message", content, by)
    await handle(life)


async def states(rig: Rig) -> list[tuple[Any, ...]]:
    return await rows(rig, "SELECT state, decided_by, reason FROM approvals ORDER BY asked_at")


def test_the_whole_command_is_shown_and_who_may_decide_until_when(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            text = (await rig.bodies())[-1]
        assert "May I do this?" in text
        assert "```bash\nnpm test\n```" in text
        assert "Bash(npm test:*)" in text
        assert "Approvers decide until" in text

    run_asking(tmp_path, test)


@pytest.mark.parametrize(
    ("key", "state", "told"),
    [
        ("✅", "granted_once", "<allow> allowed once"),
        ("♾️", "granted_session", "'destination': 'session'"),
        ("❌", "refused", f"<deny> {CAROL} did not allow it."),
    ],
)
def test_a_reaction_of_an_approver_decides(tmp_path: Path, key: str, state: str, told: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
            for sign, by in (("👍", CAROL), (key, ALICE), (key, REVIEWER)):
                await react(rig, life, question, sign, by=by)
            assert await states(rig) == [("open", None, None)]
            await react(rig, life, question, key)
            await rig.wait_ended(1)
        assert await states(rig) == [(state, CAROL, None)]
        bodies = await rig.bodies()
        assert sum(told in body for body in bodies) == 1, bodies
        assert sum(f"`{CAROL}`" in body for body in bodies) == 1

    run_asking(tmp_path, test)


def test_a_reply_refuses_with_its_reason_which_reaches_the_agent(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
            await reply(rig, life, question, "not by me", by=ALICE)
            assert await states(rig) == [("open", None, None)]
            await reply(rig, life, question, "> <@agent:test> May I\n\nuse yarn")
            await rig.wait_ended(1)
        assert await states(rig) == [("refused", CAROL, "use yarn")]
        assert any("and said: use yarn" in body for body in await rig.bodies())

    run_asking(tmp_path, test)


@pytest.mark.parametrize(
    ("command", "state", "word"),
    [
        ("!approve", "granted_once", "<allow>"),
        ("!approve 1", "granted_once", "<allow>"),
        ("!deny", "refused", "<deny>"),
        ("!deny 1 too late", "refused", "said: too late"),
    ],
)
def test_a_command_decides_as_a_reaction_does(
    tmp_path: Path, command: str, state: str, word: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            await rig.receive(command, sender=ALICE)
            await handle(life)
            assert (await rig.bodies())[-1] == approval_texts.NOT_DECIDER
            await rig.receive(command, sender=CAROL)
            await handle(life)
            await rig.wait_ended(1)
            await rig.receive(command, sender=CAROL)
            await handle(life)
        assert (await states(rig))[0][:2] == (state, CAROL)
        bodies = await rig.bodies()
        assert any(word in body for body in bodies)
        assert bodies[-1] == approval_texts.NOTHING_OPEN

    run_asking(tmp_path, test)


def test_several_open_questions_are_listed_and_decided_by_their_number(tmp_path: Path) -> None:
    async def two(turn: Turn) -> None:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(turn.ask("Bash", f"r{n}", {"command": f"do {n}"})) for n in (1, 2)
            ]
        turn.text(" ".join(task.result()["response"]["behavior"] for task in asked))
        turn.result("ok")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, two)
            for command in ("!approve", "!approve 3", "!deny 2 no", "!approve"):
                await rig.receive(command, sender=CAROL)
                await handle(life)
            await rig.wait_ended(1)
        bodies = await rig.bodies()
        assert sum("**1**: `Bash: do 1`\n- **2**: `Bash: do 2`" in body for body in bodies) == 2
        assert any("allow deny" in body for body in bodies)

    run_asking(tmp_path, test)


def test_who_asked_for_the_turn_decides_where_the_room_has_it_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
            assert any(f"Approvers, and `{ALICE}`, decide" in b for b in await rig.bodies())
            await react(rig, life, question, "✅", by=BOB)
            assert await states(rig) == [("open", None, None)]
            await react(rig, life, question, "✅", by=ALICE)
            await rig.wait_ended(1)
        assert (await states(rig))[0][:2] == ("granted_once", ALICE)

    run_asking(tmp_path, test, defaults={"deciders": "asker"})


def test_an_agent_that_asked_for_the_turn_decides_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life, by=REVIEWER)
            await react(rig, life, question, "✅", by=REVIEWER)
            assert await states(rig) == [("open", None, None)]

    access = {"users": [ALICE, REVIEWER], "approvers": [CAROL]}
    run_asking(tmp_path, test, defaults={"deciders": "asker"}, access=access)


def test_nobody_in_time_is_a_no_and_the_turns_clock_stood_still(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life)
            await asyncio.sleep(3500)
            assert await states(rig) == [("open", None, None)]
            await rig.wait_ended(1, timeout_s=200)
        assert await states(rig) == [("expired", None, None)]
        assert await rig.outcomes() == ["done"]
        assert any("Nobody decided in time, so it is not allowed" in b for b in await rig.bodies())

    limits = {"approval_timeout_s": 3600, "timeout_s": 60, "ceiling_s": 120}
    run_asking(tmp_path, test, defaults=limits)


def test_without_anybody_who_may_decide_it_is_refused_at_once_with_the_next_step(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            rig.claude.scripts["go"] = wants
            await rig.receive("go")
            life.notify()
            await rig.wait_ended(1)
        assert await states(rig) == []
        assert sum("access.approvers" in body for body in await rig.bodies()) == 2

    run_asking(tmp_path, test, access={"users": [ALICE]})


def test_a_cancelled_turn_takes_its_question_with_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
            await rig.receive("!cancel")
            await handle(life)
            await rig.wait_ended(1)
            await react(rig, life, question, "✅")
        assert await states(rig) == [("withdrawn", None, None)]
        assert sum("over already" in body for body in await rig.bodies()) == 1

    run_asking(tmp_path, test)


def test_what_the_cli_takes_back_is_withdrawn(tmp_path: Path) -> None:
    async def fickle(turn: Turn) -> None:
        task = asyncio.get_running_loop().create_task(turn.ask("Bash", "r1"))
        await asyncio.sleep(5)
        turn.line(type="control_cancel_request", request_id="r1")
        task.cancel()
        await asyncio.sleep(1)
        turn.result("ok")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await begin(rig, life, fickle)
            await rig.wait_ended(1)
        assert await states(rig) == [("withdrawn", None, None)]

    run_asking(tmp_path, test)


def test_a_question_with_options_is_answered_by_numbers_by_whoever_asked(tmp_path: Path) -> None:
    given = {
        "questions": [
            {
                "question": "Which database?",
                "options": [{"label": "SQLite"}, {"label": "PostgreSQL"}],
            },
            {
                "question": "Which tests?",
                "options": [{"label": "unit"}, {"label": "e2e"}, {"label": "fuzz"}],
                "multiSelect": True,
            },
            {"question": "Its name?", "options": []},
        ]
    }

    async def curious(turn: Turn) -> None:
        answer = await turn.ask("AskUserQuestion", "r1", given)
        turn.text(str(answer["response"]["updatedInput"]["answers"]))
        turn.result("ok")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            first = await begin(rig, life, curious)
            await react(rig, life, first, "2️⃣", by=ALICE)
            second = (await questions(rig))[-1]
            for key in ("3️⃣", "1️⃣", "✅"):
                await react(rig, life, second, key, by=ALICE)
            await reply(rig, life, (await questions(rig))[-1], "mine", by=ALICE)
            await rig.wait_ended(1)
        assert len(await questions(rig)) == 3
        answers = {
            "Which database?": "PostgreSQL",
            "Which tests?": "unit, fuzz",
            "Its name?": "mine",
        }
        assert any(str(answers) in body for body in await rig.bodies()), await rig.bodies()

    run_asking(tmp_path, test, access={"users": [ALICE]})


def test_a_long_request_is_a_file_that_comes_before_its_question(tmp_path: Path) -> None:
    async def long(turn: Turn) -> None:
        answer = await turn.ask("Bash", "r1", {"command": "echo " + "x" * 20_000})
        turn.text(answer["response"]["behavior"])
        turn.result("ok")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life, long)
            kinds = await rows(rig, "SELECT event_id, content FROM outbox ORDER BY seq")
            assert "question.md" in kinds[-2][1]
            assert kinds[-1][0] == question
            await react(rig, life, question, "✅")
            await rig.wait_ended(1)
        assert any(body.startswith("allow") for body in await rig.bodies())

    run_asking(tmp_path, test)


def test_what_is_too_long_to_be_shown_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_request, "MAX_SHOWN_CHARS", 10_000)

    async def long(turn: Turn) -> None:
        answer = await turn.ask("Bash", "r1", {"command": "x" * 20_000})
        turn.text(answer["response"]["behavior"])
        turn.result("ok")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            rig.claude.scripts["go"] = long
            await rig.receive("go")
            life.notify()
            await rig.wait_ended(1)
        assert await states(rig) == []
        assert approval_texts.TOO_LONG_NOTICE in await rig.bodies()
        assert any(body.startswith("deny") for body in await rig.bodies())

    run_asking(tmp_path, test)


async def ask_and_decide(folder: Path, crash_at: int) -> int:
    """A crash at that step of a turn that asks, and another life that goes on."""
    access = {"users": [ALICE], "approvers": [CAROL]}
    async with open_rig(folder, access=access) as rig:
        rig.account = MemoryHomeserver()
        await rig.store.rooms.ensure(ROOM, joined=True)
        rig.claude.scripts["go"] = wants
        await rig.receive("go")
        async with rig.life(crash_at=crash_at) as life:
            await decide_and_end(rig, life)
            count = life.points.count
        async with rig.life() as life:
            await decide_and_end(rig, life)
            await asyncio.sleep(5)
        assert await states(rig) == [("granted_once", CAROL, None)], crash_at
        shown = [str(body) for body in rig.account.bodies(ROOM)]
        assert sum("May I do this?" in body for body in shown) == 1, (crash_at, shown)
        assert sum("Allowed by" in body for body in shown) == 1, (crash_at, shown)
        assert sum("<allow> allowed once" in body for body in shown) == 1, (crash_at, shown)
        return count


async def decide_and_end(rig: Rig, life: Life) -> None:
    async def is_asked() -> bool:
        return life.points.crashed.is_set() or bool(await questions(rig))

    await rig.wait(is_asked)
    for event_id in await questions(rig):
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "✅"}}
        await rig.receive_event("m.reaction", content, CAROL, event_id="$reaction")
        life.notify()

    async def is_over() -> bool:
        return life.points.crashed.is_set() or await rig.outcomes() == ["done"]

    await rig.wait(is_over)


def test_a_crash_at_any_step_asks_once_and_answers_once(tmp_path: Path) -> None:
    steps = run_rooms(ask_and_decide(tmp_path / "none", 0))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        run_rooms(ask_and_decide(tmp_path / str(crash_at), crash_at))
