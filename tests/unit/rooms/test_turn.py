"""Turns end to end on a real store, with the shim and the CLI in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from tests.support.memory_claude import ExitNow, Turn
from tests.support.memory_shim import CliProcess
from tests.support.room_rig import ROOM, Rig
from tests.unit.rooms.scenario import hang, hang_for_ever, run, tell


def test_a_message_is_answered_and_the_conversation_goes_on_in_one_process(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.bodies() == ["You said: one", "You said: two"]
        assert await rig.outcomes() == ["done", "done"]
        assert len(rig.claude.started) == 1

    run(tmp_path, test)


def test_only_the_last_part_of_a_long_answer_has_the_final_mark(tmp_path: Path) -> None:
    async def long(turn: Turn) -> None:
        turn.text("\n\n".join(f"line {i} " + "x" * 200 for i in range(100)))
        turn.result()

    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = long
        async with rig.life() as life:
            await tell(rig, life, "long")
            await rig.wait_ended(1)
        marks: list[Any] = [c["org.aiagentchat.turn"] for c in await rig.said()]
        assert len(marks) > 3
        assert [m["final"] for m in marks] == [False] * (len(marks) - 1) + [True]
        assert [m["part"] for m in marks] == list(range(len(marks)))

    run(tmp_path, test, gateway={"max_event_bytes": 8192, "max_answer_messages": 20})


def test_a_turn_whose_text_was_sent_before_its_end_gets_an_unseen_end_mark(tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        turn.text("early")
        await asyncio.sleep(10)
        turn.result("early")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = script
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_body("early")
            assert await rig.outcomes() == []
            await rig.wait_ended(1)
        assert await rig.bodies() == ["early"]
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_a_turn_without_text_says_that_it_is_done(tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        turn.result("")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["quiet"] = script
        async with rig.life() as life:
            await tell(rig, life, "quiet")
            await rig.wait_ended(1)
        assert await rig.bodies() == [texts.DONE_WITHOUT_TEXT]

    run(tmp_path, test)


@pytest.mark.parametrize("script", [hang, hang_for_ever])
def test_a_cancelled_turn_ends_and_the_next_one_behind_it_works(
    tmp_path: Path, script: Callable[[Turn], Coroutine[Any, Any, None]]
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = script
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "after")
            await asyncio.sleep(5)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(2)
        bodies = await rig.bodies()
        assert bodies[-2:] == ["Cancelled.", "You said: after"]
        assert await rig.outcomes() == ["cancelled", "done"]
        assert rig.claude.asked == ["hang", "after"]

    run(tmp_path, test)


def test_a_shim_that_does_nothing_any_more_is_replaced_and_the_turn_ends(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            rig.shim.is_mute = True
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["cancelled", "done"]
        assert len(rig.shims) == 2
        info = await rig.info()
        assert info is not None
        assert info.generation == 2

    run(tmp_path, test)


def test_a_stuck_runner_that_the_engine_can_not_remove_gets_no_other_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            rig.shim.is_mute = True
            await tell(rig, life, "!cancel")
            await asyncio.sleep(10)
            life.backend.is_away = True
            await rig.wait_ended(1)
            life.backend.is_away = False
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["cancelled", "done"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_turn_without_progress_times_out_and_leaves_no_process(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await tell(rig, life, "after")
            await rig.wait_ended(1, timeout_s=400)
            await rig.wait_ended(2)
        bodies = await rig.bodies()
        assert "Stopped: nothing came for 5 min." in bodies
        assert bodies[-1] == "You said: after"
        assert await rig.outcomes() == ["timed_out", "done"]
        assert len(rig.claude.started) == 2  # the second one resumed it
        assert "--resume" in rig.claude.started[1]

    run(tmp_path, test)


def test_the_ceiling_ends_a_turn_that_always_makes_progress(tmp_path: Path) -> None:
    async def busy(turn: Turn) -> None:
        while True:
            turn.line(type="stream_event", event={}, parent_tool_use_id=None)
            turn.text("more")
            await asyncio.sleep(20)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["busy"] = busy
        async with rig.life() as life:
            await tell(rig, life, "busy")
            await rig.wait_ended(1, timeout_s=200)
        assert "the longest that is allowed here" in (await rig.bodies())[-1]

    run(tmp_path, test, defaults={"ceiling_s": 100, "timeout_s": 50})


def test_a_cli_that_crashes_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def crash(turn: Turn) -> None:
        turn.process.complain("TypeError: oops")
        raise ExitNow(3)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["crash"] = crash
        async with rig.life() as life:
            await tell(rig, life, "crash")
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.bodies() == [
            "Failed: Claude Code ended by itself (code 3): `TypeError: oops`.",
            "You said: after",
        ]

    run(tmp_path, test)


def test_a_cli_that_ended_while_idle_is_started_again_with_its_conversation(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            # Its end is said in the same moment as the next turn comes.
            await rig.receive("two")
            life.notify()
            await asyncio.sleep(0.24)
            next(iter(rig.shim.sessions.values())).kill(9)
            await rig.wait_ended(2)
        assert await rig.bodies() == ["You said: one", "You said: two"]
        assert "--resume" in rig.claude.started[1]

    run(tmp_path, test)


def test_a_session_that_takes_no_input_is_replaced_and_the_turn_offered_again(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            next(iter(rig.shim.sessions.values())).stdin_closed = True
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.bodies() == ["You said: one", "You said: two"]
        assert rig.claude.asked == ["one", "two"]

    run(tmp_path, test)


def test_a_cli_that_can_never_be_started_is_told_in_its_words(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            next(iter(rig.shim.sessions.values())).kill(9)
            await asyncio.sleep(1)

            def why_not(kind: str, _: dict[str, Any]) -> str | None:
                return {"open": "No such file or directory", "input": "no session"}.get(kind)

            rig.shim._why_not = why_not  # type: ignore[method-assign]
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert (await rig.bodies())[
            -1
        ] == "Failed: the runner refused it: No such file or directory."

    run(tmp_path, test)


def test_a_conversation_that_is_gone_is_begun_anew_once_and_stays(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            next(iter(rig.shim.sessions.values())).kill(9)
            rig.claude.conversations.clear()
            await asyncio.sleep(1)
            await tell(rig, life, "two")
            await rig.wait_ended(2)
            for process in rig.shim.sessions.values():
                process.kill(9)
            await asyncio.sleep(1)
            await tell(rig, life, "three")
            await rig.wait_ended(3)
        assert await rig.bodies() == [
            "You said: one",
            texts.SESSION_LOST,
            "You said: two",
            "You said: three",
        ]
        assert "--resume" in rig.claude.started[-1]  # the new conversation is kept

    run(tmp_path, test)


def test_a_cli_that_loses_every_session_fails_the_turn_instead_of_going_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)

            async def lose(turn: Turn) -> None:
                turn.result("", is_error=True, errors=["No conversation found with session ID: x"])

            rig.claude.scripts["two"] = lose
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done", "failed"]
        assert rig.claude.asked == ["one", "two", "two"]

    run(tmp_path, test)


def test_a_runner_that_breaks_the_protocol_is_replaced_and_told(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            rig.shim.raw("I am no frame")
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
            rig.shim.raw("me neither, while idle")
            await asyncio.sleep(1)
            await tell(rig, life, "again")
            await rig.wait_ended(3)
        assert "broke the protocol" in (await rig.bodies())[1]
        assert await rig.outcomes() == ["interrupted", "done", "done"]
        assert len(rig.shims) == 3

    run(tmp_path, test)


def test_a_runner_that_dies_is_told_once_and_replaced(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            info = await rig.info()
            assert info is not None
            await rig.backend.stop(info.name, grace_s=0)
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert "Interrupted: the room's runner ended" in (await rig.bodies())[1]
        assert await rig.outcomes() == ["interrupted", "done"]
        assert rig.claude.asked == ["hang", "after"]

    run(tmp_path, test)


@pytest.mark.parametrize("order", ["before", "after"])
def test_an_out_of_memory_kill_is_told_whichever_news_comes_first(
    tmp_path: Path, order: str
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["eat"] = hang
        async with rig.life() as life:
            await tell(rig, life, "eat")
            await rig.wait_body("working")
            worker = life.manager.workers[ROOM]
            if order == "before":
                life.manager.note_out_of_memory(worker.room.slug)
                await asyncio.sleep(0.1)
            next(iter(rig.shim.sessions.values())).kill(9)
            if order == "after":
                await asyncio.sleep(0.5)
                life.manager.note_out_of_memory(worker.room.slug)
            await rig.wait_ended(1, timeout_s=5)
        assert await rig.outcomes() == ["out_of_memory"]
        assert sum("kernel ended" in body for body in await rig.bodies()) == (order == "before")

    run(tmp_path, test)


def test_a_cli_that_was_killed_by_somebody_else_is_told_as_that(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["eat"] = hang
        async with rig.life() as life:
            await tell(rig, life, "eat")
            await rig.wait_body("working")
            next(iter(rig.shim.sessions.values())).kill(9)
            await rig.wait_ended(1, timeout_s=5)
        assert (await rig.bodies())[-1] == "Failed: Claude Code ended by itself (signal 9)."

    run(tmp_path, test)


def test_the_output_limit_stops_the_turn_and_its_flood_is_not_shown(tmp_path: Path) -> None:
    async def flood(turn: Turn) -> None:
        while True:
            turn.text("y" * 1000)
            await asyncio.sleep(0.05)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["flood"] = flood
        async with rig.life() as life:
            await tell(rig, life, "flood")
            await rig.wait_ended(1)
        bodies = await rig.bodies()
        assert bodies[-1] == "Failed: it met this room's output limit of 19.53 KiB."
        assert sum(len(body) for body in bodies) < 22_000

    run(tmp_path, test, defaults={"limits": {"output_bytes": 20_000}})


def test_much_text_at_once_does_not_wait_in_memory(tmp_path: Path) -> None:
    async def much(turn: Turn) -> None:
        for _ in range(40):
            turn.text("z" * 10_000)
        await asyncio.sleep(0.5)
        turn.result()

    async def test(rig: Rig) -> None:
        rig.claude.scripts["much"] = much
        async with rig.life() as life:
            await tell(rig, life, "much")

            async def is_kept() -> bool:
                return any(turn.draft_chars > 250_000 for turn in await rig.turns())

            await rig.wait(is_kept, timeout_s=0.7)
            await rig.wait_ended(1)
        assert (await rig.read()).count("z") == 400_000

    run(tmp_path, test)


RESULT_HEAD = '{"duration_api_ms":29,"stop_reason":"end_turn","session_id":"x"'


@pytest.mark.parametrize(
    ("head", "outcome", "word"),
    [
        (RESULT_HEAD, "failed", "too long to read"),
        ('{"type":"assistant","message":{', "done", "was left out: too long"),
        ('{"type":"user","message":{', "done", texts.DONE_WITHOUT_TEXT),
    ],
)
def test_a_line_that_is_too_long_is_told(
    tmp_path: Path, head: str, outcome: str, word: str
) -> None:
    async def script(turn: Turn) -> None:
        turn.process.cut(head, 5 << 20)
        if head != RESULT_HEAD:
            turn.result("")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["cut"] = script
        async with rig.life() as life:
            await tell(rig, life, "cut")
            await rig.wait_ended(1, timeout_s=10)
        assert await rig.outcomes() == [outcome]
        assert word in (await rig.bodies())[-1]

    run(tmp_path, test)


def test_a_request_that_is_too_long_is_answered_so_that_nothing_waits(tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        turn.process.cut('{"type":"control_request","request_id":"r-1","request":{', 5 << 20)
        await turn.wait_answer("r-1")
        turn.result(turn.answers["r-1"]["subtype"])

    async def test(rig: Rig) -> None:
        rig.claude.scripts["ask"] = script
        async with rig.life() as life:
            await tell(rig, life, "ask")
            await rig.wait_ended(1, timeout_s=10)
        assert await rig.bodies() == ["error"]

    run(tmp_path, test)


def test_a_tool_that_would_ask_is_denied_and_told_once(tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        for i in range(3):
            answer = await turn.ask("Bash", f"no id of the wire {i} \n\u00e9")
            assert answer["response"]["behavior"] == "deny"
        turn.result("ok")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["ask"] = script
        async with rig.life() as life:
            await tell(rig, life, "ask")
            await rig.wait_ended(1)
        bodies = await rig.bodies()
        assert sum("needs an approval" in b or "need an approval" in b for b in bodies) == 1
        assert await rig.outcomes() == ["done"]

    run(tmp_path, test)


def test_a_turn_that_asks_for_a_thousand_tools_does_not_flood_the_room(tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        for i in range(1000):
            await turn.ask(f"Tool{i}", f"r{i}")
        turn.result("ok")

    async def test(rig: Rig) -> None:
        rig.claude.scripts["ask"] = script
        async with rig.life() as life:
            await tell(rig, life, "ask")
            await rig.wait_ended(1)
        assert len(await rig.bodies()) == 9

    run(tmp_path, test)


def test_a_prompt_over_the_limit_of_the_wire_fails_at_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "\u00e9" * (2 << 20))
            await rig.wait_ended(1)
            await tell(rig, life, "after")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["failed", "done"]

    run(tmp_path, test)


def test_what_is_said_between_turns_is_taken_in_and_not_shown(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            session, process = next(iter(rig.shim.sessions.items()))
            Turn(process, session, "other", "").text("by the way")
            await asyncio.sleep(1)
            assert rig.shim.spooled == 0
            process.kill(9)
            await asyncio.sleep(1)
            assert life.manager.workers[ROOM].has_live_session is False
        async with rig.life():
            await asyncio.sleep(1)
        assert await rig.bodies() == ["You said: one"]

    run(tmp_path, test)


def test_an_idle_runner_whose_connection_ends_is_attached_to_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
            life.backend.cut()
            await asyncio.sleep(1)
            await tell(rig, life, "two")
            await rig.wait_ended(2)
        assert len(rig.shims) == 1
        assert len(rig.claude.started) == 1

    run(tmp_path, test)


def test_a_failing_start_of_the_cli_is_told(tmp_path: Path) -> None:
    def broken(process: CliProcess) -> int:
        process.complain("no")
        return 1

    async def test(rig: Rig) -> None:
        rig.claude.on_start = broken
        async with rig.life() as life:
            await tell(rig, life, "one")
            await rig.wait_ended(1)
        assert await rig.outcomes() == ["failed"]

    run(tmp_path, test)
