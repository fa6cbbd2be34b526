"""An answer that grows in its one message: the real CLI, the real homeserver, a plain client."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.embedded.messages_model import Stall, Text, Thinking, ToolUse
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser, body_of

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

LIVE = {"stream": "edit", "footer": ["duration", "tokens"], "permissions": "bypass"}


def forms(person: MatrixUser, room: str, agent: str) -> dict[str, list[str]]:
    """Each of the agent's messages by its event, with the forms that it has had."""
    found: dict[str, list[str]] = {}
    for event in person.timeline:
        if event["room_id"] != room or event["sender"] != agent or not body_of(event):
            continue
        content = event["content"]
        relation = content.get("m.relates_to", {})
        if relation.get("rel_type") == "m.replace":
            found[relation["event_id"]].append(content["m.new_content"]["body"])
        else:
            found[event["event_id"]] = [content["body"]]
    return found


def is_final(event: dict[str, Any]) -> bool:
    mark = event["content"].get("org.aiagentchat.turn", {})
    return isinstance(mark, dict) and mark.get("final") is True


async def test_one_message_shows_the_tool_and_the_tasks_and_becomes_the_answer(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    todos = [
        {"content": "look around", "status": "completed", "activeForm": "looking"},
        {"content": "write it", "status": "in_progress", "activeForm": "writing"},
    ]
    api.when(
        "build it",
        [
            Thinking(text="How would one do that?"),
            Text(text="I begin."),
            ToolUse(name="TodoWrite", input={"todos": todos}),
        ],
        [ToolUse(name="Bash", input={"command": "sleep 4; false", "description": "slow"})],
        [Stall(seconds=3), Text(text="It is **built**.")],
    )
    orchestrator = await installation.configure(defaults=LIVE)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    asked = await alice.send(room, "build it")
    final = await alice.wait_for(is_final, what="the answer")
    (shown,) = forms(alice, room, agent).values()
    assert shown[-1].startswith("I begin.\n\nIt is **built**.\n\n*")
    assert shown[-1].endswith("tokens*"), "the footer"
    assert any("`Bash: sleep 4; false`" in form for form in shown), shown
    assert any("1 ✗" in form for form in shown), shown
    assert final["content"]["m.relates_to"]["rel_type"] == "m.replace"
    assert final["content"]["org.aiagentchat.turn"]["asked"] == [asked]
    assert all(e["content"].get("m.mentions") == {} for e in alice.timeline if is_final(e))


async def test_a_killed_orchestrator_goes_on_with_the_same_message(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when(
        "take long",
        [Text(text="I begin."), ToolUse(name="Bash", input={"command": "sleep 9"})],
        "And that is **it**.",
    )
    orchestrator = await installation.configure(defaults=LIVE)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "take long")
    await alice.wait_for_text(room, "Bash: sleep 9", sender=agent)
    await orchestrator.kill()
    await orchestrator.start()
    await alice.wait_for(is_final, what="the answer")
    (shown,) = forms(alice, room, agent).values()
    assert shown[-1].startswith("I begin.\n\nAnd that is **it**.")
    assert len(api.asked) == 2, "nothing was asked of the model again"
