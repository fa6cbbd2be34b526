"""A reply brings what it replies to: from the store, from the homeserver, or that it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.errors import HomeserverUnreachableError
from tests.support.room_rig import Rig
from tests.unit.rooms.scenario import run, tell


def reply(text: str, to: str, **more: Any) -> dict[str, Any]:
    relation = {"m.in_reply_to": {"event_id": to}, **more}
    return {"msgtype": "m.text", "body": text, "m.relates_to": relation}


async def ask(rig: Rig, content: dict[str, Any]) -> str:
    """What the agent is asked."""
    before = len(rig.claude.asked)
    await rig.receive_event("m.room.message", content)
    async with rig.life():
        await rig.wait_ended(before + 1)
    return rig.claude.asked[-1]


def message(event_id: str, body: str) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": body}
    return {
        "event_id": event_id,
        "type": "m.room.message",
        "sender": "@bob:test",
        "content": content,
    }


def test_what_others_said_is_asked_for(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.known_events["$old"] = message("$old", "the build is red")
        asked = await ask(rig, reply("fix this", "$old"))
        assert asked.startswith("fix this\n\n[This is a reply to what was said before")
        assert "by @bob:test:]\n> the build is red" in asked

    run(tmp_path, test)


def test_what_the_agent_said_is_known(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "first")
            await rig.wait_ended(1)

        def work(db: Any) -> None:
            db.execute("UPDATE outbox SET state = 'sent', event_id = '$answer'")

        await rig.store.database.run(work)
        asked = await ask(rig, reply("why?", "$answer"))
        assert "by you:]\n> You said: first" in asked

    run(tmp_path, test)


def test_what_cannot_be_read_is_said_and_holds_nothing_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        assert "could not be read" in await ask(rig, reply("fix this", "$gone"))
        rig.known_events["$broken"] = HomeserverUnreachableError("away")
        assert "could not be read" in await ask(rig, reply("fix this", "$broken"))

    run(tmp_path, test)


def test_a_thread_and_an_old_clients_quote_are_no_replies(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        relation = {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": True}
        assert await ask(rig, reply("in a thread", "$last", **relation)) == "in a thread"
        old = "> <@bob:test> red\n\nfix this"
        assert await ask(rig, reply(old, "$old")) == old

    run(tmp_path, test)


def test_a_reply_in_a_thread_is_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.known_events["$old"] = message("$old", "the build is red")
        relation = {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": False}
        assert "> the build is red" in await ask(rig, reply("fix this", "$old", **relation))

    run(tmp_path, test)
