"""A turn is interrupted: the room is told once, and goes on as its settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.going_on import build_prompt_again
from orchestrator.model import JsonObject, TurnOutcome, TurnState
from tests.support.memory_claude import ExitNow, Turn
from tests.support.room_rig import Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, crash_or_end, hang, run, tell

RESUME = {"defaults": {"on_interrupt": "resume"}}


def fails_until(good: int) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    """Hangs the first times that it is asked, then answers."""
    asked = 0

    async def script(turn: Turn) -> None:
        nonlocal asked
        asked += 1
        if asked < good:
            await hang(turn)
        turn.text(f"answer {asked}")
        turn.result(f"answer {asked}")

    return script


async def kill_runner(rig: Rig) -> None:
    info = await rig.info()
    assert info is not None
    await rig.backend.stop(info.name, grace_s=0)


async def wait_asked(rig: Rig, count: int) -> None:
    async def check() -> bool:
        return len(rig.claude.asked) >= count

    await rig.wait(check)


async def finals(rig: Rig) -> list[JsonObject]:
    marks: list[Any] = [c.get("org.aiagentchat.turn") for c in await rig.said()]
    return [mark for mark in marks if mark and mark["final"]]


def test_an_interrupted_turn_is_told_once_with_what_was_asked_and_what_to_type(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang `on`\n" + "x" * 200)
            await rig.wait_body("working")
            await kill_runner(rig)
            await rig.wait_ended(1)
            await asyncio.sleep(600)
        (told,) = (await rig.bodies())[1:]
        assert "`hang 'on' xxx" in told
        assert "It was not run again." in told
        assert "`!retry`" in told
        assert len(told) < 300
        assert len(rig.claude.asked) == 1

    run(tmp_path, test)


def test_retry_runs_the_interrupted_message_anew_with_a_note_and_both_askers_find_the_answer(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = fails_until(2)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("working")
            await kill_runner(rig)
            await rig.wait_ended(1)
            await tell(rig, life, "!retry")
            await rig.wait_ended(2)
        assert rig.claude.asked == ["go", build_prompt_again("go")]
        assert "--resume" in rig.claude.started[1]
        first, second = await rig.turns()
        assert (second.continues, second.resumes) == (first.turn_id, 0)
        interrupted, done = await finals(rig)
        assert (interrupted["asked"], interrupted["outcome"]) == (["$e1"], "interrupted")
        assert (done["asked"], done["outcome"]) == (["$e1", "$e3"], "done")
        assert (await rig.bodies())[-2:] == ["Another go at `go`.", "answer 2"]
        assert audit(tmp_path) == ()

    run(tmp_path, test)


async def crash(turn: Turn) -> None:
    raise ExitNow(3)


async def too_much(turn: Turn) -> None:
    turn.process.kill(9)
    await asyncio.sleep(10)


async def end_without_answer(rig: Rig, life: Life, how: str) -> None:
    """A turn of `go` that ends so."""
    rig.claude.scripts["go"] = {"failed": crash, "out_of_memory": too_much}.get(how, hang)
    await tell(rig, life, "go")
    await asyncio.sleep(0.5)
    if how == "cancelled":
        await tell(rig, life, "!cancel")
    if how == "out_of_memory":
        life.manager.note_out_of_memory(next(iter(life.manager.workers.values())).room.slug)
    await rig.wait_ended(1, timeout_s=400)


@pytest.mark.parametrize("how", ["failed", "cancelled", "timed_out", "out_of_memory"])
def test_whatever_ended_without_an_answer_can_be_retried(tmp_path: Path, how: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await end_without_answer(rig, life, how)
            assert await rig.outcomes() == [how]
            del rig.claude.scripts["go"]
            await tell(rig, life, "!retry")
            await rig.wait_ended(2)
        assert await rig.outcomes() == [how, "done"]

    run(tmp_path, test)


def test_retry_says_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = fails_until(2)
        rig.claude.scripts["slow"] = fails_until(3)
        async with rig.life() as life:
            await tell(rig, life, "fine")
            await rig.wait_ended(1)
            await tell(rig, life, "!retry")
            await rig.wait_body(texts.RETRY_NOTHING)

            await tell(rig, life, "go")
            await rig.wait_body("working")
            await tell(rig, life, "!cancel")
            await rig.wait_ended(2)
            await tell(rig, life, "!retry")
            await rig.wait_ended(3)
            await tell(rig, life, "!retry")
            await rig.wait_body(texts.RETRY_DONE)

            await tell(rig, life, "slow")
            await wait_asked(rig, 4)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(4)
            await tell(rig, life, "!retry")
            await wait_asked(rig, 5)
            await tell(rig, life, "!retry")
            await rig.wait_body(texts.RETRY_RUNS)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(5)
            # What was retried and failed again is the last one now.
            await tell(rig, life, "!retry")
            await rig.wait_ended(6)
        assert rig.claude.asked[-1] == build_prompt_again("slow")
        assert await rig.outcomes() == [
            "done",
            "cancelled",
            "done",
            "cancelled",
            "cancelled",
            "done",
        ]

    run(tmp_path, test)


def test_retry_finds_the_message_that_nobody_took_up_when_a_later_one_was_answered(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        for name in ("first", "second"):
            rig.claude.scripts[name] = fails_until(2)
        async with rig.life() as life:
            for count, name in enumerate(("first", "second"), start=1):
                await tell(rig, life, name)
                await wait_asked(rig, count)
                await tell(rig, life, "!cancel")
                await rig.wait_ended(count)
            await tell(rig, life, "!retry")
            await rig.wait_ended(3)
            await tell(rig, life, "!retry")
            await rig.wait_ended(4)
        assert rig.claude.asked[-1] == build_prompt_again("first")

    run(tmp_path, test)


def test_retry_of_a_turn_whose_text_is_gone_says_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = crash
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
            await rig.store.database.run(lambda db: db.execute("UPDATE turns SET prompt = ''"))
            await tell(rig, life, "!retry")
            await rig.wait_body(texts.RETRY_TOO_OLD)
        assert len(await rig.turns()) == 1

    run(tmp_path, test)


def test_retry_meets_the_limit_of_the_queue_like_any_message(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            for text in ("hang again", "second"):
                await tell(rig, life, text)
                await asyncio.sleep(1)
            await tell(rig, life, "!retry")
            await rig.wait_body(texts.queue_full(1))
        assert len(await rig.turns()) == 3

    run(tmp_path, test, gateway={"max_queued_turns": 1})


def test_a_resumed_turn_goes_before_later_messages_and_settles_the_first_one(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = fails_until(2)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("working")
            await tell(rig, life, "later")
            await asyncio.sleep(1)
            await kill_runner(rig)
            await rig.wait_ended(3)
        assert rig.claude.asked == ["go", build_prompt_again("go"), "later"]
        assert "--resume" in rig.claude.started[1]
        interrupted = [body for body in await rig.bodies() if "Interrupted" in body]
        assert interrupted == [
            "Interrupted: the room's runner ended (exit code 137), while I worked on `go`. "
            "Going on with it (1 of 3); `!cancel` stops it."
        ]
        assert [mark["asked"] for mark in await finals(rig)] == [["$e1"], ["$e3"]]
        assert await rig.outcomes() == ["done", "done"]

    run(tmp_path, test, **RESUME)


def test_a_turn_that_is_interrupted_again_and_again_is_stopped_after_three_resumes(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = fails_until(6)
        async with rig.life() as life:
            await tell(rig, life, "go")
            for count in range(1, 5):
                await wait_asked(rig, count)
                await asyncio.sleep(1)
                await kill_runner(rig)
                await rig.wait_ended(count)
            await asyncio.sleep(600)
            assert len(rig.claude.asked) == 4
            told = [body for body in await rig.bodies() if "Interrupted" in body]
            assert [f"({n} of 3)" in body for n, body in enumerate(told, start=1)] == [
                True,
                True,
                True,
                False,
            ]
            assert "I went on with it 3 times; it is not run again." in told[3]
            assert "`!retry`" in told[3]
            assert await rig.outcomes() == ["interrupted"]
            # A person may: and from there it counts anew.
            await tell(rig, life, "!retry")
            await wait_asked(rig, 5)
            await asyncio.sleep(1)
            await kill_runner(rig)
            await rig.wait_ended(6)
        assert await rig.outcomes() == ["interrupted", "done"]
        assert (await rig.bodies())[-1] == "answer 6"

    run(tmp_path, test, **RESUME)


@pytest.mark.parametrize("how", ["cancelled", "timed_out", "out_of_memory", "failed"])
def test_only_interruptions_are_resumed(tmp_path: Path, how: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await end_without_answer(rig, life, how)
            await asyncio.sleep(100)
        assert await rig.outcomes() == [how]
        assert len(rig.claude.asked) == 1

    run(tmp_path, test, **RESUME)


def test_a_runner_that_was_lost_while_the_orchestrator_was_away_is_resumed_after_its_start(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = fails_until(2)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("working")
        await kill_runner(rig)  # as a reboot of the host does
        async with rig.life():
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done"]
        assert rig.claude.asked == ["go", build_prompt_again("go")]

    run(tmp_path, test, **RESUME)


async def resume_and_crash(folder: Path, crash_at: int) -> tuple[int, list[str]]:
    """A runner is lost unseen; the next life resumes its turn, and ends at that step."""
    async with open_rig(folder, **RESUME) as rig:
        rig.claude.scripts["go"] = fails_until(2)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("working")
            await tell(rig, life, "later")
            await rig.wait_body("Queued")
        await kill_runner(rig)
        async with rig.life(crash_at=crash_at) as life:
            count = await crash_or_end(rig, life, ends=2)
        async with rig.life():
            await rig.wait_ended(3, timeout_s=60)
        assert rig.claude.asked == ["go", build_prompt_again("go"), "later"], crash_at
        assert await rig.outcomes() == ["done", "done"], crash_at
        turns = await rig.turns()
        assert [t.outcome for t in turns] == [
            TurnOutcome.INTERRUPTED,
            TurnOutcome.DONE,
            TurnOutcome.DONE,
        ], crash_at
        assert all(t.state is TurnState.ENDED for t in turns)
        assert [t.resumes for t in turns] == [0, 1, 0], crash_at
        assert audit(folder) == (), crash_at
        return count, await rig.bodies()


def test_a_crash_at_any_step_of_resuming_neither_loses_nor_doubles_anything(tmp_path: Path) -> None:
    steps, usual = run_rooms(resume_and_crash(tmp_path / "none", 0))
    assert steps > 30
    assert sum("(1 of 3)" in body for body in usual) == 1
    for crash_at in range(1, steps + 1):
        _, read = run_rooms(resume_and_crash(tmp_path / str(crash_at), crash_at))
        assert read == usual, crash_at


async def retry_and_crash(folder: Path, crash_at: int) -> tuple[int, list[str]]:
    async with open_rig(folder) as rig:
        rig.claude.scripts["go"] = fails_until(2)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("working")
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
        await rig.receive("!retry")
        async with rig.life(crash_at=crash_at) as life:
            count = await crash_or_end(rig, life, ends=2)
        async with rig.life():
            await rig.wait_ended(2, timeout_s=60)
            await asyncio.sleep(10)
        assert rig.claude.asked == ["go", build_prompt_again("go")], crash_at
        assert await rig.outcomes() == ["cancelled", "done"], crash_at
        assert audit(folder) == (), crash_at
        return count, await rig.bodies()


def test_a_crash_at_any_step_of_a_retry_runs_it_once(tmp_path: Path) -> None:
    steps, usual = run_rooms(retry_and_crash(tmp_path / "none", 0))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        _, read = run_rooms(retry_and_crash(tmp_path / str(crash_at), crash_at))
        assert read == usual, crash_at
