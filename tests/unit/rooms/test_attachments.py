"""Files that people send are in the workspace when the turn begins; what can't be had is told."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.texts import file as texts
from orchestrator.errors import HomeserverUnreachableError, RequestRefusedError
from tests.support.room_rig import Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import audit, run, works_for
from tests.unit.rooms.test_amending import redact
from tests.unit.rooms.test_room_settings import say

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50


def file_of(media_id: str, name: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.file", "body": name, "url": f"mxc://test/{media_id}", **more}


def held(rig: Rig) -> dict[str, bytes]:
    root = rig.claude.workspace
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_file_is_in_the_workspace_and_the_agent_is_told_its_path(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.media = {"one": PNG, "two": b"words"}
        async with rig.life() as life:
            await rig.receive_event("m.room.message", file_of("one", "../a b.png"))
            caption = file_of("two", "look at this", filename="b.txt")
            await rig.receive_event("m.room.message", caption)
            life.notify()
            await rig.wait_ended(1)
        assert held(rig) == {"uploads/a_b.png": PNG, "uploads/b.txt": b"words"}
        (asked,) = rig.claude.asked
        assert "look at this" in asked
        assert "- uploads/a_b.png (image/png, 58 B)" in asked
        assert "- uploads/b.txt (text/plain, 5 B)" in asked

    run(tmp_path, test)
    assert audit(tmp_path) == ()


def test_an_image_is_shown_to_the_model(tmp_path: Path) -> None:
    picture = PNG[:8] + struct.pack(">I4sII", 13, b"IHDR", 10, 20) + b"x" * 50

    async def test(rig: Rig) -> None:
        rig.media = {"one": picture, "two": PNG}
        async with rig.life() as life:
            for name in ("one", "two"):
                await rig.receive_event("m.room.message", file_of(name, f"{name}.png"))
            life.notify()
            await rig.wait_ended(1)
        assert rig.claude.images == [("image/png", picture)], "what has no size is no image"
        (asked,) = rig.claude.asked
        assert "- uploads/one.png (image/png, 74 B, shown above)" in asked
        assert "- uploads/two.png (image/png, 58 B)" in asked

    run(tmp_path, test)


def test_a_name_that_is_there_already_stays_what_it_is(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.media = {"one": b"1", "two": b"2"}
        async with rig.life() as life:
            for number, media in enumerate(("one", "two"), start=1):
                await rig.receive_event("m.room.message", file_of(media, "a.txt"))
                life.notify()
                await rig.wait_ended(number)
        assert held(rig) == {"uploads/a.txt": b"1", "uploads/a-2.txt": b"2"}

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("found", "size", "reason"),
    [
        (b"x" * 2000, None, texts.too_large(2000, 1000)),
        (b"x", 5000, texts.too_large(5000, 1000)),
        (ValueError("hash"), None, texts.DAMAGED),
        (RequestRefusedError(errcode="M_NOT_FOUND", status=404, what="x"), None, texts.NOT_FETCHED),
        (HomeserverUnreachableError("gone"), None, texts.NOT_FETCHED),
    ],
)
def test_a_file_that_can_not_be_had_is_told_and_the_turn_runs(
    tmp_path: Path, found: Any, size: int | None, reason: str
) -> None:
    async def test(rig: Rig) -> None:
        rig.media = {"one": found}
        info = {"info": {"size": size}} if size is not None else {}
        async with rig.life() as life:
            await rig.receive_event("m.room.message", file_of("one", "a.txt", **info))
            life.notify()
            await rig.wait_ended(1)
        assert texts.not_taken("a.txt", reason) in await rig.bodies()
        assert reason in rig.claude.asked[0]
        assert held(rig) == {}

    run(tmp_path, test, defaults={"files": {"max_size": 1000}})


def test_no_more_than_so_many_are_taken_with_one_turn(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.media = {f"m{n}": b"x" for n in range(4)}
        async with rig.life() as life:
            for number in range(4):
                await rig.receive_event("m.room.message", file_of(f"m{number}", f"{number}.txt"))
            life.notify()
            await rig.wait_ended(1)
        assert set(held(rig)) == {"uploads/0.txt", "uploads/1.txt"}
        told = [b for b in await rig.bodies() if b.startswith("The file")]
        assert [texts.TOO_MANY in body for body in told] == [True, True]

    run(tmp_path, test, defaults={"files": {"received_per_turn": 2}})


def test_a_room_that_takes_none_says_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.receive_event("m.room.message", file_of("one", "a.txt"))
            life.notify()
            await asyncio.sleep(3)
        assert await rig.bodies() == [texts.TAKES_NONE]
        assert await rig.turns() == []

    run(tmp_path, test, defaults={"files": {"received_per_turn": 0}})


def test_a_file_that_is_taken_back_while_it_waits_never_comes(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.media = {"one": b"1"}
        rig.claude.scripts["long"] = works_for(20)
        async with rig.life() as life:
            await rig.receive("long")
            life.notify()
            await rig.wait_body("begun")
            event = await rig.receive_event("m.room.message", file_of("one", "a.txt"))
            life.notify()
            await asyncio.sleep(2)
            await redact(rig, life, event)
            await rig.wait_ended(2)
        assert held(rig) == {}
        assert rig.claude.asked == ["long"]

    run(tmp_path, test)


@pytest.mark.parametrize("step", range(26))
def test_a_crash_at_any_step_brings_it_once(tmp_path: Path, step: int) -> None:
    async def main() -> None:
        async with open_rig(tmp_path) as rig:
            rig.media = {"one": b"1"}
            await rig.receive_event("m.room.message", file_of("one", "a.txt"))
            async with rig.life(crash_at=step) as life:
                await rig.wait_ended(1, life=life)
            async with rig.life():
                await rig.wait_ended(1)
            assert held(rig) == {"uploads/a.txt": b"1"}
            (asked,) = rig.claude.asked
            assert "uploads/a.txt" in asked

    run_rooms(main())


def test_files_are_listed_and_sent_and_nothing_behind_a_link(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        root = rig.claude.workspace
        (root / "sub").mkdir(parents=True)
        (root / "sub" / "b.txt").write_text("b")
        (root / "a.png").write_bytes(PNG)
        (root / "link").symlink_to("/etc/passwd")
        (root / "up").symlink_to("/etc")
        async with rig.life() as life:
            listed = await say(rig, life, "!ls")
            assert "`a.png` · 58 B" in listed
            assert "`sub/`" in listed
            assert "`link` · a link" in listed
            assert "`sub/b.txt`" in await say(rig, life, "!ls ./sub/")
            await say(rig, life, "!get a.png")
            sent = (await rig.said())[-1]
            assert (sent["msgtype"], sent["body"]) == ("m.image", "a.png")
            for path in ("link", "up/passwd", "../x", "/etc/passwd", "nothing", "sub", ""):
                answer = await say(rig, life, f"!get {path}")
                assert answer.endswith(texts.GET_FORM), path
                assert "root:" not in answer
            assert (await say(rig, life, "!ls up")).endswith(texts.LS_FORM)

    run(tmp_path, test)
