"""A flood of messages: each ends, the room is told once, and other rooms notice nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.model import RoomId
from orchestrator.rooms.flood import MOST_WAITING_NOTICES
from orchestrator.rooms.outgoing import TURN_KEY
from tests.support.inbox import new_rows
from tests.support.room_rig import ALICE, ROOM, Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import hang, run, tell

OTHER = RoomId("!other:test")
TOO_FAST = texts.too_fast(60, 30)
FOREIGNER = "@alice:elsewhere"


async def final_marks(rig: Rig, room: RoomId = ROOM) -> Counter[str]:
    """How often each message that asked was told its end."""
    marks: list[Any] = [content.get(TURN_KEY) for content in await rig.said(room)]
    return Counter(event for mark in marks if mark and mark["final"] for event in mark["asked"])


async def send_all(rig: Rig) -> None:
    """What waits is sent, as a homeserver without a limit takes it."""
    await rig.store.database.run(lambda db: db.execute("UPDATE outbox SET state = 'sent'"))


async def waiting(rig: Rig) -> int:
    return len(await new_rows(rig.store))


def test_of_a_thousand_messages_each_ends_once_and_the_room_is_told_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        events = [await rig.receive(f"message {i}") for i in range(1000)]
        asked = await rig.receive("and here?", room=OTHER)
        async with rig.life():
            await rig.wait_body("and here?", room=OTHER, timeout_s=5)
            await asyncio.sleep(30)
            assert await waiting(rig) == 0
            for _ in range(5):
                await asyncio.sleep(30)
                await send_all(rig)
        bodies = await rig.bodies()
        assert bodies.count(TOO_FAST) == 1
        assert "message 59" in rig.claude.asked[-1] or "message 59" in rig.claude.asked[-2]
        assert await final_marks(rig) == Counter(events)
        assert await final_marks(rig, OTHER) == Counter([asked])
        assert Counter(state for state, _ in await rig.inbox_states()) == Counter(used=1001)
        # Two batches of the 60 that were taken, the message, and two events that name the others.
        assert len(await rig.said()) <= 8

    run(tmp_path, test)


def test_the_message_says_what_to_do_and_is_a_reply_to_the_first_that_was_left_out(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        events = [await rig.receive(f"message {i}") for i in range(5)]
        async with rig.life():
            await rig.wait_body("too fast")
        (told,) = [c for c in await rig.said() if "too fast" in str(c.get("body"))]
        assert told["m.relates_to"] == {"m.in_reply_to": {"event_id": events[2]}}
        mark: Any = told[TURN_KEY]
        assert (mark["asked"], mark["outcome"], mark["final"]) == ([events[2]], "refused", True)
        assert told["body"] == texts.too_fast(2, 30)

    run(tmp_path, test, gateway={"sender_burst": 2})


def test_a_flood_is_told_again_after_a_quiet_minute_and_another_sender_is_not_held_to_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async def flood() -> None:
            for i in range(10):
                await tell(rig, life, f"message {i}")

        async with rig.life() as life:
            for _ in range(4):
                await flood()
                await asyncio.sleep(20)
            await rig.receive("me", sender="@bob:test")
            await asyncio.sleep(100)
            await flood()
            await asyncio.sleep(20)
        assert (await rig.bodies()).count(texts.too_fast(2, 1)) == 2
        assert any("me" in asked for asked in rig.claude.asked)

    run(tmp_path, test, gateway={"sender_burst": 2, "sender_per_minute": 1})


def test_cancel_goes_through_a_flood_and_adds_nothing_to_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            for _ in range(100):
                await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            for _ in range(100):
                await tell(rig, life, "!help")
            await asyncio.sleep(5)
        bodies = await rig.bodies()
        assert "Cancelled." in bodies
        assert len(bodies) <= 6
        assert {state for state, _ in await rig.inbox_states()} == {"used"}

    run(tmp_path, test, gateway={"sender_burst": 1, "sender_per_minute": 1})


def test_commands_are_not_answered_faster_than_the_answers_can_be_sent(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for i in range(50):
                await tell(rig, life, "!help" if i % 2 else "!no-such-command")
            await tell(rig, life, "hello")
            await rig.wait_body("You said: hello")
            assert len(await rig.said()) <= MOST_WAITING_NOTICES + 2
            assert (await rig.bodies()).count(texts.TOO_MUCH_TO_SAY) == 1
            await send_all(rig)
            await tell(rig, life, "!help")
            await asyncio.sleep(100)
        assert (await rig.bodies())[-1].startswith("**Conversation**")
        assert await waiting(rig) == 0

    run(tmp_path, test)


def test_a_full_queue_is_told_once_and_every_refused_turn_gets_its_end(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        senders = [f"@user{i}:test" for i in range(60)]
        events = [await rig.receive("hang", sender=sender) for sender in senders]
        async with rig.life():
            await asyncio.sleep(5)
            await send_all(rig)
            await asyncio.sleep(100)
        assert (await rig.bodies()).count(texts.queue_full(3)) == 1
        marks = await final_marks(rig)
        assert set(marks.values()) == {1}
        assert set(events) - set(marks) == set(events[:4])
        refused = [t for t in await rig.turns() if t.outcome == "refused"]
        assert sum(len(t.asked) for t in refused) == 56

    run(
        tmp_path,
        test,
        access={"users": ["@user*:test"]},
        gateway={"max_queued_turns": 3},
        defaults={"trigger": "all"},
    )


def test_what_was_collected_before_a_crash_gets_its_end_from_the_next_life(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        events = [await rig.receive(f"message {i}") for i in range(300)]
        async with rig.life():
            await rig.wait(lambda: _none_waits(rig))
        assert set(await final_marks(rig)) < set(events)
        async with rig.life():
            for _ in range(5):
                await asyncio.sleep(30)
                await send_all(rig)
        assert await final_marks(rig) == Counter(events)

    async def _none_waits(rig: Rig) -> bool:
        return await waiting(rig) == 0

    run(tmp_path, test)


@pytest.mark.parametrize("crash_at", range(1, 40, 3))
def test_wherever_a_flood_is_cut_each_message_ends_once(tmp_path: Path, crash_at: int) -> None:
    async def test(rig: Rig) -> None:
        events = [await rig.receive(f"message {i}") for i in range(12)]
        async with rig.life(crash_at=crash_at) as life:
            async with asyncio.timeout(5):
                await life.points.crashed.wait()
        for _ in range(3):
            async with rig.life():
                await asyncio.sleep(100)
                await send_all(rig)
        assert await final_marks(rig) == Counter(events)

    run(tmp_path, test, gateway={"sender_burst": 3, "sender_per_minute": 1})


@pytest.mark.parametrize(("sender", "taken"), [(ALICE, 200), (FOREIGNER, 60)])
def test_what_gathered_over_hours_is_no_flood_by_the_word_of_our_own_homeserver(
    tmp_path: Path, sender: str, taken: int
) -> None:
    async def test(rig: Rig) -> None:
        for i in range(200):
            sent_ms = int((loop_clock() - 3600 * (200 - i)) * 1000)
            content: Any = {"msgtype": "m.text", "body": f"message {i}"}
            await rig.receive_event("m.room.message", content, sender, origin_server_ts=sent_ms)
        async with rig.life():
            await asyncio.sleep(60)
        assert sum(asked.count("message") for asked in rig.claude.asked) == taken

    run(tmp_path, test, access={"users": [ALICE, FOREIGNER]})


@pytest.mark.parametrize("ts", [True, -5, 1e300, "now", None, 10**400, {"a": 1}])
def test_a_time_that_is_none_spoils_nothing(tmp_path: Path, ts: Any) -> None:
    async def test(rig: Rig) -> None:
        content: Any = {"msgtype": "m.text", "body": "hello"}
        await rig.receive_event("m.room.message", content, origin_server_ts=json.loads("1"))
        await rig.receive_event("m.room.message", content, origin_server_ts=ts)
        async with rig.life():
            await rig.wait_ended(1)
        assert rig.claude.asked == ["hello\n\nhello"]

    run(tmp_path, test)


def test_a_room_that_floods_delays_anothers_message_by_a_few_of_its_own(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        order: list[RoomId | None] = []
        for i in range(500):
            await rig.receive(f"message {i}")
        async with rig.life() as life:
            handle = life.intake._handle

            async def note(row: Any) -> None:
                order.append(row.room_id)
                if len(order) == 100:
                    await rig.receive("and here?", room=OTHER)
                await handle(row)

            life.intake._handle = note  # type: ignore[method-assign] # it passes on to the real one
            await asyncio.sleep(30)
        assert 100 <= order.index(OTHER) <= 108
        assert len(order) == 501

    run(tmp_path, test)
