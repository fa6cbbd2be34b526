"""A message into a running turn: taken in or worked on right after, asked once, lost never."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.core.texts import SESSION_LOST
from orchestrator.core.texts import conversation as texts
from orchestrator.model import TurnId
from orchestrator.store.steer_table import Steer, SteerTable
from tests.support.memory_claude import Script, Turn
from tests.support.room_rig import Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, hang, run, running, tell, wait_running, works_for
from tests.unit.rooms.test_amending import redact

STEERS = {"while_running": "steer"}


async def takes_in(turn: Turn) -> None:
    """A tool that runs for 10 s; what came by then is read."""
    turn.text("begun")
    await asyncio.sleep(10)
    words = turn.take_in()
    turn.text(f"read: {words}")
    await asyncio.sleep(5)
    turn.text("finished")
    turn.result("finished")


async def begin(rig: Rig, life: Life) -> None:
    await tell(rig, life, "work")
    await wait_running(rig)
    await asyncio.sleep(2)


@pytest.mark.parametrize("is_command", [True, False])
def test_it_is_taken_in_and_the_turn_is_one(tmp_path: Path, *, is_command: bool) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = takes_in
        async with rig.life() as life:
            await begin(rig, life)
            await tell(rig, life, "!steer leave the tests" if is_command else "leave the tests")
            await rig.wait_ended(1)
            await asyncio.sleep(5)
        (turn,) = await rig.turns()
        assert turn.outcome == "done"
        assert list(turn.asked) == ["$e1", "$e3"]
        assert await rig.outcomes() == ["done"]
        read = await rig.read()
        assert "read: ['leave the tests']" in read
        assert read.count("finished") == 1
        assert (texts.STEERED in read) is is_command
        final = (await rig.said())[-1]["org.aiagentchat.turn"]
        assert isinstance(final, dict)
        assert final["asked"] == ["$e1", "$e3"], "both who asked find the answer"

    run(tmp_path, test, defaults={} if is_command else STEERS)


def test_what_is_not_taken_in_is_answered_by_the_same_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(10)
        async with rig.life() as life:
            await begin(rig, life)
            await tell(rig, life, "and then?")
            await tell(rig, life, "and after that?")
            await rig.wait_ended(1)
            await asyncio.sleep(5)
        (turn,) = await rig.turns()
        assert turn.outcome == "done"
        assert await rig.outcomes() == ["done"]
        assert "finished You said: and then?" in await rig.read()
        assert rig.claude.asked == [
            "work",
            "and then? and after that?".replace("? and", "?\n\nand"),
        ]

    run(tmp_path, test, defaults=STEERS)


def test_by_default_a_message_waits(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = takes_in
        async with rig.life() as life:
            await begin(rig, life)
            await tell(rig, life, "next")
            await rig.wait_ended(2)
        assert [turn.outcome for turn in await rig.turns()] == ["done", "done"]
        assert "read: []" in await rig.read()

    run(tmp_path, test)


def test_of_another_conversation_and_with_nothing_running_it_waits(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "!steer x")
            await rig.wait_body(texts.NOTHING_TO_STEER)
            await tell(rig, life, "!steer")
            await rig.wait_body(texts.STEER_FORM)
            await begin(rig, life)
            await rig.receive("in a thread", thread="$root")
            await rig.receive("!steer y", thread="$root")
            life.notify()
            await rig.wait_ended(2)
        assert (await rig.bodies()).count(texts.NOTHING_TO_STEER) == 2
        assert rig.claude.asked == ["work", "in a thread"]

    run(tmp_path, test, defaults=STEERS)


def test_a_cancel_ends_what_went_into_the_turn_too(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await begin(rig, life)
            await tell(rig, life, "!steer more")
            await asyncio.sleep(2)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            await tell(rig, life, "next")
            await rig.wait_ended(2)
            await asyncio.sleep(10)
        assert "You said: more" not in await rig.read(), "the CLI went on with nothing"
        assert len(rig.claude.started) == 2
        assert await rig.outcomes() == ["cancelled", "done"]

    run(tmp_path, test)


def test_a_retry_asks_all_of_it_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await begin(rig, life)
            await tell(rig, life, "!steer with care")
            await asyncio.sleep(2)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            rig.claude.scripts.clear()
            await tell(rig, life, "!retry")
            await rig.wait_ended(2)
        assert "work\n\nwith care" in rig.claude.asked[-1]

    run(tmp_path, test)


def test_what_comes_too_late_is_a_turn_of_its_own(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = hang
        async with rig.life() as life:
            await begin(rig, life)
            # Nothing goes into a turn that is being stopped.
            await rig.receive("!cancel")
            life.notify()
            await rig.wait_body("Stopping")
            await tell(rig, life, "and now?")
            await rig.wait_ended(2)
        assert rig.claude.asked == ["work", "and now?"]

    run(tmp_path, test, defaults=STEERS)


def test_taken_back_before_it_left_it_never_does(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = takes_in
        async with rig.life() as life:
            await begin(rig, life)
            event_id = await rig.receive("!steer a secret")
            await rig.receive_event("m.room.redaction", {}, redacts=event_id)
            life.notify()
            await rig.wait_ended(1)
        outcome = (await rig.turns())[0].outcome
        # It had left already, and the turn stopped; or it had not, and nobody read it.
        assert outcome == "cancelled" or "a secret" not in rig.claude.asked

    run(tmp_path, test)


def test_what_is_taken_back_just_as_its_burst_leaves_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, redacted = SteerTable.of_turn, list[str]()

    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = takes_in
        async with rig.life() as life:

            async def of_turn(table: SteerTable, turn_id: TurnId) -> Sequence[Steer]:
                found = await read(table, turn_id)
                if found and not redacted:
                    redacted.append(found[0].pieces.messages[1].event_id)
                    await redact(rig, life, redacted[0])
                return found

            await begin(rig, life)
            monkeypatch.setattr(SteerTable, "of_turn", of_turn)
            await rig.receive("leave the tests")
            await tell(rig, life, "a secret")
            await rig.wait_ended(1)
        (turn,) = await rig.turns()
        assert (turn.outcome, list(turn.asked)) == ("done", ["$e1", "$e3"])
        assert "read: ['leave the tests']" in await rig.read()

    run(tmp_path, test, defaults=STEERS)


@pytest.mark.parametrize("script", [takes_in, works_for(10)])
def test_a_crash_anywhere_loses_and_doubles_nothing(tmp_path: Path, script: Script) -> None:
    async def once(folder: Path, crash_at: int) -> int:
        async with open_rig(folder) as rig:
            rig.claude.scripts["work"] = script
            async with rig.life(crash_at=crash_at) as life:
                await tell(rig, life, "work")

                async def is_over() -> bool:
                    return life.points.crashed.is_set() or await running(rig) == 1

                await rig.wait(is_over)
                await tell(rig, life, "!steer with care")
                await rig.wait_ended(1, life=life)
                count = life.points.count
            async with rig.life():
                await rig.wait_ended(1)
                await asyncio.sleep(30)
            asked = rig.claude.asked
            turns = await rig.turns()
            assert all(turn.outcome == "done" for turn in turns), crash_at
            assert asked.count("work") == 1, (crash_at, asked)
            # Said before the turn was taken, it is answered with that there is nothing to steer.
            is_refused = texts.NOTHING_TO_STEER in await rig.bodies()
            assert asked.count("with care") == (0 if is_refused else 1), (crash_at, asked)
            assert len(await rig.outcomes()) == len(turns), crash_at
            read = await rig.read()
            assert read.count("finished") == 1, (crash_at, read)
            return count

    async def main() -> None:
        total = await once(tmp_path / "whole", 0)
        for crash_at in range(1, total + 1):
            await once(tmp_path / str(crash_at), crash_at)

    run_rooms(main())


# Where the conversation is lost...


async def lose_session(rig: Rig) -> None:
    """An earlier turn, of whose conversation the CLI knows nothing any more."""
    async with rig.life() as life:
        await tell(rig, life, "before")
        await rig.wait_ended(1)
        for process in rig.shim.sessions.values():
            process.kill(9)
        rig.claude.conversations.clear()
        await asyncio.sleep(1)
    rig.claude.looks_for_s = 10


@pytest.mark.parametrize("is_command", [True, False])
def test_what_is_said_while_a_lost_session_is_resumed_goes_into_the_turn(
    tmp_path: Path, *, is_command: bool
) -> None:
    async def test(rig: Rig) -> None:
        await lose_session(rig)
        rig.claude.scripts["work"] = takes_in
        async with rig.life() as life:
            await begin(rig, life)
            await tell(rig, life, "!steer leave the tests" if is_command else "leave the tests")
            await rig.wait_ended(2)
            await asyncio.sleep(5)
        assert await rig.outcomes() == ["done", "done"]
        assert rig.claude.asked == ["before", "work", "leave the tests"]
        read = await rig.read()
        assert SESSION_LOST in read
        assert "read: ['leave the tests']" in read
        assert "No conversation found" not in read
        assert (await rig.turns())[-1].asked[-1] == rig.received[-1].event_id

    run(tmp_path, test, defaults={} if is_command else STEERS)
    assert audit(tmp_path) == ()


def test_what_the_lost_session_refused_goes_into_the_turn_too(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await lose_session(rig)
        async with rig.life() as life:
            await begin(rig, life)
            rig.shim.refuses_steers = True
            await tell(rig, life, "!steer with care")
            await asyncio.sleep(4)
            rig.shim.refuses_steers = False
            await rig.wait_ended(2)
            await asyncio.sleep(5)
        assert rig.claude.asked == ["before", "work", "with care"]
        assert await rig.outcomes() == ["done", "done"]

    run(tmp_path, test)


def test_a_crash_at_any_step_while_a_lost_session_is_replaced_asks_both_once(
    tmp_path: Path,
) -> None:
    async def once(folder: Path, crash_at: int) -> int:
        async with open_rig(folder) as rig:
            await lose_session(rig)
            rig.claude.scripts["work"] = works_for(10)
            async with rig.life() as life:
                await begin(rig, life)
                await tell(rig, life, "!steer with care")
                await rig.wait_body(texts.STEERED)
            async with rig.life(crash_at=crash_at) as life:
                await rig.wait_ended(2, life=life)
                count = life.points.count
            async with rig.life():
                await rig.wait_ended(2)
                await asyncio.sleep(30)
            asked = rig.claude.asked
            assert sorted(asked) == ["before", "with care", "work"], (crash_at, asked)
            assert set(await rig.outcomes()) == {"done"}, crash_at
            return count

    async def main() -> None:
        total = await once(tmp_path / "whole", 0)
        for crash_at in range(1, total + 1, 6):
            await once(tmp_path / str(crash_at), crash_at)

    run_rooms(main())
