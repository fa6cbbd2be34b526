"""`!diff`, `!undo`, `!export`, `!clone` on a real workspace and the real program that reads it."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.texts import workspace as texts
from orchestrator.core.turn_mark import ANSWER_KEY
from tests.support.memory_claude import Turn
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import run, tell, works_for
from tests.unit.rooms.test_room_settings import say

KEPT = {"snapshots": {"keep": 3}}


def writes(rig: Rig, **files: str | None) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    """A turn that writes (or, with None, removes) these files of its workspace."""

    async def script(turn: Turn) -> None:
        await asyncio.sleep(0.2)
        for name, text in files.items():
            path = rig.claude.workspace / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True) if text is None else path.write_text(text)
        turn.text("written")
        turn.result("written")

    return script


async def turn(rig: Rig, life: Life, word: str, count: int, **files: str | None) -> None:
    rig.claude.scripts = {word: writes(rig, **files), **rig.claude.scripts}
    await tell(rig, life, word)
    await rig.wait_ended(count)
    await asyncio.sleep(2)


def held(rig: Rig) -> dict[str, str]:
    root = rig.claude.workspace
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_what_a_turn_changed_is_shown_as_a_diff(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            assert await say(rig, life, "!diff") == texts.NO_TURN
            await turn(rig, life, "one", 1, a="old\nsame\n", gone="x\n")
            await turn(rig, life, "two", 2, a="new\nsame\n", gone=None, sub__b="b\n")
            shown = await say(rig, life, "!diff")
            assert "-old" in shown
            assert "+new" in shown
            assert " same" in shown
            assert "```diff" in shown
            assert "gone" in shown
            assert "sub/b" in shown
            both = await say(rig, life, "!diff 2")
            assert "-old" not in both
            assert await say(rig, life, "!diff 9") == texts.too_far(9, 2)
            for wrong in ("!diff x", "!diff 0", "!diff -1"):
                assert await say(rig, life, wrong) == texts.DIFF_USAGE

    run(tmp_path, test, defaults=KEPT)


def test_undo_brings_files_and_conversation_back_and_again_one_further(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="1", keep="k")
            await turn(rig, life, "two", 2, a="2", new="n")
            (seen,) = rig.claude.conversations.values()
            assert len(seen) == 2
            assert "`two`" in await say(rig, life, "!undo")
            assert held(rig) == {"a": "1", "keep": "k"}
            assert len(seen) == 1
            await say(rig, life, "!undo back")
            assert held(rig) == {"a": "2", "keep": "k", "new": "n"}
            await say(rig, life, "!undo")
            assert held(rig) == {}
            assert await say(rig, life, "!undo") == texts.NOTHING_TO_UNDO
            assert await say(rig, life, "!undo everything") == texts.UNDO_USAGE

    run(tmp_path, test, defaults=KEPT)


def test_nothing_is_undone_while_a_turn_runs(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="1")
            rig.claude.scripts["long"] = works_for(20)
            await tell(rig, life, "long")
            await rig.wait_body("begun")
            assert await say(rig, life, "!undo") == texts.BUSY["undo"]
            assert held(rig) == {"a": "1"}
            await rig.wait_ended(2)

    run(tmp_path, test, defaults=KEPT)


@pytest.mark.parametrize("step", range(0, 40, 2))
def test_a_crash_at_any_step_of_an_undo_leaves_it_done_once(tmp_path: Path, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path, defaults=KEPT) as rig:
            async with rig.life() as life:
                await turn(rig, life, "one", 1, a="1")
                await turn(rig, life, "two", 2, a="2", b="2")
            before = len(await rig.bodies())
            await rig.receive("!undo")
            async with rig.life(crash_at=step) as life:

                async def is_over() -> bool:
                    return life.points.crashed.is_set() or len(await rig.bodies()) > before

                await rig.wait(is_over)
            async with rig.life() as life:

                async def is_answered() -> bool:
                    return len(await rig.bodies()) > before

                await rig.wait(is_answered)
                await asyncio.sleep(5)
            assert held(rig) == {"a": "1"}, (await rig.bodies())[before:]
            assert len(await rig.bodies()) == before + 1, step
            (seen,) = rig.claude.conversations.values()
            assert len(seen) == 1

    run_rooms(main())


def test_an_export_holds_the_workspace_and_nothing_beside_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.account = MemoryHomeserver()
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="1", sub__b="2")
            (rig.claude.workspace / "link").symlink_to("/etc/passwd")
            await say(rig, life, "!export")
            await asyncio.sleep(3)
        ((_, _, data),) = rig.account.uploads
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.read("workspace/a") == b"1"
            assert archive.read("workspace/sub/b") == b"2"
            assert archive.read("workspace/link") == b"/etc/passwd", "the link, not its target"
            assert len(archive.namelist()) == 4

    run(tmp_path, test, defaults=KEPT)


def test_a_repository_is_cloned_by_https_and_without_secrets_in_its_address(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        url = "https://example.org/team/project.git"
        rig.claude.clones[url] = 0
        async with rig.life() as life:
            await say(rig, life, f"!clone {url}")
            assert held(rig) == {"project/README": "cloned"}
            again = await say(rig, life, f"!clone {url}")
            assert "project" in again
            for wrong in (
                "!clone",
                "!clone http://example.org/x.git",
                "!clone file:///etc",
                "!clone https://user:hunter2@example.org/x.git",
                "!clone --upload-pack=x",
            ):
                answer = await say(rig, life, wrong)
                assert "hunter2" not in answer
            assert set(held(rig)) == {"project/README"}

    run(tmp_path, test, defaults=KEPT)


async def marks_of(rig: Rig, asked: str) -> list[tuple[str, bool, bool]]:
    """Of what answers a command: kind, whether it is the last, whether it tells how it stands."""
    found: list[Any] = [c for c in await rig.said() if ANSWER_KEY in c]
    return [
        (c["msgtype"], c[ANSWER_KEY]["final"], c[ANSWER_KEY].get("live", False))
        for c in found
        if c[ANSWER_KEY]["to"] == asked
    ]


def test_how_a_clone_stands_is_not_the_end_of_its_answer(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        url = "https://example.org/team/project.git"
        rig.claude.clones[url], rig.claude.clone_s = 0, 150
        async with rig.life() as life:
            asked = await rig.receive(f"!clone {url}")
            life.notify()
            await rig.wait_body(texts.cloned(url, "project"), timeout_s=300)
        progress, end = ("m.notice", False, True), ("m.notice", True, False)
        assert await marks_of(rig, asked) == [progress, progress, end]

    run(tmp_path, test, defaults=KEPT)


@pytest.mark.parametrize("command", ["!export", "!get a"])
def test_where_a_file_goes_with_an_answer_it_is_its_end(tmp_path: Path, command: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="1")
            asked = await rig.receive(command)
            life.notify()

            async def is_sent() -> bool:
                return len(await marks_of(rig, asked)) > 1

            await rig.wait(is_sent)
        assert await marks_of(rig, asked) == [("m.notice", False, False), ("m.file", True, False)]

    run(tmp_path, test, defaults=KEPT)


def test_a_room_without_copies_says_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            assert await say(rig, life, "!diff") == texts.OFF
            assert await say(rig, life, "!undo") == texts.OFF

    run(tmp_path, test)


def test_a_workspace_that_is_too_large_is_said_and_its_turns_run(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await turn(rig, life, "one", 1, a="x" * 5000)
            await turn(rig, life, "two", 2, b="1")
            answer = await say(rig, life, "!undo")
            assert "is copied" in answer
            assert (rig.claude.workspace / "b").exists()

    run(tmp_path, test, defaults={"snapshots": {"keep": 3, "max_size": 1000}})
