"""Signs on the message that asked: seen, then how it ended; left out before they delay anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.core.texts import mark as texts
from orchestrator.model import EventId
from orchestrator.rooms.mark import MAX_OF_TURN
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver, RateLimitedHomeserver
from tests.support.room_rig import ROOM, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import hang, run, tell, works_for

DAY = 86_400.0


async def failing(turn: Turn) -> None:
    turn.result("it broke", is_error=True)


def signs(server: MemoryHomeserver) -> list[tuple[str, str]]:
    """The signs that the homeserver has, by the message that they are on."""
    relations = [cast("Any", c.get("m.relates_to", {})) for c in server.contents]
    return [(r["event_id"], r["key"]) for r in relations if r.get("rel_type") == "m.annotation"]


async def settle(rig: Rig, count: int) -> None:
    async def check() -> bool:
        return len(rig.marks) >= count

    await rig.wait(check)


def test_a_message_is_marked_as_seen_and_then_as_done(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = works_for(3)
        async with rig.life() as life:
            asked = await rig.receive("go")
            life.notify()
            await settle(rig, 1)
            assert rig.marks == [(asked, texts.ACCEPTED)]
            await rig.wait_ended(1)
            await settle(rig, 2)
        assert rig.marks == [(asked, texts.ACCEPTED), (asked, texts.DONE)]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("word", "sign"), [("fails", texts.FAILED), ("hangs", texts.TIMED_OUT), ("stops", "🛑")]
)
def test_each_end_has_its_sign(tmp_path: Path, word: str, sign: str) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["fails"] = failing
        rig.claude.scripts["hangs"] = hang
        rig.claude.scripts["stops"] = hang
        async with rig.life() as life:
            asked = await rig.receive(word)
            life.notify()
            await rig.wait_body("working" if word != "fails" else "broke")
            if word == "stops":
                await tell(rig, life, "!cancel")
            await rig.wait_ended(1, timeout_s=1000)
            await settle(rig, 2)
        assert rig.marks == [(asked, texts.ACCEPTED), (asked, sign)]

    run(tmp_path, test)


def test_of_many_messages_that_are_one_turn_the_last_ten_are_marked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            asked = [await rig.receive(f"part {i}") for i in range(MAX_OF_TURN + 3)]
            life.notify()
            await rig.wait_ended(1)
            await asyncio.sleep(5)
        (turn,) = await rig.turns()
        assert turn.asked == tuple(asked)
        done = [event for event, sign in rig.marks if sign == texts.DONE]
        assert done == asked[-MAX_OF_TURN:]

    run(tmp_path, test)


def test_what_can_not_be_spared_is_left_out_and_never_sent_later(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await asyncio.sleep(60)
            rig.may_show = lambda _: True
            await asyncio.sleep(60)
            assert rig.marks == []
            assert repr(life.manager._marks) == "<Marks waiting=0>"
            assert len(await rig.outcomes()) == 1

    run(tmp_path, test)


def test_an_end_that_comes_before_the_first_sign_left_takes_its_place(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        async with rig.life() as life:
            asked = await rig.receive("go")
            life.notify()
            await rig.wait_ended(1)
            rig.may_show = lambda _: True
            await asyncio.sleep(10)
        assert rig.marks == [(asked, texts.DONE)]

    run(tmp_path, test)


def test_a_message_that_is_refused_or_a_command_gets_no_sign(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = works_for(50)
        async with rig.life() as life:
            first = await rig.receive("long")
            life.notify()
            await rig.wait_body("begun")
            second = await rig.receive("next")
            life.notify()
            await settle(rig, 2)
            await tell(rig, life, "one too many")
            await tell(rig, life, "!status")
            await rig.wait_body("Runner:")
            await asyncio.sleep(20)
        assert {event for event, _ in rig.marks} == {first, second}

    run(tmp_path, test, gateway={"max_queued_turns": 1})


def test_a_message_that_is_taken_up_again_by_itself_is_marked_when_that_has_ended(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = hang
        async with rig.life() as life:
            asked = await rig.receive("go")
            life.notify()
            await rig.wait_body("working")
            del rig.claude.scripts["go"]
            info = await rig.info()
            assert info is not None
            await rig.backend.remove(info.name)
            await rig.wait_ended(2)
            await asyncio.sleep(5)
        assert rig.marks == [(asked, texts.ACCEPTED), (asked, texts.DONE)]

    run(tmp_path, test, defaults={"on_interrupt": "resume"})


@pytest.mark.parametrize("step", [*range(1, 90, 4)])
def test_a_sign_is_there_once_wherever_a_life_ends(tmp_path: Path, step: int) -> None:
    async def test(rig: Rig) -> None:
        rig.account = MemoryHomeserver()
        rig.claude.scripts["go"] = works_for(3)
        asked = await rig.receive("go")
        async with rig.life(crash_at=step) as life:
            life.notify()
            await asyncio.sleep(8)
        async with rig.life() as life:
            life.notify()
            await rig.wait_ended(1)
            await asyncio.sleep(8)
        found = Counter(signs(rig.account))
        assert set(found) <= {(asked, texts.ACCEPTED), (asked, texts.DONE)}
        assert set(found.values()) <= {1}
        assert len(await rig.outcomes()) == 1

    run(tmp_path, test)


def test_signs_delay_no_answer_at_the_limit_of_a_stock_homeserver(tmp_path: Path) -> None:
    async def finals(folder: Path, *, with_signs: bool) -> list[float]:
        times: list[float] = []

        async def test(rig: Rig) -> None:
            rig.account = RateLimitedHomeserver()
            async with rig.life() as life:
                if not with_signs:
                    life.manager._marks._wish = lambda *_, **__: None  # type: ignore[method-assign]
                for i in range(30):
                    await tell(rig, life, f"question {i}")
                    await asyncio.sleep(6)
                await asyncio.sleep(60)
            bodies = rig.account.bodies(ROOM)
            assert sum(isinstance(b, str) and "question" in b for b in bodies) == 30
            known = list(rig.account.known)
            at = {txn: when for when, _, txn in rig.account.requests}
            times.extend(
                at[txn] for txn, c in zip(known, rig.account.contents, strict=True) if "body" in c
            )

        async with open_rig(folder) as rig:
            await test(rig)
        return times

    with_signs = run_rooms(finals(tmp_path / "with", with_signs=True))
    without = run_rooms(finals(tmp_path / "without", with_signs=False))
    assert len(with_signs) == len(without)
    late = [a - b for a, b in zip(with_signs, without, strict=True)]
    # Before the limit is known an answer may meet it; from then on none waits for signs.
    assert max(late) < 6
    assert max(late[10:]) < 1


def test_a_sign_on_a_sign_of_a_person_means_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            relation = {"rel_type": "m.annotation", "event_id": EventId("$e1"), "key": texts.DONE}
            await rig.receive_event(
                "m.reaction", cast("Any", {"m.relates_to": relation}), sender="@agent:test"
            )
            life.notify()
            await asyncio.sleep(5)
            assert await rig.inbox_states() == [("ignored", "reaction")]

    run(tmp_path, test)
