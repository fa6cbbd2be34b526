"""Files beside a line that is busy: they wait for their place in it, and hold nobody up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.texts import file as texts
from orchestrator.rooms.line import MAILBOX_FRAMES
from tests.support.memory_claude import Turn
from tests.support.memory_shim import MemoryShim
from tests.support.room_rig import Rig
from tests.support.virtual_time import loop_clock
from tests.unit.rooms.scenario import run, tell, wait_running, works_for
from tests.unit.rooms.test_sending import PNG, ask_for, fill, sends

TWO = {"max_parallel_turns": 2}


def babble(turn: Turn, count: int) -> None:
    """What a CLI prints of an answer while it makes it."""
    for _ in range(count):
        turn.line(type="stream_event", event={"type": "content_block_delta"})


def sends_and_babbles(count: int) -> Any:
    async def script(turn: Turn) -> None:
        ask_for(turn, 1, "out/chart.png")
        babble(turn, count)
        result = (await turn.wait_answer("m1"))["response"]["mcp_response"]["result"]
        turn.text(str(result["content"][0]["text"]))
        turn.result()

    return script


@pytest.mark.parametrize("knows_asides", [True, False])
def test_a_file_is_sent_while_its_own_turn_prints_more_than_a_line_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, knows_asides: bool
) -> None:
    monkeypatch.setattr(MemoryShim, "knows_asides", knows_asides)

    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.scripts["go"] = sends_and_babbles(4 * MAILBOX_FRAMES)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        image, answer = await rig.said()
        assert (image["msgtype"], answer["body"]) == ("m.image", texts.SENT)

    run(tmp_path, test)


def test_a_file_that_comes_slowly_holds_no_other_turn_of_the_room_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.files_wait_s = 15
        rig.claude.scripts["go"] = sends_and_babbles(4 * MAILBOX_FRAMES)
        rig.claude.scripts["work"] = works_for(1)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_running(rig)
            await tell(rig, life, "work", thread="$a")
            await rig.wait_ended(1)
            assert {turn.prompt: turn.outcome for turn in await rig.turns()} == {
                "go": None,
                "work": "done",
            }
            await rig.wait_ended(2)
        assert [c["body"] for c in await rig.said()][-1] == texts.SENT

    run(tmp_path, test, defaults=TWO)


def test_the_runners_silence_counts_only_while_somebody_listens(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.scripts["go"] = works_for(100)
        rig.claude.scripts["work"] = sends("out/chart.png")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_running(rig)
            (shim,) = rig.shims
            (talker,) = [one for name, one in shim.sessions.items() if name != "files"]
            # A flood: the room is read at a pace, and what the program says stands behind it.
            for _ in range(400):
                talker.write("x" * 200_000)
            began = loop_clock()
            await tell(rig, life, "!get out/chart.png")
            await rig.wait_body(texts.gotten("out/chart.png", len(PNG)))
            assert loop_clock() - began > 25, "longer than a silence may last"
            await rig.wait_ended(1)

    run(tmp_path, test)


def test_a_program_that_is_silent_is_given_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.files_wait_s = 3600
        rig.claude.scripts["go"] = sends("out/chart.png")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        (answer,) = await rig.said()
        assert answer["body"] == f"True: {texts.NOT_NOW}"

    run(tmp_path, test)


def test_files_of_one_turn_are_sent_one_after_the_other_and_no_more_than_so_many(
    tmp_path: Path,
) -> None:
    async def script(turn: Turn) -> None:
        for number in range(4):
            ask_for(turn, number, "a.txt")
        said = [
            (await turn.wait_answer(f"m{n}"))["response"]["mcp_response"]["result"]["isError"]
            for n in range(4)
        ]
        turn.result(str(said))

    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.scripts["go"] = script
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        *files, answer = await rig.said()
        assert [file["msgtype"] for file in files] == ["m.file", "m.file"]
        assert answer["body"] == "[False, False, True, True]"

    run(tmp_path, test, defaults={"files": {"sent_per_turn": 2}})


def test_a_turn_that_is_cancelled_while_a_file_comes_ends_and_sends_none(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        fill(rig)
        rig.claude.files_wait_s = 10
        rig.claude.scripts["go"] = sends("out/chart.png")
        async with rig.life() as life:
            await tell(rig, life, "go")
            await wait_running(rig)
            await asyncio.sleep(1)
            await tell(rig, life, "!cancel")
            await rig.wait_ended(1)
            await asyncio.sleep(30)
        assert [str(turn.outcome) for turn in await rig.turns()] == ["cancelled"]
        assert [c for c in await rig.said() if c.get("msgtype") == "m.image"] == []

    run(tmp_path, test)
