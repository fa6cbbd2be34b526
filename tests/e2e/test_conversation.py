"""A person writes, the agent answers: Synapse, orchestrator, container and CLI are real."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.embedded.messages_model import HttpError, Stall, Text, ToolUse
from orchestrator.model import RunnerState
from tests.e2e.conftest import Installation
from tests.support.matrix_user import body_of

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

TURN_KEY = "org.aiagentchat.turn"


async def test_a_message_is_answered_in_its_room(installation: Installation) -> None:
    installation.api.when("colour of the sky", "The sky is **blue** today.")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    asked = await alice.send(room, "What is the colour of the sky?")
    answer = await alice.wait_for_text(room, "blue")

    assert answer["sender"] == installation.agent.user_id
    assert "<strong>blue</strong>" in answer["content"]["formatted_body"]
    mark = answer["content"][TURN_KEY]
    assert mark["asked"] == [asked]
    assert mark["final"] is True
    assert mark["outcome"] == "done"
    assert alice.texts(room, sender=installation.agent.user_id) == ["The sky is **blue** today."]


async def test_a_message_is_acknowledged_before_it_is_answered(installation: Installation) -> None:
    installation.api.when("slowly", [Stall(seconds=6), Text(text="finally")])
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    asked = await alice.send(room, "Answer slowly")
    await alice.wait_for_text(room, "finally")

    def is_sign(kind: str) -> bool:
        return any(e["type"] == kind and _tells(e, installation, asked) for e in alice.ephemeral)

    assert is_sign("m.receipt")
    assert is_sign("m.typing")


async def test_a_burst_of_three_messages_is_one_turn(installation: Installation) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    asked = [await alice.send(room, text) for text in ("first part", "second part", "third part")]
    answer = await alice.wait_for_text(room, "third part", sender=installation.agent.user_id)

    assert answer["content"][TURN_KEY]["asked"] == asked
    assert len(installation.api.asked) == 1
    for part in ("first part", "second part", "third part"):
        assert part in installation.api.asked[0].last_user_text


async def test_two_rooms_get_their_own_answers_from_their_own_containers(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    rooms = [await installation.room(alice, name=name) for name in ("one", "two")]

    await asyncio.gather(*(alice.send(room, f"echo {room}") for room in rooms))
    for room in rooms:
        answer = await alice.wait_for_text(room, room, sender=installation.agent.user_id)
        assert answer["room_id"] == room

    runners = await orchestrator.runners()
    assert {runner.room_id for runner in runners} == set(rooms)
    assert len({runner.container_id for runner in runners}) == 2
    assert all(runner.state is RunnerState.RUNNING for runner in runners)
    for room, other in (rooms, rooms[::-1]):
        texts = alice.texts(room, sender=installation.agent.user_id)
        assert len(texts) == 1
        assert other not in texts[0]


async def test_a_second_turn_remembers_the_first(installation: Installation) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "My name is Ada")
    await alice.wait_for_text(room, "My name is Ada", sender=installation.agent.user_id)
    await alice.send(room, "Who am I?")
    await alice.wait_for_text(room, "Who am I?", sender=installation.agent.user_id)

    first, second = installation.api.asked
    assert not any("Who am I" in message.text for message in first.messages)
    assert any("My name is Ada" in message.text for message in second.messages)
    (runner,) = await orchestrator.runners()
    assert runner.generation == 1


async def test_a_new_conversation_forgets_and_keeps_the_files(installation: Installation) -> None:
    write = ToolUse(name="Bash", input={"command": "echo kept > note.txt", "description": "write"})
    read = ToolUse(name="Bash", input={"command": "cat note.txt", "description": "read"})
    installation.api.when("write it", [write], "written")
    installation.api.when("read it", [read])
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "write it")
    await alice.wait_for_text(room, "written")
    await alice.send(room, "!new")
    await alice.wait_for_text(room, "new conversation")
    await alice.send(room, "read it")
    answer = await alice.wait_for_text(room, "The tool said")

    assert "kept" in body_of(answer)
    assert not any("write it" in message.text for message in installation.api.asked[-1].messages)


async def test_a_tool_that_would_ask_is_denied_and_both_sides_are_told(
    installation: Installation,
) -> None:
    write = ToolUse(name="Bash", input={"command": "touch /workspace/x", "description": "write"})
    installation.api.when("make a file", [write])
    orchestrator = await installation.configure(defaults={"permissions": "ask"})
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "make a file")
    answer = await alice.wait_for_text(room, "The tool said")

    assert "nobody is named who may give it" in body_of(answer)
    notice = await alice.wait_for_text(room, "Not run")
    assert notice["content"]["msgtype"] == "m.notice"
    workspaces = list((orchestrator.state_dir / "rooms").glob("*/workspace"))
    assert [list(workspace.glob("x")) for workspace in workspaces] == [[]]


async def test_the_room_commands_answer_and_an_unknown_one_gets_a_hint(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "!help")
    help_text = body_of(await alice.wait_for_text(room, "`!status`"))
    assert all(f"`!{name}`" in help_text for name in ("help", "status", "cancel", "new"))
    await alice.send(room, "!status")
    status = body_of(await alice.wait_for_text(room, "Runner:"))
    for word in ("Session:", "2 GiB", "512 processes", "Version: 0.1.0"):
        assert word in status
    await alice.send(room, "!stats")
    await alice.wait_for_text(room, "Did you mean `!status`?")
    await alice.send(room, "!cancel")
    await alice.wait_for_text(room, "Nothing is running")
    assert installation.api.asked == []


async def test_own_messages_notices_edits_and_strangers_start_nothing(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure(access={"users": []})
    alice = await installation.person()
    await installation.configure(access={"users": [alice.user_id]})
    orchestrator = installation.orchestrator
    await orchestrator.start()
    stranger = await installation.person("mallory")
    room = await installation.room(alice, stranger.user_id)
    await stranger.join(room)

    pill: dict[str, Any] = {"m.mentions": {"user_ids": [installation.agent.user_id]}}
    await alice.send(room, "a notice", msgtype="m.notice", **pill)
    await stranger.send(room, "let me in", **pill)
    await stranger.send(room, "let me in again", **pill)
    await alice.send(room, "not addressed to the agent")
    asked = await alice.send(room, "this one counts", **pill)
    await alice.wait_for_text(room, "this one counts", sender=installation.agent.user_id)
    edit = {"rel_type": "m.replace", "event_id": asked}
    await alice.send(room, "* edited", **{"m.relates_to": edit, **pill})
    await alice.send(room, "the last one", **pill)
    await alice.wait_for_text(room, "the last one", sender=installation.agent.user_id)

    assert len(installation.api.asked) == 2
    said = alice.texts(room, sender=installation.agent.user_id)
    assert sum("operator has listed" in text for text in said) == 1


async def test_what_was_said_before_the_agent_was_invited_is_not_answered(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await alice.create_room(name="old")
    await alice.send(room, "said before")
    await alice.invite(room, installation.agent.user_id)
    await alice.wait_for_member(room, installation.agent.user_id)
    await alice.send(room, "said after")
    await alice.wait_for_text(room, "said after", sender=installation.agent.user_id)

    assert [request.last_user_text for request in installation.api.asked] == ["said after"]


def _tells(event: dict[str, Any], installation: Installation, asked: str) -> bool:
    """Whether a typing notice or a receipt is the agent's, for the event that asked."""
    agent = installation.agent.user_id
    if event["type"] == "m.typing":
        return agent in event["content"]["user_ids"]
    return agent in event["content"].get(asked, {}).get("m.read", {})


async def test_an_api_in_trouble_is_told_while_it_is_asked_again(
    installation: Installation,
) -> None:
    broken = HttpError(status=500, type="api_error", message="Internal server error")
    installation.api.once("are you busy", *[broken] * 4, "Not any more.")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "are you busy?")
    told = await alice.wait_for_text(room, "The Messages API answers 500")
    assert told["content"]["msgtype"] == "m.notice"
    await alice.wait_for_text(room, "Not any more.")
    said = alice.texts(room, sender=installation.agent.user_id)
    assert sum("Messages API" in text for text in said) == 1
