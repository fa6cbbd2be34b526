"""Commands take effect once, whatever ends in between, and on the turn that was meant."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.core import texts
from orchestrator.model import JsonObject
from orchestrator.store.api import InboxKind
from tests.support.room_rig import ALICE, ROOM, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, crash_or_end, hang, run, tell, works_for


async def receive_sealed(rig: Rig, text: str) -> None:
    """A message whose key has not come."""
    content: JsonObject = {"msgtype": "m.text", "body": text}
    clear: JsonObject = {"type": "m.room.message", "sender": ALICE, "content": content}
    await rig.receive_event("m.room.encrypted", {"key": "k1", "clear": clear})


async def receive_key(rig: Rig) -> None:
    await rig.receive_row(InboxKind.TO_DEVICE, {"key": "k1", "room_id": ROOM})


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.24])
def test_cancel_meets_a_message_that_is_still_being_collected(
    tmp_path: Path, delay_s: float
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "oh, this is not what I")
            await asyncio.sleep(delay_s)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1, timeout_s=5)
            await tell(rig, life, "meant")
            await rig.wait_ended(2)
        assert await rig.bodies() == [texts.CANCEL_ASKED, "Cancelled.", "You said: meant"]
        assert await rig.outcomes() == ["cancelled", "done"]
        assert rig.claude.asked == ["meant"]

    run(tmp_path, test)


def test_cancel_in_a_burst_concerns_what_was_sent_before_it_alone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for text in ("one", "!cancel", "two"):
                await rig.receive(text)
            life.notify()
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["cancelled", "done"]
        assert rig.claude.asked == ["two"]

    run(tmp_path, test)


def test_a_cancel_that_was_read_late_does_not_stop_what_came_after_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await receive_sealed(rig, "!cancel")
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            await receive_key(rig)
            life.notify()
            await rig.wait_ended(1)
        assert await rig.bodies() == ["begun", texts.CANCEL_NOTHING, "finished"]

    run(tmp_path, test)


def test_a_second_cancel_does_not_stop_the_turn_behind(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "behind")
            await rig.wait_body("Queued")
            for _ in range(3):
                await rig.receive("!cancel")
            life.notify()
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["cancelled", "done"]

    run(tmp_path, test)


def test_a_turn_that_runs_goes_on_before_an_earlier_message_that_was_decrypted_late(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await receive_sealed(rig, "sealed")
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            await receive_key(rig)
            life.notify()
            await rig.wait_body("Queued")
        async with rig.life():
            await rig.wait_ended(2)
        assert rig.claude.asked == ["work", "sealed"]
        assert (await rig.bodies())[-2:] == ["finished", "You said: sealed"]
        assert len(rig.shims) == 1

    run(tmp_path, test)


async def cancel_and_crash(folder: Path, crash_at: int) -> int:
    """A turn hangs, another waits behind; the life that reads `!cancel` ends at that step."""
    async with open_rig(folder) as rig:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "behind")
            await rig.wait_body("Queued")
        await rig.receive("!cancel")
        async with rig.life(crash_at=crash_at) as life:
            count = await crash_or_end(rig, life, ends=2)
        async with rig.life():
            await rig.wait_ended(2, timeout_s=60)
        assert await rig.outcomes() == ["cancelled", "done"], crash_at
        assert (await rig.bodies()).count(texts.CANCEL_ASKED) == 1, crash_at
        assert audit(folder) == (), crash_at
        return count


def test_a_cancel_that_a_crash_repeats_never_stops_a_later_turn(tmp_path: Path) -> None:
    steps = run_rooms(cancel_and_crash(tmp_path / "none", 0))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        run_rooms(cancel_and_crash(tmp_path / str(crash_at), crash_at))


async def begin_anew_and_crash(folder: Path, crash_at: int) -> int:
    async with open_rig(folder) as rig:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        await rig.receive("!new")
        await rig.receive("two")
        async with rig.life(crash_at=crash_at) as life:
            count = await crash_or_end(rig, life, ends=2)
        async with rig.life() as life:
            await rig.wait_ended(2, timeout_s=60)
            await tell(rig, life, "three")
            await rig.wait_ended(3)
        assert [len(uuids) for uuids in rig.claude.conversations.values()] == [1, 2], crash_at
        assert sum("new conversation" in body for body in await rig.bodies()) == 1, crash_at
        return count


def test_a_new_conversation_begins_once_whatever_step_of_it_a_crash_meets(tmp_path: Path) -> None:
    steps = run_rooms(begin_anew_and_crash(tmp_path / "none", 0))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        run_rooms(begin_anew_and_crash(tmp_path / str(crash_at), crash_at))


async def cancel_an_interrupted_turn(folder: Path, delay_s: float) -> list[str]:
    async with open_rig(folder, defaults={"on_interrupt": "resume"}) as rig:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await rig.receive("!cancel")
            info = await rig.info()
            assert info is not None
            if delay_s < 0:
                life.notify()
                await asyncio.sleep(-delay_s)
            await rig.backend.stop(info.name, grace_s=0)
            await asyncio.sleep(max(0.0, delay_s))
            life.notify()

            async def is_over() -> bool:
                return bool(await rig.outcomes())

            await rig.wait(is_over, timeout_s=20)
            await asyncio.sleep(60)
        return await rig.outcomes()


def test_a_cancel_also_stops_what_goes_on_after_an_interruption(tmp_path: Path) -> None:
    for number in range(-20, 40):
        delay_s = number / 200
        outcomes = run_rooms(cancel_an_interrupted_turn(tmp_path / str(number), delay_s))
        assert outcomes == ["cancelled"], delay_s
