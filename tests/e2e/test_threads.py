"""Threads are conversations of the real CLI, answered in place, for two independent clients."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.web_client import open_web_client

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


def in_thread(root: str) -> dict[str, Any]:
    """What a client adds to a message of a thread."""
    reply = {"event_id": root}
    relation = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True}
    return {"m.relates_to": {**relation, "m.in_reply_to": reply}}


async def test_threads_fork_are_answered_in_place_and_go_on_after_a_kill(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    root = await alice.send(room, "apples in the room")
    first = await alice.wait_for_text(room, "You said: apples", sender=agent)
    assert "m.relates_to" not in first["content"]

    await alice.send(room, "pears in the thread", **in_thread(root))
    answer = await alice.wait_for_text(room, "You said: pears", sender=agent)
    assert answer["content"]["m.relates_to"]["rel_type"] == "m.thread"
    assert answer["content"]["m.relates_to"]["event_id"] == root
    assert "apples in the room" in str(api.asked[-1].messages), "it knows what was said before"

    await alice.send(room, "plums in the room")
    await alice.wait_for_text(room, "You said: plums", sender=agent)
    asked = str(api.asked[-1].messages)
    assert "apples in the room" in asked
    assert "pears in the thread" not in asked, "the room knows nothing of the thread"

    await orchestrator.kill()
    await orchestrator.start()
    await alice.send(room, "more pears", **in_thread(root))
    await alice.wait_for_text(room, "You said: more pears", sender=agent)
    asked = str(api.asked[-1].messages)
    assert "pears in the thread" in asked
    assert "plums in the room" not in asked

    await alice.send(room, "!sessions", **in_thread(root))
    listed = await alice.wait_for_text(room, "**this one**", sender=agent)
    assert listed["content"]["m.relates_to"]["event_id"] == root
    here = next(line for line in listed["content"]["body"].splitlines() if "this one" in line)
    assert "pears in the thread" in here
    await alice.send(room, "!resume 2")
    await alice.wait_for_text(room, "as a copy", sender=agent)
    await alice.send(room, "grapes")
    await alice.wait_for_text(room, "You said: grapes", sender=agent)
    assert "more pears" in str(api.asked[-1].messages), "the thread's conversation, in the room"


async def test_turns_of_two_threads_run_side_by_side_across_a_kill(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    for name in ("first", "second"):
        waits = ToolUse(name="Bash", input={"command": f"sleep 5; echo of {name}"})
        again = ToolUse(name="Bash", input={"command": f"sleep 3; echo again {name}"})
        api.when(f"the {name} task", [waits], [again], f"{name} done")
    defaults = {"permissions": "bypass", "max_parallel_turns": 2}
    orchestrator = await installation.configure(defaults=defaults)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    root = await alice.send(room, "the first task")
    while not api.asked:
        await alice.sync()
    await alice.send(room, "the second task", **in_thread(root))
    while not any("the second task" in str(asked.messages) for asked in api.asked):
        await alice.sync()
    assert not any("done" in text for text in alice.texts(room, sender=agent))
    (runner,) = await orchestrator.runners()
    await orchestrator.kill()
    await orchestrator.start()
    second = await alice.wait_for_text(room, "second done", sender=agent)
    first = await alice.wait_for_text(room, "first done", sender=agent)
    assert second["content"]["m.relates_to"]["event_id"] == root
    assert "m.relates_to" not in first["content"]
    texts = alice.texts(room, sender=agent)
    assert (texts.count("first done"), texts.count("second done")) == (1, 1)
    (after,) = await orchestrator.runners()
    assert after.generation == runner.generation, "the same container"
    for name in ("first", "second"):
        asked = [str(one.messages) for one in api.asked if f"the {name} task" in str(one.messages)]
        assert len(asked) >= 3, "two tools, and the answer"


async def test_a_conversation_is_compacted_and_a_reply_says_what_it_is_about(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when("CRITICAL", "a summary of fruit")
    api.when("what about this?", "it is about fruit")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "apples and pears")
    answer = await alice.wait_for_text(room, "You said: apples", sender=agent)
    await alice.send(room, "!compact keep the fruit")
    await alice.wait_for_text(room, "The conversation is a summary now", sender=agent)
    assert "keep the fruit" in str(api.asked[-1].messages) + str(api.asked[-2].messages)
    reply = {"m.in_reply_to": {"event_id": answer["event_id"]}}
    await alice.send(room, "what about this?", **{"m.relates_to": reply})
    await alice.wait_for_text(room, "it is about fruit", sender=agent)
    asked = str(api.asked[-1].messages)
    assert "a summary of fruit" in asked
    assert "by you:]" in asked
    assert "> You said: apples and pears" in asked


async def test_in_an_encrypted_room_with_another_client(installation: Installation) -> None:
    api = installation.api
    orchestrator = await installation.configure()
    await orchestrator.start()
    account = installation.server.register(f"bob-{secrets.token_hex(4)}")
    async with open_web_client(
        installation.server.base_url, account.user_id, account.password
    ) as bob:
        room = await bob.create_room(installation.agent.user_id, encrypted=True)
        root = await bob.send(room, "sealed apples")

        def says(words: str) -> Any:
            return lambda e: (
                e["sender"] != bob.user_id and words in str(e["content"].get("body", ""))
            )

        await bob.wait_for(room, says("You said: sealed apples"))
        await bob.send(room, "sealed pears", **in_thread(root))
        await bob.wait_for(room, says("You said: sealed pears"))
        assert "sealed apples" in str(api.asked[-1].messages)
        reply = {"m.in_reply_to": {"event_id": root}}
        await bob.send(room, "and this?", **{"m.relates_to": reply})
        await bob.wait_for(room, says("You said: and this?"))
        last = str(api.asked[-1].messages)
        assert f"by {account.user_id}:]" in last
        assert "> sealed apples" in last
        assert "sealed pears" not in last
        shown = {e["content"].get("body", ""): e["thread"] for e in await bob.timeline(room)}
        assert shown["You said: sealed pears"] == root
        assert [t for body, t in shown.items() if body.startswith("You said: and this?")] == [None]
