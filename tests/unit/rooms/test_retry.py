"""`!retry`: what was taken back is not asked again, and whoever retries has it on their budget."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.going_on import build_prompt_again
from tests.support.memory_claude import ExitNow, Turn
from tests.support.room_rig import ALICE, Life, Rig
from tests.unit.rooms.scenario import audit, hang, hang_for_ever, run, tell, wait_running
from tests.unit.rooms.test_amending import busy, redact, send
from tests.unit.rooms.test_going_on import kill_runner
from tests.unit.rooms.test_people import say
from tests.unit.rooms.test_schedules import say as ask

BOB = "@bob:test"


async def crash(turn: Turn) -> None:
    turn.text("begun")
    await asyncio.sleep(1)
    raise ExitNow(3)


async def fail(rig: Rig, life: Life, *words: str) -> list[str]:
    """One turn of these messages, which fails."""
    rig.claude.scripts["go"] = crash
    events = [await rig.receive(text) for text in words]
    life.notify()
    await rig.wait_ended(1)
    del rig.claude.scripts["go"]
    return list(events)


def test_what_was_taken_back_after_it_failed_is_not_asked_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            (event,) = await fail(rig, life, "go, secret")
            await redact(rig, life, event)
            assert await say(rig, life, "!retry") == texts.RETRY_TAKEN_BACK
            await asyncio.sleep(10)
        assert len(rig.claude.asked) == 1

    run(tmp_path, test)


def test_what_was_taken_back_while_it_ran_is_not_asked_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang
        async with rig.life() as life:
            event = await tell(rig, life, "go, secret")
            await wait_running(rig)
            await redact(rig, life, event)
            await rig.wait_ended(1)
            assert await say(rig, life, "!retry") == texts.RETRY_TAKEN_BACK
            await asyncio.sleep(10)
        assert len(rig.claude.asked) == 1
        assert "secret" not in await rig.read()

    run(tmp_path, test)
    assert audit(tmp_path) == ()


def test_what_was_taken_back_while_it_ran_is_not_quoted_although_its_runner_is_lost(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang_for_ever
        async with rig.life() as life:
            event = await tell(rig, life, "go, secret")
            await wait_running(rig)
            await redact(rig, life, event)
        await kill_runner(rig)
        async with rig.life():
            await rig.wait_ended(1)
        assert "secret" not in await rig.read()
        assert await rig.outcomes() == ["cancelled"]

    run(tmp_path, test)


def test_what_was_taken_back_while_it_waited_is_not_said_to_be_old(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_running(rig)
            event = await tell(rig, life, "secret")
            await asyncio.sleep(3)
            await redact(rig, life, event)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(2)
            await rig.store.database.run(
                lambda db: db.execute("UPDATE turns SET ended_at = 1e12 WHERE prompt = ''")
            )
            assert await say(rig, life, "!retry") == texts.RETRY_TAKEN_BACK

    run(tmp_path, test)


def test_of_several_messages_only_what_is_left_is_asked_and_quoted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            events = await fail(rig, life, "go there", "secret", "and back")
            await redact(rig, life, events[1])
            said = await say(rig, life, "!retry")
            await rig.wait_ended(2)
        assert rig.claude.asked[-1] == build_prompt_again("go there\n\nand back")
        assert "secret" not in said
        first, second = await rig.turns()
        assert events[1] in first.asked
        assert events[1] not in second.asked

    run(tmp_path, test)
    assert audit(tmp_path) == ()


@pytest.mark.parametrize("keeps", ["the message", "the steer", "nothing"])
def test_what_went_into_the_turn_is_left_out_too(tmp_path: Path, keeps: str) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang
        async with rig.life() as life:
            event = await tell(rig, life, "go")
            await wait_running(rig)
            await asyncio.sleep(2)
            steer = await tell(rig, life, "!steer with care")
            await asyncio.sleep(3)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            for one, name in ((event, "the message"), (steer, "the steer")):
                if keeps != name:
                    await redact(rig, life, one)
            del rig.claude.scripts["go"]
            said = await say(rig, life, "!retry")
            if keeps != "nothing":
                await rig.wait_ended(2)
            await asyncio.sleep(10)
        left = {"the message": "go", "the steer": "with care"}.get(keeps)
        # The CLI that was stopped may have begun with what had reached it.
        again = [asked for asked in rig.claude.asked if asked not in ("go", "with care")]
        assert again == ([build_prompt_again(left)] if left else [])
        assert (said == texts.RETRY_TAKEN_BACK) is (left is None)

    run(tmp_path, test)


def test_a_retry_of_a_retry_leaves_it_out_too(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            events = await fail(rig, life, "go there", "and back")
            rig.claude.scripts["go"] = crash
            await say(rig, life, "!retry")
            await rig.wait_ended(2)
            await redact(rig, life, events[0])
            await say(rig, life, "!retry")
            await rig.wait_ended(3)
        assert rig.claude.asked[-1] == build_prompt_again("and back")

    run(tmp_path, test)


def test_of_a_schedules_turn_what_went_into_it_can_be_taken_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang
        async with rig.life() as life:
            await ask(rig, life, "!schedule in 10m go")
            await asyncio.sleep(620)
            steer = await tell(rig, life, "!steer with care")
            await asyncio.sleep(3)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            await redact(rig, life, steer)
            await say(rig, life, "!retry")
            await asyncio.sleep(10)
        assert rig.claude.asked[-1] == build_prompt_again("go")

    run(tmp_path, test)


# Whose it is...


def limited(turns: int) -> dict[str, Any]:
    access = {"admins": [ALICE], "users": [BOB]}
    return {"access": access, "defaults": {"budget": {"person_turns_per_day": turns}}}


def test_a_retry_is_the_turn_of_whoever_retries(tmp_path: Path) -> None:
    """Alice has used hers up: what Bob retries is none of hers, and then he has none left."""

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await fail(rig, life, "go")
            await say(rig, life, "!retry", BOB)
            await rig.wait_ended(2)
            assert [turn.sender for turn in await rig.turns()] == [ALICE, BOB]
            assert await rig.outcomes() == ["failed", "done"]
            await say(rig, life, "and this", BOB)
            await rig.wait_ended(3)
        assert len(rig.claude.asked) == 2
        assert "you have had the 1 turn" in (await rig.bodies())[-1]

    run(tmp_path, test, **limited(1))


def test_who_retries_needs_budget_left(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for count in (1, 2):
                await say(rig, life, "mine", BOB)
                await rig.wait_ended(count)
            rig.claude.scripts["go"] = crash
            await say(rig, life, "go", ALICE)
            await rig.wait_ended(3)
            await say(rig, life, "!retry", BOB)
            await rig.wait_ended(4)
        assert rig.claude.asked == ["mine", "mine", "go"]
        assert "you have had the 2 turns" in (await rig.bodies())[-1]
        assert await rig.outcomes() == ["done", "done", "failed", "refused"]

    run(tmp_path, test, **limited(2))


@pytest.mark.parametrize("crash_at", [None, *range(0, 24, 3)])
def test_a_retry_that_is_taken_back_while_it_waits_is_not_made_and_nothing_is_said(
    tmp_path: Path, crash_at: int | None
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await fail(rig, life, "go, one", "two")
            await busy(rig, life, seconds=200)
            await asyncio.sleep(3)
            retry = await send(rig, life, "!retry")
        before = await rig.bodies()
        await rig.receive_event("m.room.redaction", {"redacts": retry}, redacts=retry)
        async with rig.life(crash_at=crash_at) as life:

            async def is_over() -> bool:
                return life.points.crashed.is_set() or "new" not in [
                    state for state, _ in await rig.inbox_states()
                ]

            await rig.wait(is_over)
        async with rig.life() as life:
            await rig.wait_ended(3, timeout_s=400)
            await asyncio.sleep(5)
            assert rig.claude.asked == ["go, one\n\ntwo", "long"]
            assert (await rig.bodies())[len(before) :] == ["finished"]
            assert await rig.outcomes() == ["failed", "done", "cancelled"]
            await tell(rig, life, "!retry")
            await rig.wait_ended(4)
        assert rig.claude.asked[2:] == [build_prompt_again("go, one\n\ntwo")]

    run(tmp_path, test)
    assert audit(tmp_path) == ()


def test_a_schedules_retry_that_is_taken_back_can_be_given_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["Look"] = crash
        async with rig.life() as life:
            await ask(rig, life, "!schedule in 1m Look")
            await rig.wait_ended(1)
            del rig.claude.scripts["Look"]
            await busy(rig, life)
            await redact(rig, life, await send(rig, life, "!retry"))
            await rig.wait_ended(3)
            assert await rig.outcomes() == ["failed", "done", "cancelled"]
            await tell(rig, life, "!retry")
            await rig.wait_ended(4)
        assert "Look" in rig.claude.asked[-1]

    run(tmp_path, test)


def test_taking_back_an_earlier_retry_leaves_the_one_that_somebody_else_gave(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await fail(rig, life, "go, one")
            rig.claude.scripts["go"] = crash
            first = await tell(rig, life, "!retry")
            await rig.wait_ended(2)
            del rig.claude.scripts["go"]
            await busy(rig, life)
            await send(rig, life, "!retry", by=BOB)
            await redact(rig, life, first)
            await rig.wait_ended(4)
        assert await rig.outcomes() == ["failed", "failed", "done", "done"]

    run(tmp_path, test)
