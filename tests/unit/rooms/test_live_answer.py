"""A turn is one message that grows by edits and in the end is the answer: once, come what may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.core.texts import live as texts
from orchestrator.model import JsonValue
from orchestrator.rooms.live_answer import MAX_EDITS, step_s
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver, RateLimitedHomeserver
from tests.support.room_rig import Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, run, tell, works_for

LIVE = {"stream": "edit"}


def shown(server: MemoryHomeserver) -> list[str]:
    """What a person reads who looks now: each message in its latest form, signs left out."""
    forms: dict[str, Mapping[str, JsonValue]] = {}
    for number, content in enumerate(server.contents):
        relation = cast("Any", content.get("m.relates_to", {}))
        if relation.get("rel_type") == "m.annotation":
            continue
        if relation.get("rel_type") == "m.replace":
            assert relation["event_id"] in forms, "an edit of a message that is there"
            forms[relation["event_id"]] = cast("Any", content["m.new_content"])
        elif "body" in content:
            forms[f"${number}"] = content
    return [str(content["body"]) for content in forms.values()]


def edits(server: MemoryHomeserver) -> list[str]:
    """The forms that messages were given after their first one."""
    found = [cast("Any", content.get("m.new_content")) for content in server.contents]
    return [str(new["body"]) for new in found if new is not None]


async def typing(turn: Turn) -> None:
    """A block that comes in pieces, a tool, and a second block."""
    for word in ("Let", " me", " look"):
        delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": word}}
        turn.line(type="stream_event", event=delta, parent_tool_use_id=None)
        await asyncio.sleep(1)
    turn.text("Let me look.")
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "make <b>"}}
    turn.line(type="assistant", message={"content": [call]}, parent_tool_use_id=None)
    await asyncio.sleep(8)
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True}
    turn.line(type="user", message={"content": [result]}, parent_tool_use_id=None)
    await asyncio.sleep(8)
    turn.text("It fails.")
    turn.result("It fails.")


def test_what_a_stopped_turn_said_stays_where_it_was(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = works_for(100)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(5)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            await asyncio.sleep(2)
        said = shown(server)
        assert said[0] == "begun"
        assert len(said) == 3

    run(tmp_path, test, defaults=LIVE)


async def settled(rig: Rig, server: MemoryHomeserver, body: str, *, timeout_s: float = 100) -> None:
    async def check() -> bool:
        return body in shown(server)

    await rig.wait(check, timeout_s=timeout_s)


def test_one_message_grows_and_is_the_answer_in_the_end(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = typing
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(2)
            (first,) = shown(server)
            assert first.startswith("Let"), "a first sign within two seconds"
            await settled(rig, server, "Let me look.\n\nIt fails.")
        assert shown(server) == ["Let me look.\n\nIt fails."]
        forms = edits(server)
        assert any("`Bash: make <b>`" in form for form in forms), "what runs"
        assert any("1 ✗" in form for form in forms), "and how it ended"
        assert len(forms) >= 4
        for content in server.contents:
            assert content.get("m.mentions", {}) == {}, "nobody is pinged by any form"

    run(tmp_path, test, defaults=LIVE)


def test_an_answer_that_comes_at_once_is_one_message(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        async with rig.life() as life:
            await tell(rig, life, "hello")
            await settled(rig, server, "You said: hello")
        assert edits(server) == []

    run(tmp_path, test, defaults=LIVE)


def test_where_something_was_said_meanwhile_the_answer_stands_below_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(4)
            await tell(rig, life, "!cost")
            await settled(rig, server, "begun\n\nfinished")
            await asyncio.sleep(2)
        first, command, answer = shown(server)
        assert first == texts.BELOW
        assert "requests" in command
        assert answer == "begun\n\nfinished"
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test, defaults=LIVE)


@pytest.mark.parametrize("mode", ["final", "messages"])
def test_a_room_that_wants_no_edits_gets_none(tmp_path: Path, mode: str) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await asyncio.sleep(2)
        assert edits(server) == []
        assert shown(server) == (
            ["begun\n\nfinished"] if mode == "final" else ["begun", "finished"]
        )

    run(tmp_path, test, defaults={"stream": mode})


def test_nothing_grows_for_nobody(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(0.3)
            await rig.store.rooms.update((await rig.turns())[0].room_id, joined_members=1)
            await settled(rig, server, "begun\n\nfinished")
        assert edits(server) == []

    run(tmp_path, test, defaults=LIVE)


def test_an_account_without_messages_to_spare_gets_the_answer_alone(tmp_path: Path) -> None:
    """A stock homeserver whose burst is used up: nothing but answers leaves."""

    async def test(rig: Rig) -> None:
        server = rig.account = RateLimitedHomeserver()
        rig.claude.scripts["go"] = works_for(30)
        async with rig.life() as life:
            for number in range(14):
                await tell(rig, life, f"now {number}")
                await rig.wait_ended(number + 1)
            await tell(rig, life, "go")
            await settled(rig, server, "begun\n\nfinished", timeout_s=300)
        assert edits(server) == []
        assert len(shown(server)) == 15

    run(tmp_path, test, defaults=LIVE)


def test_edits_get_rarer_and_end(tmp_path: Path) -> None:
    assert step_s(0, 1) == 0.5
    assert step_s(MAX_EDITS, 1) == 5.0
    assert step_s(3, 4) == 4 * step_s(3, 1)
    assert sum(step_s(n, 1) for n in range(10)) < 20

    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()

        async def chatty(turn: Turn) -> None:
            for number in range(2500):
                delta = {"type": "text_delta", "text": f"{number} "}
                event = {"type": "content_block_delta", "delta": delta}
                turn.line(type="stream_event", event=event, parent_tool_use_id=None)
                await asyncio.sleep(0.5)
            turn.text("done with it")
            turn.result("done with it")

        rig.claude.scripts["go"] = chatty
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1, timeout_s=3000)
            await asyncio.sleep(2)
        assert len(edits(server)) == MAX_EDITS + 1, "and the answer"
        assert shown(server) == ["done with it"]

    run(tmp_path, test, defaults={**LIVE, "ceiling_s": 3000})


def test_a_turn_that_says_nothing_ends_in_its_place(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()

        async def silent(_: Turn) -> None:
            await asyncio.Event().wait()

        rig.claude.scripts["go"] = silent
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(5)
            assert shown(server) == [texts.WORKING]
            await rig.wait_ended(1, timeout_s=1000)
            await asyncio.sleep(2)
        (said,) = shown(server)
        assert "nothing came for 5 min" in said

    run(tmp_path, test, defaults=LIVE)


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_crash_at_any_step_leaves_one_message_with_the_answer(tmp_path: Path, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path, defaults=LIVE) as rig:
            server = rig.account = MemoryHomeserver()
            rig.claude.scripts["go"] = works_for(6)
            await rig.receive("go")
            async with rig.life(crash_at=step) as life:
                await rig.wait_ended(1, life=life)
            async with rig.life():
                await rig.wait_ended(1, timeout_s=60)
                await settled(rig, server, "begun\n\nfinished")
                await asyncio.sleep(2)
            assert shown(server) == ["begun\n\nfinished"], step
            assert rig.claude.asked == ["go"]

    run_rooms(main())
    assert audit(tmp_path) == ()


def test_another_agent_is_asked_by_the_answer_and_not_by_what_led_to_it(tmp_path: Path) -> None:
    """Its live message and the edits of it are no messages to this agent."""
    mark = {"turn": "t1", "asked": ["$x"], "part": 0, "final": False}
    live = {"msgtype": "m.text", "body": "⏳", "org.aiagentchat.turn": {**mark, "live": True}}
    relation = {"rel_type": "m.replace", "event_id": "$live"}
    edit = {**live, "m.new_content": {**live, "body": "half"}, "m.relates_to": relation}
    new = {"msgtype": "m.text", "body": "the question"}
    final = {
        **new,
        "body": "* the question",
        "m.new_content": new,
        "m.relates_to": relation,
        "org.aiagentchat.turn": {**mark, "final": True, "outcome": "done"},
    }

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for content in (live, edit, final):
                await rig.receive_event("m.room.message", content)
                life.notify()
            await rig.wait_ended(1)
            await asyncio.sleep(5)
        assert rig.claude.asked == ["the question"]

    run(tmp_path, test)
