"""A thread is a conversation of its own: a copy of the room's at first, answered in its thread."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from orchestrator.core import texts
from orchestrator.core.texts import conversation as conversation_texts
from orchestrator.core.thread import parse_thread
from orchestrator.core.turn_mark import parse_reply
from orchestrator.model import RoomId
from tests.support.room_rig import Life, Rig
from tests.unit.rooms.scenario import hang, run, tell, wait_running, works_for


async def ask_in(rig: Rig, life: Life, thread: str | None, text: str) -> dict[str, Any]:
    """What a command is answered with."""
    before = len(await rig.said())
    await tell(rig, life, text, thread=thread)

    async def is_answered() -> bool:
        return len(await rig.said()) > before

    await rig.wait(is_answered)
    return (await rig.said())[-1]


def sessions_of(argv: list[str]) -> tuple[str | None, str | None, bool]:
    """What was resumed, what was begun, and whether that is a copy."""
    resumed = argv[argv.index("--resume") + 1] if "--resume" in argv else None
    begun = argv[argv.index("--session-id") + 1] if "--session-id" in argv else None
    return resumed, begun, "--fork-session" in argv


def test_a_thread_begins_as_a_copy_and_is_answered_in_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "in the room")
            await rig.wait_ended(1)
            await tell(rig, life, "in the thread", thread="$root")
            await rig.wait_ended(2)
            await tell(rig, life, "in the room again")
            await rig.wait_ended(3)
            await tell(rig, life, "in the thread again", thread="$root")
            await rig.wait_ended(4)
        (_, main, _), fork, back, again = map(sessions_of, rig.claude.started)
        assert fork[0] == main
        assert fork[2]
        assert back == (main, None, False)
        assert again == (fork[1], None, False)
        assert [parse_thread(content) for content in await rig.said()] == [
            None,
            "$root",
            None,
            "$root",
        ]
        assert len(rig.claude.conversations[main or ""]) == 2
        assert len(rig.claude.conversations[fork[1] or ""]) == 3
        running = [one for one in rig.shim.statuses.values() if one["state"] == "running"]
        assert len(running) == 1, "the CLIs of other conversations have ended"

    run(tmp_path, test)


def test_a_thread_in_a_room_without_a_conversation_begins_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "first of all", thread="$root")
            await rig.wait_ended(1)
            await tell(rig, life, "in the room")
            await rig.wait_ended(2)
        assert not any("--fork-session" in argv for argv in rig.claude.started)
        assert len(rig.claude.conversations) == 2

    run(tmp_path, test)


def test_one_persons_words_in_two_threads_are_two_turns(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive("one", thread="$a")
        await rig.receive("two", thread="$b")
        await rig.receive("three", thread="$a")
        async with rig.life():
            await rig.wait_ended(2)
        assert [turn.session for turn in await rig.turns()] == ["$a", "$b"]
        assert rig.claude.asked[0].split() == ["one", "three"]

    run(tmp_path, test)


def test_that_a_threads_conversation_is_lost_is_said_in_the_thread(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "one", thread="$root")
            await rig.wait_ended(1)
            for process in rig.shim.sessions.values():
                process.kill(9)
            rig.claude.conversations.clear()
            await asyncio.sleep(1)
            await tell(rig, life, "two", thread="$root")
            await rig.wait_ended(2)
        said = [(content["body"], parse_thread(content)) for content in await rig.said()]
        assert said == [
            ("You said: one", "$root"),
            (texts.SESSION_LOST, "$root"),
            ("You said: two", "$root"),
        ]

    run(tmp_path, test)


def test_commands_are_about_the_thread_that_they_are_given_in(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await wait_running(rig)
            said = await ask_in(rig, life, "$root", "!cancel")
            assert said["body"] == texts.CANCEL_NOTHING
            assert parse_thread(said) == "$root"
            assert parse_reply(said) is not None
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            assert texts.CANCEL_ASKED in await rig.bodies()
            assert (await ask_in(rig, life, "$root", "!retry"))["body"] == texts.RETRY_NOTHING

    run(tmp_path, test)


def test_new_in_a_thread_knows_nothing_of_the_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "in the room")
            await rig.wait_ended(1)
            said = await ask_in(rig, life, "$root", "!new")
            assert said["body"] == conversation_texts.NEW_IN_THREAD
            await tell(rig, life, "afresh", thread="$root")
            await rig.wait_ended(2)
            await tell(rig, life, "in the room")
            await rig.wait_ended(3)
        main, afresh, back = map(sessions_of, rig.claude.started)
        assert afresh[0] is None
        assert back[0] == main[1]

    run(tmp_path, test)


def test_a_conversation_is_listed_and_gone_on_with(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            nothing = await ask_in(rig, life, None, "!sessions")
            assert nothing["body"] == conversation_texts.NO_SESSIONS
            await tell(rig, life, "about *apples*")
            await rig.wait_ended(1)
            await ask_in(rig, life, None, "!new")
            await tell(rig, life, "about pears")
            await rig.wait_ended(2)
            listed = (await ask_in(rig, life, None, "!sessions"))["body"]
            assert "about *apples*" in listed
            assert listed.index("about pears") < listed.index("about *apples*")
            here = next(line for line in listed.splitlines() if "this one" in line)
            assert "pears" in here
            assert "conversation 1" in (await ask_in(rig, life, None, "!resume 1"))["body"]
            await tell(rig, life, "and more apples")
            await rig.wait_ended(3)
            again = (await ask_in(rig, life, None, "!resume 1"))["body"]
            assert again == conversation_texts.already(1)
            assert "2 turns" in (await ask_in(rig, life, None, "!sessions"))["body"]
        first, _, third = map(sessions_of, rig.claude.started)
        assert third == (first[1], None, False)

    run(tmp_path, test)


def test_a_conversation_that_goes_on_elsewhere_is_copied(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "in the room")
            await rig.wait_ended(1)
            await ask_in(rig, life, "$root", "!new")
            await tell(rig, life, "in the thread", thread="$root")
            await rig.wait_ended(2)
            said = await ask_in(rig, life, "$root", "!resume 1")
            assert "as a copy" in said["body"]
            await tell(rig, life, "of the room's", thread="$root")
            await rig.wait_ended(3)
        main, _, copy = map(sessions_of, rig.claude.started)
        assert copy[0] == main[1]
        assert copy[2]

    run(tmp_path, test)


def test_what_runs_ends_in_its_own_conversation_whatever_is_resumed(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(20)
        async with rig.life() as life:
            await tell(rig, life, "about apples")
            await rig.wait_ended(1)
            await ask_in(rig, life, None, "!new")
            await tell(rig, life, "work")
            await wait_running(rig)
            said = await ask_in(rig, life, None, "!resume 1")
            assert "After the running turn" in said["body"]
        # Another life finds the turn in the session in which it runs, not in the resumed one.
        async with rig.life() as life:
            await rig.wait_ended(2)
            assert (await rig.turns())[1].outcome == "done"
            await tell(rig, life, "more apples")
            await rig.wait_ended(3)
        assert rig.claude.asked.count("work") == 1
        assert sessions_of(rig.claude.started[-1])[0] == sessions_of(rig.claude.started[0])[1]

    run(tmp_path, test)


def test_resume_says_what_it_expects(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            for bad in ("!resume", "!resume x", "!resume -1", "!resume 1 2"):
                said = await ask_in(rig, life, None, bad)
                assert said["body"] == conversation_texts.RESUME_FORM
            said = await ask_in(rig, life, None, "!resume 7")
            assert said["body"] == conversation_texts.no_session(7)
            said = await ask_in(rig, life, None, "!sessions x")
            assert said["body"] == texts.takes_nothing("sessions")

    run(tmp_path, test)


def test_a_conversation_is_compacted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            said = await ask_in(rig, life, None, "!compact")
            assert said["body"] == conversation_texts.NOTHING_TO_COMPACT
            await tell(rig, life, "in the room")
            await rig.wait_ended(1)
            said = await ask_in(rig, life, None, "!compact keep\n/clear the schema")
            assert said["body"] == conversation_texts.compacted(9892, 2445)
            said = await ask_in(rig, life, None, f"!compact {'x' * 2001}")
            assert said["body"] == conversation_texts.compact_too_long(2000)
            await tell(rig, life, "go on")
            await rig.wait_ended(2)
        assert rig.claude.compacted == ["/compact keep /clear the schema"]
        assert len(rig.claude.started) == 1

    run(tmp_path, test)


def test_what_the_cli_will_not_compact_is_told_in_its_words(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "in the room")
            await rig.wait_ended(1)
            for seen in rig.claude.conversations.values():
                seen.clear()
            said = await ask_in(rig, life, None, "!compact")
            assert "Claude Code says: `Error: No messages to compact`" in said["body"]

    run(tmp_path, test)


def test_no_compacting_while_a_turn_runs(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(5)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig)
            said = await ask_in(rig, life, None, "!compact")
            assert said["body"].startswith("Not while a turn runs")
            await rig.wait_ended(1)
        assert not rig.claude.compacted

    run(tmp_path, test)


def test_no_room_reaches_another_rooms_conversation_or_thread(tmp_path: Path) -> None:
    other = RoomId("!other:test")

    async def test(rig: Rig) -> None:
        await rig.store.rooms.ensure(other, joined=True)
        async with rig.life() as life:
            await tell(rig, life, "a secret of this room")
            await rig.wait_ended(1)

            async def answered(text: str, count: int, **more: Any) -> str:
                await rig.receive(text, room=other, **more)
                life.notify()

                async def is_there() -> bool:
                    return len(await rig.bodies(other)) == count

                await rig.wait(is_there)
                return (await rig.bodies(other))[-1]

            assert await answered("!resume 1", 1) == conversation_texts.no_session(1)
            assert await answered("!sessions", 2) == conversation_texts.NO_SESSIONS
            # A thread that hangs on the other room's event is just a name.
            await answered("hello", 3, thread="$e1")
        assert "--fork-session" not in rig.claude.started[-1]
        assert len(rig.claude.conversations) == 2

    run(tmp_path, test)
