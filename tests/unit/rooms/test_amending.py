"""A message that is changed or taken back: what waits is asked so, what runs is stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.piece import decode_pieces, encode_pieces
from orchestrator.core.policy import Message
from orchestrator.model import EventId, RoomId, UserId
from tests.support.room_rig import ALICE, Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, run, tell, works_for

BOB = "@bob:test"


def edit_of(target: str, body: str) -> dict[str, Any]:
    new = {"msgtype": "m.text", "body": body}
    relation = {"rel_type": "m.replace", "event_id": target}
    return {**new, "body": f"* {body}", "m.new_content": new, "m.relates_to": relation}


async def edit(rig: Rig, life: Life, target: str, body: str, *, by: str = ALICE) -> None:
    await rig.receive_event("m.room.message", edit_of(target, body), by)
    life.notify()
    await asyncio.sleep(1)


async def redact(rig: Rig, life: Life, target: str, *, by: str = ALICE) -> None:
    await rig.receive_event("m.room.redaction", {"redacts": target}, by, redacts=target)
    life.notify()
    await asyncio.sleep(1)


async def busy(rig: Rig, life: Life, *, seconds: float = 20) -> None:
    """A turn runs, so that what comes waits."""
    rig.claude.scripts["long"] = works_for(seconds)
    await tell(rig, life, "long")
    await rig.wait_body("begun")


async def send(rig: Rig, life: Life, text: str, *, by: str = ALICE) -> EventId:
    event = await rig.receive(text, sender=by)
    life.notify()
    await asyncio.sleep(2)
    return event


def test_an_edit_of_a_message_that_waits_changes_what_is_asked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await busy(rig, life)
            event = await send(rig, life, "frist")
            await edit(rig, life, event, "first")
            await edit(rig, life, event, "first of all")
            await rig.wait_ended(2)
            await edit(rig, life, event, "too late")
            await asyncio.sleep(5)
        assert rig.claude.asked == ["long", "first of all"]

    run(tmp_path, test)


def test_an_edit_within_the_moment_of_sending_counts(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            event = await rig.receive("frist")
            await rig.receive_event("m.room.message", edit_of(event, "first"))
            life.notify()
            await rig.wait_ended(1)
        assert rig.claude.asked in (["first"], ["frist"]), "asked once, in one of its forms"

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "by"), [("somebody else's", BOB), ("!cancel", ALICE), ("", ALICE), ("  ", ALICE)]
)
def test_what_is_no_edit_of_ones_own_words_changes_nothing(
    tmp_path: Path, body: str, by: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await busy(rig, life)
            event = await send(rig, life, "first")
            await edit(rig, life, event, body, by=by)
            await edit(rig, life, "$unknown", "of another room", by=by)
            await rig.wait_ended(2)
        assert rig.claude.asked == ["long", "first"]
        assert len(await rig.bodies()) == 4, "begun, one waits, finished, an answer"

    run(tmp_path, test)


def test_a_message_that_is_taken_back_while_it_waits_is_not_asked_and_nothing_is_said(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await busy(rig, life)
            event = await send(rig, life, "never mind")
            await redact(rig, life, event, by="@moderator:test")
            before = await rig.bodies()
            await rig.wait_ended(2)
            await asyncio.sleep(5)
        assert rig.claude.asked == ["long"]
        assert (await rig.bodies())[len(before) :] == ["finished"]
        assert await rig.outcomes() == ["done", "cancelled"]
        assert all("never mind" not in turn.prompt for turn in await rig.turns())

    run(tmp_path, test)
    assert audit(tmp_path) == ()


def test_of_a_burst_one_message_is_left_out(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await busy(rig, life)
            events = [await rig.receive(text) for text in ("one", "two", "three")]
            life.notify()
            await asyncio.sleep(3)
            await redact(rig, life, events[1])
            await edit(rig, life, events[2], "four")
            await rig.wait_ended(2)
        assert rig.claude.asked == ["long", "one\n\nfour"]

    run(tmp_path, test)


def test_a_message_that_is_taken_back_while_it_runs_stops(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = works_for(200)
        async with rig.life() as life:
            event = await rig.receive("long")
            life.notify()
            await rig.wait_body("begun")
            await redact(rig, life, event)
            await rig.wait_ended(1, timeout_s=20)
        assert [str(turn.outcome) for turn in await rig.turns()] == ["cancelled"]

    run(tmp_path, test)


@pytest.mark.parametrize("is_running", [True, False])
def test_in_another_room_nothing_follows_for_this_rooms_messages(
    tmp_path: Path, *, is_running: bool
) -> None:
    """Not every homeserver checks that a redaction is of the room that it is sent in."""

    async def test(rig: Rig) -> None:
        other = RoomId("!other:test")
        async with rig.life() as life:
            await busy(rig, life)
            event = (await rig.turns())[0].asked[0] if is_running else await send(rig, life, "mine")
            await rig.receive_event("m.room.redaction", {"redacts": event}, room=other)
            await rig.receive_event("m.room.message", edit_of(event, "theirs"), room=other)
            life.notify()
            await rig.wait_ended(1 if is_running else 2)
        assert rig.claude.asked == (["long"] if is_running else ["long", "mine"])
        assert set(await rig.outcomes()) == {"done"}

    run(tmp_path, test)


def test_where_the_room_wishes_it_a_new_message_stops_what_runs(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = works_for(200)
        async with rig.life() as life:
            await tell(rig, life, "long")
            await rig.wait_body("begun")
            await send(rig, life, "rather this")
            await rig.wait_ended(2, timeout_s=30)
        assert rig.claude.asked == ["long", "rather this"]
        assert [str(turn.outcome) for turn in await rig.turns()] == ["cancelled", "done"]

    run(tmp_path, test, defaults={"while_running": "interrupt"})


def test_what_was_redacted_before_it_was_heard_is_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.receive_event("m.room.message", {})
            await send(rig, life, "hello")
            await rig.wait_ended(1)
        assert await rig.bodies() == ["You said: hello"]

    run(tmp_path, test)


@pytest.mark.parametrize("step", range(0, 24, 2))
@pytest.mark.parametrize("kind", ["edit", "redact"])
def test_a_crash_at_any_step_lets_it_count_once(tmp_path: Path, kind: str, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            async with rig.life() as life:
                await busy(rig, life, seconds=200)
                event = await send(rig, life, "first")
            if kind == "edit":
                await rig.receive_event("m.room.message", edit_of(event, "second"))
            else:
                await rig.receive_event("m.room.redaction", {"redacts": event})
            async with rig.life(crash_at=step) as life:

                async def is_over() -> bool:
                    return life.points.crashed.is_set() or "new" not in [
                        state for state, _ in await rig.inbox_states()
                    ]

                await rig.wait(is_over)
            async with rig.life():
                await rig.wait_ended(2, timeout_s=400)
            assert rig.claude.asked == (["long", "second"] if kind == "edit" else ["long"])

    run_rooms(main())


messages = st.lists(
    st.builds(
        Message,
        event_id=st.text(max_size=5).map(EventId),
        sender=st.sampled_from([UserId(ALICE), UserId(BOB)]),
        text=st.text(max_size=20),
        name=st.none() | st.text(max_size=5),
    ),
    max_size=4,
)


@given(messages, st.booleans())
def test_pieces_are_what_they_were_when_they_are_read_again(
    found: list[Message], named: bool
) -> None:
    pieces = decode_pieces(encode_pieces(found, name_senders=named))
    assert list(pieces.messages) == found
    for message in found:
        assert message not in pieces.without(message.event_id).messages
