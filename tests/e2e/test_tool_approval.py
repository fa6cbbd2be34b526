"""The real CLI asks, people decide: a tool once, for the session, not at all; plan; question."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser, body_of
from tests.support.orchestrator import Orchestrator

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

_PLAN = "# Steps\n\n1. look\n2. do it"


def touch(name: str) -> list[ToolUse]:
    return [ToolUse(name="Bash", input={"command": f"touch {name}", "description": "harmless"})]


def exists(orchestrator: Orchestrator, name: str) -> bool:
    found: list[Path] = list((orchestrator.state_dir / "rooms").glob(f"*/workspace/{name}"))
    return bool(found)


async def react(person: MatrixUser, room: str, event: dict[str, Any], key: str) -> None:
    relation = {"rel_type": "m.annotation", "event_id": event["event_id"], "key": key}
    await person.send_event(room, "m.reaction", {"m.relates_to": relation})


async def test_a_tool_is_run_once_for_the_session_or_not_at_all_as_people_decide(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    for name in ("one", "two", "three", "four"):
        api.when(f"make {name}", touch(name), f"{name} is over")
    alice = await installation.person()
    orchestrator = await installation.configure(
        defaults={"permissions": "ask"}, access={"users": ["@*:*"], "admins": [alice.user_id]}
    )
    await orchestrator.start()
    room = await installation.room(alice)

    await alice.send(room, "make one")
    question = await alice.wait_for_text(room, "touch one", sender=agent)
    assert "May I do this?" in body_of(question)
    assert "Bash(touch one" in body_of(question)
    # What was asked outlives the orchestrator.
    await orchestrator.stop()
    await orchestrator.start()
    await react(alice, room, question, "✅")
    await alice.wait_for_text(room, "one is over", sender=agent)
    assert exists(orchestrator, "one")

    await alice.send(room, "make two")
    question = await alice.wait_for_text(room, "touch two", sender=agent)
    relation = {"m.in_reply_to": {"event_id": question["event_id"]}}
    await alice.send(room, "call it deux", **{"m.relates_to": relation})
    await alice.wait_for_text(room, "two is over", sender=agent)
    assert not exists(orchestrator, "two")
    assert "said: call it deux" in api.asked[-1].tool_results[-1].result_text

    await alice.send(room, "make three")
    question = await alice.wait_for_text(room, "touch three", sender=agent)
    await react(alice, room, question, "♾️")
    await alice.wait_for_text(room, "three is over", sender=agent)
    api.when("again three", touch("three"), "and again")
    await alice.send(room, "again three")
    await alice.wait_for_text(room, "and again", sender=agent)
    texts = alice.texts(room, sender=agent)
    assert sum("May I do this?" in text for text in texts) == 3
    assert sum("and again" in text for text in texts) == 1


async def test_a_question_is_answered_by_its_number_and_a_plan_by_an_approver(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    options = [
        {"label": "SQLite", "description": "one file"},
        {"label": "PostgreSQL", "description": "a server"},
    ]
    asked = {
        "questions": [
            {
                "question": "Which database?",
                "header": "Store",
                "options": options,
                "multiSelect": False,
            }
        ]
    }
    api.when("ask me", [ToolUse(name="AskUserQuestion", input=asked)], "so be it")
    alice, carol = await installation.person(), await installation.person("carol")
    orchestrator = await installation.configure(
        defaults={"permissions": "plan", "trigger": "all"},
        access={"users": ["@*:*"], "approvers": [carol.user_id]},
    )
    await orchestrator.start()
    room = await installation.room(alice, carol.user_id)
    await carol.join(room)

    await alice.send(room, "ask me")
    question = await alice.wait_for_text(room, "Which database?", sender=agent)
    assert "2. `PostgreSQL` — `a server`" in body_of(question)
    await react(alice, room, question, "2️⃣")
    await alice.wait_for_text(room, "so be it", sender=agent)
    assert "PostgreSQL" in api.asked[-1].tool_results[-1].result_text

    text = "\n".join(m.text for m in api.asked[-1].messages)
    found = re.search(r"(/home/agent/\S+?/plans/\S+?\.md)", text)
    assert found is not None, text[-6000:]
    write = ToolUse(name="Write", input={"file_path": found[1], "content": _PLAN})
    api.when("plan it", [write], [ToolUse(name="ExitPlanMode", input={})], "planned")
    await alice.send(room, "plan it")
    question = await alice.wait_for_text(room, "This is my plan", sender=agent)
    assert "> # Steps" in body_of(question)
    await react(alice, room, question, "✅")
    await react(carol, room, question, "✅")
    await alice.wait_for_text(room, "planned", sender=agent)
    (told,) = [t for t in alice.texts(room, sender=agent) if "Allowed by" in t]
    assert carol.user_id in told
    assert not api.asked[-1].tool_results[-1].is_error
