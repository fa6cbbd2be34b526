"""Turns of several conversations side by side in one runner: each its own, come what may."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.texts import workspace as workspace_texts
from orchestrator.core.thread import parse_thread
from tests.support.memory_claude import Turn
from tests.support.room_rig import Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import (
    hang,
    hang_for_ever,
    run,
    running,
    tell,
    wait_running,
    works_for,
)

TWO = {"max_parallel_turns": 2}


def asks_and_talks(name: str) -> Any:
    async def script(turn: Turn) -> None:
        for step in range(4):
            turn.text(f"{name}-{step}")
            await asyncio.sleep(2)
            answer = await turn.ask("Bash", f"{name}{step}")
            turn.text(f"{name}-{answer['response']['behavior']}-{step}")
            await asyncio.sleep(1)
        turn.result(f"{name}-end")

    return script


def said_in(contents: list[dict[str, Any]], thread: str | None) -> str:
    bodies = [str(c["body"]) for c in contents if "body" in c and parse_thread(c) == thread]
    return " ".join(" ".join(bodies).split())


def test_a_thread_is_answered_while_the_room_works(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(30)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig, 1)
            await tell(rig, life, "quick", thread="$root")
            await rig.wait_ended(1)
            first = {turn.prompt: turn.outcome for turn in await rig.turns()}
            assert first == {"work": None, "quick": "done"}
            await rig.wait_ended(2)
        assert len(rig.shims) == 1, "one container"
        contents = await rig.said()
        assert said_in(contents, "$root") == "You said: quick"
        assert "finished" in said_in(contents, None)

    run(tmp_path, test, defaults=TWO)


@pytest.mark.parametrize(("most", "threads"), [(1, ["$a", None]), (4, ["$a", "$a"])])
def test_no_more_than_so_many_and_of_a_conversation_one(
    tmp_path: Path, most: int, threads: list[str | None]
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(10)
        async with rig.life() as life:
            for thread in threads:
                await tell(rig, life, "work", thread=thread)
                await asyncio.sleep(3)
            await asyncio.sleep(3)
            assert await running(rig) == 1
            await rig.wait_ended(2)

    run(tmp_path, test, defaults={"max_parallel_turns": most})


def test_a_cancel_and_a_timeout_leave_the_other_alone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = asks_and_talks("long")
        rig.claude.scripts["hang"] = hang
        rig.claude.scripts["deaf"] = hang_for_ever
        async with rig.life() as life:
            await tell(rig, life, "long")
            await wait_running(rig, 1)
            await tell(rig, life, "hang", thread="$a")
            await wait_running(rig, 2)
            await tell(rig, life, "!cancel", thread="$a")
            await rig.wait_ended(1)
            await tell(rig, life, "deaf", thread="$b")
            await rig.wait_ended(3)
        outcomes = {turn.prompt: str(turn.outcome) for turn in await rig.turns()}
        assert outcomes == {"long": "done", "hang": "cancelled", "deaf": "timed_out"}
        said = said_in(await rig.said(), None)
        assert [f"long-{n}" for n in range(4) if said.count(f"long-{n} ") != 1] == []
        assert len(rig.shims) == 1

    run(tmp_path, test, defaults={**TWO, "timeout_s": 5, "ceiling_s": 60})


def test_nothing_that_needs_the_files_alone_is_done_beside_turns(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await tell(rig, life, "work", thread="$a")
            await wait_running(rig, 2)
            await tell(rig, life, "!undo")
            await rig.wait_body("Not while a turn runs")
            await rig.wait_ended(2)
            await tell(rig, life, "!undo")
            await rig.wait_body(workspace_texts.COPY_SHARED)

    run(tmp_path, test, defaults={**TWO, "snapshots": {"keep": 5}})


def test_a_lost_connection_is_taken_up_by_both(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["one"] = asks_and_talks("one")
        rig.claude.scripts["two"] = asks_and_talks("two")
        async with rig.life() as life:
            await tell(rig, life, "one")
            await tell(rig, life, "two", thread="$a")
            await wait_running(rig, 2)
            for _ in range(9):
                await asyncio.sleep(1.7)
                life.backend.cut()
            await rig.wait_ended(2)
        await check_both(rig)

    run(tmp_path, test, defaults=TWO)


async def check_both(rig: Rig, where: object = None) -> None:
    assert [str(turn.outcome) for turn in await rig.turns()] == ["done", "done"], where
    assert sorted(rig.claude.asked) == ["one", "two"], where
    contents = await rig.said()
    for name, thread, other in (("one", None, "two"), ("two", "$a", "one")):
        said = said_in(contents, thread)
        assert f"{other}-" not in said, (where, said)
        for step in range(4):
            assert said.split().count(f"{name}-{step}") == 1, (where, said)
            assert said.split().count(f"{name}-deny-{step}") == 1, (where, said)
    assert len(rig.shims) == 1, where


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_crash_anywhere_loses_and_mixes_nothing(tmp_path: Path, start: int) -> None:
    async def once(folder: Path, crash_at: int) -> int:
        async with open_rig(folder, defaults=TWO) as rig:
            for name in ("one", "two"):
                rig.claude.scripts[name] = asks_and_talks(name)
            await rig.receive("one")
            await rig.receive("two", thread="$a")
            async with rig.life(crash_at=crash_at) as life:
                await rig.wait_ended(2, life=life)
                count = life.points.count
            async with rig.life():
                await rig.wait_ended(2)
            await check_both(rig, crash_at)
            return count

    async def main() -> None:
        total = await once(tmp_path / "whole", 0)
        for crash_at in itertools.count(1 + start, 3):
            if crash_at > total:
                break
            await once(tmp_path / str(crash_at), crash_at)

    run_rooms(main())


def test_files_that_can_not_be_listed_are_told_at_once_beside_a_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(60)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await wait_running(rig, 1)
            rig.shim.refuses.add("files")
            await tell(rig, life, "!ls")
            await rig.wait_body("can't be reached now", timeout_s=10)
            rig.shim.refuses.clear()
            await tell(rig, life, "!ls")
            await rig.wait_body("Nothing is there", timeout_s=10)
            assert await running(rig) == 1
            await rig.wait_ended(1)

    run(tmp_path, test)


def test_an_idle_connection_that_is_cut_in_a_burst_is_taken_up_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "before")
            await rig.wait_ended(1)
            (process,) = rig.shim.sessions.values()
            for number in range(3000):
                process.write(f'{{"type": "keep_alive", "n": {number}}}')
            await asyncio.sleep(0)
            life.backend.cut()
            await asyncio.sleep(60)
            assert rig.shim.spooled == 0, "all of it was taken in and acknowledged"
            assert len(rig.shims) == 1

    run(tmp_path, test)


def test_an_idle_runner_is_listened_to_after_it_was_replaced(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "before")
            await rig.wait_ended(1)
            await tell(rig, life, "!restart")
            await tell(rig, life, "after")
            await rig.wait_ended(2)
            assert len(rig.shims) == 2
            (process,) = rig.shim.sessions.values()
            for number in range(1000):
                process.write(f'{{"type": "keep_alive", "n": {number}}}')
            await asyncio.sleep(5)
            assert rig.shim.spooled == 0, "all of it was taken in and acknowledged"
            await tell(rig, life, "at last")
            await rig.wait_ended(3)

    run(tmp_path, test)


def test_what_ran_side_by_side_is_taken_up_though_only_one_may_run_now(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rig(tmp_path, defaults=TWO) as rig:
            for name in ("one", "two"):
                rig.claude.scripts[name] = asks_and_talks(name)
            async with rig.life() as life:
                await tell(rig, life, "one")
                await tell(rig, life, "two", thread="$a")
                await wait_running(rig, 2)
                await asyncio.sleep(1)
            rig.config = rig.config.model_copy(
                update={
                    "defaults": rig.config.defaults.model_copy(update={"max_parallel_turns": 1})
                }
            )
            async with rig.life():
                await rig.wait_ended(2)
            await check_both(rig)

    run_rooms(main())


def test_a_container_that_ends_at_any_step_costs_at_most_what_was_offered_to_it(
    tmp_path: Path,
) -> None:
    async def once(folder: Path, ends_at: int) -> int:
        async with open_rig(folder, defaults={**TWO, "snapshots": {"keep": 5}}) as rig:
            await rig.receive("one")
            await rig.receive("two", thread="$a")
            reached = asyncio.Event()
            async with rig.life(mark=(ends_at, reached)) as life:

                async def is_there() -> bool:
                    return reached.is_set() or len(await rig.outcomes()) == 2

                await rig.wait(is_there)
                info = await rig.info()
                if info is not None:
                    await rig.backend.stop(info.name, grace_s=0)
                await rig.wait_ended(2, timeout_s=60)
                count = life.points.count
            for turn in await rig.turns():
                asked = rig.claude.asked.count(turn.prompt)
                fits = {"done": asked == 1, "interrupted": asked <= 1}
                assert fits[str(turn.outcome)], (ends_at, turn.prompt, turn.outcome, asked)
            return count

    async def main() -> None:
        total = await once(tmp_path / "whole", 100_000)
        for ends_at in range(1, total, 3):
            await once(tmp_path / str(ends_at), ends_at)

    run_rooms(main())
