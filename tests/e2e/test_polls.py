"""The real CLI asks, people vote: at a plain client, and at one that knows polls."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.audit import audit_messages, wait_settled
from tests.support.matrix_user import MatrixUser, body_of
from tests.support.web_client import open_web_client

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

START, END = "org.matrix.msc3381.poll.start", "org.matrix.msc3381.poll.end"
RESPONSE = "org.matrix.msc3381.poll.response"
DATABASE: dict[str, Any] = {
    "question": "Which database?",
    "header": "Store",
    "options": [
        {"label": "SQLite", "description": "one file"},
        {"label": "PostgreSQL", "description": "a server"},
    ],
    "multiSelect": False,
}
TESTS: dict[str, Any] = {
    "question": "Which tests?",
    "header": "Tests",
    "options": [
        {"label": "unit", "description": "fast"},
        {"label": "e2e", "description": "real"},
        {"label": "fuzz", "description": "long"},
    ],
    "multiSelect": True,
}


def asks(*questions: dict[str, Any]) -> list[ToolUse]:
    return [ToolUse(name="AskUserQuestion", input={"questions": list(questions)})]


async def wait_for_poll(person: MatrixUser, room: str, question: str) -> dict[str, Any]:
    """The poll's event."""

    def is_it(event: dict[str, Any]) -> bool:
        start = event.get("content", {}).get(START, {})
        is_poll = event["room_id"] == room and event["type"] == START
        return is_poll and start["question"]["org.matrix.msc1767.text"] == question

    return await person.wait_for(is_it, what=f"a poll of {question!r}")


async def vote(person: MatrixUser, room: str, poll: dict[str, Any], *labels: str) -> str:
    """Choose these answers; the vote's event."""
    answers = poll["content"][START]["answers"]
    ids = [answer["id"] for answer in answers if answer["org.matrix.msc1767.text"] in labels]
    relation = {"rel_type": "m.reference", "event_id": poll["event_id"]}
    content = {"m.relates_to": relation, RESPONSE: {"answers": ids}}
    return await person.send_event(room, RESPONSE, content)


async def wait_closed(person: MatrixUser, room: str, poll: dict[str, Any]) -> None:
    def is_end(event: dict[str, Any]) -> bool:
        relation = event.get("content", {}).get("m.relates_to", {})
        is_it = event["room_id"] == room and event["type"] == END
        return is_it and relation.get("event_id") == poll["event_id"]

    await person.wait_for(is_end, what="the poll's end")


async def react(person: MatrixUser, room: str, event: dict[str, Any], key: str) -> None:
    relation = {"rel_type": "m.annotation", "event_id": event["event_id"], "key": key}
    await person.send_event(room, "m.reaction", {"m.relates_to": relation})


async def test_votes_answer_over_a_restart_and_those_of_others_do_not(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when("ask me", asks(DATABASE, TESTS), "so be it")
    api.when("ask again", asks(DATABASE), "never mind")
    alice, bob = await installation.person(), await installation.person("bob")
    orchestrator = await installation.configure(
        defaults={"permissions": "ask", "trigger": "all", "questions": "polls"},
        access={"users": [alice.user_id], "readers": [bob.user_id], "approvers": [alice.user_id]},
    )
    await orchestrator.start()
    room = await installation.room(alice, bob.user_id)
    await bob.join(room)

    await alice.send(room, "ask me")
    poll = await wait_for_poll(alice, room, "Which database?")
    asked = await alice.wait_for_text(room, "Which database?", sender=agent)
    assert "2. `PostgreSQL` — `a server`" in body_of(asked)
    await vote(bob, room, poll, "SQLite")
    await orchestrator.kill()
    await vote(alice, room, poll, "PostgreSQL")
    await orchestrator.start()
    await wait_closed(alice, room, poll)

    several = await wait_for_poll(alice, room, "Which tests?")
    await vote(alice, room, several, "unit")
    taken_back = await vote(alice, room, several, "e2e")
    await react(alice, room, several, "3️⃣")
    await alice.request(
        "PUT", f"/_matrix/client/v3/rooms/{room}/redact/{taken_back}/r{secrets.token_hex(4)}", {}
    )
    await vote(alice, room, several, "unit")
    await react(alice, room, several, "✅")
    await alice.wait_for_text(room, "so be it", sender=agent)
    await wait_closed(alice, room, several)
    answer = api.asked[-1].tool_results[-1].result_text
    assert "PostgreSQL" in answer
    assert "unit, fuzz" in answer
    assert "e2e" not in answer

    await alice.send(room, "ask again")

    def is_second(event: dict[str, Any]) -> bool:
        return event["type"] == START and event["event_id"] not in (
            poll["event_id"],
            several["event_id"],
        )

    again = await alice.wait_for(is_second, what="the second poll")
    await alice.send(room, "!cancel")
    await wait_closed(alice, room, again)
    config = ("--config", str(installation.config_path))
    await wait_settled(orchestrator.state_dir, *config)
    audit = await audit_messages(orchestrator.state_dir, *config, "--settled")
    assert audit.code == 0, audit


async def test_another_client_shows_the_poll_in_an_encrypted_room_and_in_a_thread(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when("ask me", asks(DATABASE), "so be it")
    api.when("ask in the thread", asks(TESTS), "that is all")
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "questions": "polls"}
    )
    await orchestrator.start()
    account = installation.server.register(f"bob-{secrets.token_hex(4)}")
    async with open_web_client(
        installation.server.base_url, account.user_id, account.password
    ) as bob:
        room = await bob.create_room(agent, encrypted=True)
        root = await bob.send(room, "ask me")
        poll = await bob.wait_for_poll(room, lambda p: p["question"] == "Which database?")
        assert [a["text"] for a in poll["answers"]] == ["SQLite", "PostgreSQL"]
        assert (poll["most"], poll["is_disclosed"], poll["is_ended"]) == (1, True, False)
        shown = [e for e in await bob.timeline(room) if e["event_id"] == poll["event_id"]]
        assert shown[0]["is_encrypted"]
        await bob.vote(room, poll["event_id"], poll["answers"][1]["id"])
        await bob.wait_for(room, lambda e: "so be it" in e["content"].get("body", ""))
        poll = await bob.wait_for_poll(
            room, lambda p: p["event_id"] == poll["event_id"] and p["is_ended"]
        )
        voted = {"sender": bob.user_id, "answers": [poll["answers"][1]["id"]], "is_spoilt": False}
        assert poll["votes"] == [voted]
        assert "PostgreSQL" in api.asked[-1].tool_results[-1].result_text

        content = {"msgtype": "m.text", "body": "ask in the thread"}
        await bob.ask("reply_in_thread", room=room, thread=root, content=content)
        several = await bob.wait_for_poll(room, lambda p: p["question"] == "Which tests?")
        assert (several["most"], several["thread"]) == (3, root)
        chosen = [several["answers"][n]["id"] for n in (2, 0)]
        await bob.vote(room, several["event_id"], *chosen)
        await bob.react(room, several["event_id"], "✅")
        said = await bob.wait_for(room, lambda e: "that is all" in e["content"].get("body", ""))
        assert said["thread"] == root
        await bob.wait_for_poll(
            room, lambda p: p["event_id"] == several["event_id"] and p["is_ended"]
        )
        assert "unit, fuzz" in api.asked[-1].tool_results[-1].result_text
