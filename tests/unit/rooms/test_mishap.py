"""A message that can't be handled ends in words, once, whatever is killed when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.model import EventId
from orchestrator.store.api import InboxKind
from tests.support.room_rig import ALICE, ME, ROOM, MemoryEncryption, Rig
from tests.unit.rooms.scenario import run

STRANGER = "@stranger:else"
Receive = Callable[[Rig], Coroutine[Any, Any, EventId]]
DEEP: Any = "deepest"
for _ in range(300):  # what the strict reader refuses, and a homeserver accepts
    DEEP = [DEEP]


@dataclass(slots=True)
class BrokenEncryption(MemoryEncryption):
    """Has a bug that every encrypted event meets."""

    error: Exception = field(default_factory=lambda: KeyError("a message's text"))

    async def decrypt(self, raw: str, room_id: str) -> str:
        raise self.error


async def settle(rig: Rig) -> None:
    async def nothing_new() -> bool:
        return all(state not in ("new", "pending_keys") for state, _ in await rig.inbox_states())

    await rig.wait(nothing_new)


async def replies(rig: Rig) -> list[tuple[str, Any]]:
    """What was said, and in reply to what."""
    return [
        (str(c["body"]), c["m.relates_to"]["m.in_reply_to"]["event_id"])  # type: ignore[index,call-overload] # as JSON as it is
        for c in await rig.said()
        if "m.relates_to" in c
    ]


def test_a_message_whose_handling_fails_is_told_and_its_neighbours_are_answered(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.encryption = BrokenEncryption()
        event_id = await rig.receive_event("m.room.encrypted", {"key": "k"})
        await rig.receive("and me?")
        async with rig.life():
            await rig.wait_ended(1)
        assert await replies(rig) == [(texts.not_handled("KeyError"), event_id)]
        assert ("failed", "KeyError") in await rig.inbox_states()
        assert "You said: and me?" in await rig.bodies()
        assert "a message's text" not in str(await rig.said())

    run(tmp_path, test)


def at_each_step(tmp_path: Path, receive: Receive, expected: str) -> None:
    """End a life at its first step, its second, … until one does not get so far."""
    steps = 0
    for crash_at in range(1, 200):
        folder = tmp_path / str(crash_at)

        async def test(rig: Rig, crash_at: int = crash_at) -> None:
            nonlocal steps
            event_id = await receive(rig)
            async with rig.life(crash_at=crash_at) as life:
                await asyncio.sleep(5)
                steps = life.points.count
            async with rig.life():
                await settle(rig)
            assert await replies(rig) == [(expected, event_id)], f"ended at step {crash_at}"

        run(folder, test)
        if steps < crash_at:
            break
    assert 10 < steps < 199


def test_it_is_told_once_wherever_a_life_ends(tmp_path: Path) -> None:
    async def receive(rig: Rig) -> EventId:
        rig.encryption = BrokenEncryption()
        return await rig.receive_event("m.room.encrypted", {"key": "k"})

    at_each_step(tmp_path, receive, texts.not_handled("KeyError"))


def test_a_stranger_is_told_once_wherever_a_life_ends(tmp_path: Path) -> None:
    async def receive(rig: Rig) -> EventId:
        first = await rig.receive("let me in", sender=STRANGER)
        await rig.receive("do let me in", sender=STRANGER)
        return first

    at_each_step(tmp_path, receive, texts.NOT_ALLOWED)


@pytest.mark.parametrize("sender", [STRANGER, ME])
def test_whom_nothing_is_owed_is_told_nothing(tmp_path: Path, sender: str) -> None:
    async def test(rig: Rig) -> None:
        rig.encryption = BrokenEncryption()
        await rig.receive_event("m.room.encrypted", {"key": "k"}, sender)
        async with rig.life():
            await settle(rig)
        assert await rig.said() == []
        assert await rig.inbox_states() == [("failed", "KeyError")]

    run(tmp_path, test)


def test_what_was_received_beside_the_timeline_is_marked_and_not_told(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.encryption = BrokenEncryption()
        state = {"type": "m.room.encryption", "sender": ALICE, "event_id": "$s", "content": DEEP}
        await rig.receive_row(InboxKind.STATE, state, ROOM, EventId("$s"))
        named = {"type": "m.room.name", "sender": ALICE, "state_key": "", "content": DEEP}
        await rig.receive_row(InboxKind.TIMELINE, named, ROOM, EventId("$n"))
        async with rig.life():
            await settle(rig)
        assert await rig.said() == []
        assert await rig.inbox_states() == [("failed", "ValidationError")] * 2

    run(tmp_path, test)


def test_an_event_that_the_strict_reader_refuses_is_told_to_its_sender(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        content = {"msgtype": "m.text", "body": "hello", "extra": DEEP}
        event_id = await rig.receive_event("m.room.message", content)
        async with rig.life():
            await settle(rig)
        assert await replies(rig) == [(texts.not_handled("ValidationError"), event_id)]

    run(tmp_path, test)


@pytest.mark.parametrize(
    "raw", ["{", "[]", "null", "[" * 20_000, '{"sender": 5}', '{"sender": "@"}']
)
def test_what_nothing_can_be_read_of_is_marked_as_unreadable(tmp_path: Path, raw: str) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_row(InboxKind.TIMELINE, raw, ROOM, EventId("$x"))
        async with rig.life():
            await settle(rig)
        assert await rig.said() == []
        assert await rig.inbox_states() == [("failed", "unreadable: ValidationError")]

    run(tmp_path, test)


MALFORMED: list[Any] = [
    {"body": "no type"},
    {"msgtype": "m.text", "body": 5},
    {"msgtype": "m.text", "body": "hello", "m.mentions": {"user_ids": "everybody"}},
    {"msgtype": 5, "body": "hello"},
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_message_is_told_to_who_may_ask_and_strangers_are_strangers(
    tmp_path: Path, content: Any
) -> None:
    async def test(rig: Rig) -> None:
        event_id = await rig.receive_event("m.room.message", content)
        other = await rig.receive_event("m.room.message", content, STRANGER)
        await rig.receive_event("m.room.message", content, ME)
        async with rig.life():
            await settle(rig)
        assert await replies(rig) == [(texts.MALFORMED, event_id), (texts.NOT_ALLOWED, other)]
        assert await rig.turns() == []

    run(tmp_path, test)


@pytest.mark.parametrize("content", [{}, {"msgtype": "m.notice", "body": 5}])
def test_a_redacted_message_and_a_bots_words_are_not_answered(tmp_path: Path, content: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.message", content)
        async with rig.life():
            await settle(rig)
        assert await rig.said() == []

    run(tmp_path, test)


def test_a_row_that_something_came_of_is_not_marked_as_failed_behind_it(tmp_path: Path) -> None:
    """An error after the answer was stored: the answer is what its sender reads."""

    async def test(rig: Rig) -> None:
        await rig.receive("!help")
        async with rig.life() as life:

            def fail() -> None:
                raise KeyError

            object.__setattr__(life.manager._kit, "notify_outbox", fail)
            await settle(rig)
        assert await rig.inbox_states() == [("used", "command")]
        assert len(await rig.said()) == 1

    run(tmp_path, test)


@pytest.mark.parametrize("times", [1, 99])
def test_messages_that_can_not_become_a_turn_are_told_and_the_room_goes_on(
    tmp_path: Path, times: int
) -> None:
    async def test(rig: Rig) -> None:
        first, second = await rig.receive("one"), await rig.receive("two")
        async with rig.life() as life:
            turns = life.manager._kit.store.turns
            admit, calls = turns.admit, 0

            async def fail(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls <= times:
                    raise KeyError
                return await admit(*args, **options)

            turns.admit = fail  # type: ignore[method-assign] # what breaks, and is mended
            await settle(rig)
            await asyncio.sleep(200)
            assert calls == 1
            turns.admit = admit  # type: ignore[method-assign] # what breaks, and is mended
            await rig.receive("three")
            life.notify()
            await rig.wait_ended(1)
        text = texts.not_handled("KeyError")
        assert await replies(rig) == [(text, first), (text, second)]
        assert (await rig.bodies())[-1] == "You said: three"

    run(tmp_path, test)
