"""What a running turn says while the account has nothing to spare: kept, and sent with its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.naming import room_slug, runner_name
from orchestrator.errors import RequestRefusedError
from orchestrator.model import EventId, JsonObject
from orchestrator.rooms import outgoing, turn_output
from tests.support.memory_claude import Turn
from tests.support.room_rig import INSTALLATION, ROOM, Rig
from tests.unit.rooms.scenario import run, tell

TOO_LARGE = RequestRefusedError(errcode="M_TOO_LARGE", status=413, what="uploading")


def saying(
    count: int, *, every_s: float = 3.0, chars: int = 0
) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    """So many blocks of text, one after the other."""

    async def script(turn: Turn) -> None:
        for i in range(count):
            turn.text(f"block {i}" + " word" * (chars // 5))
            await asyncio.sleep(every_s)
        turn.result()

    return script


def saying_at_once(blocks: list[str]) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    """These blocks and the end, without a pause."""

    async def script(turn: Turn) -> None:
        for block in blocks:
            turn.text(block)
        turn.result()

    return script


def paragraphs(name: str, words: str, *, count: int) -> str:
    """So many paragraphs, each told apart from all others."""
    return "\n\n".join(f"Paragraph {name}.{i}: {words}".strip() for i in range(count))


def mark_of(content: JsonObject) -> dict[str, Any]:
    mark = content["org.aiagentchat.turn"]
    assert isinstance(mark, dict)
    return mark


def test_what_cannot_be_shown_meanwhile_is_one_message_at_the_end(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        rig.claude.scripts["go"] = saying(6)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await rig.wait_ended(1)
        (said,) = await rig.said()
        assert str(said["body"]).split("\n\n") == [f"block {i}" for i in range(6)]
        assert mark_of(said)["final"] is True
        (turn,) = await rig.turns()
        assert turn.draft_chars == 0, "what was sent is not kept"

    run(tmp_path, test)


def test_kept_text_is_shown_as_soon_as_a_message_can_be_spared(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        spare: list[bool] = []
        rig.may_show = lambda _: bool(spare)
        rig.claude.scripts["go"] = saying(4, every_s=5)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(9)
            assert await rig.bodies() == []
            spare.append(True)
            await rig.wait_body("block 1", timeout_s=3)
            assert await rig.bodies() == ["block 0\n\nblock 1"]
            await rig.wait_ended(1)
        assert await rig.bodies() == ["block 0\n\nblock 1", "block 2", "block 3"]

    run(tmp_path, test)


def test_kept_text_does_not_hold_up_the_runners_output(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        rig.claude.scripts["go"] = saying(40, every_s=1)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(30)
            (turn,) = await rig.turns()
            assert turn.draft_chars > 200
            assert rig.shim.spooled < 10, "frames whose text is kept are acknowledged"
            await rig.wait_ended(1)

    run(tmp_path, test)


def test_kept_text_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        rig.claude.scripts["go"] = saying(8)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(10)
        async with rig.life():
            await rig.wait_ended(1)
        (body,) = await rig.bodies()
        assert body.split("\n\n") == [f"block {i}" for i in range(8)]

    run(tmp_path, test)


def test_what_was_kept_is_said_before_a_turn_is_given_up_with_its_runner(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        rig.claude.scripts["go"] = saying(100)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(10)
        await rig.backend.remove(runner_name(INSTALLATION, room_slug(ROOM)))
        async with rig.life():
            await rig.wait_ended(1)
        first, last = await rig.bodies()
        assert first.split("\n\n")[:2] == ["block 0", "block 1"]
        assert last.startswith("Interrupted")
        assert await rig.outcomes() == ["interrupted"]

    run(tmp_path, test)


def test_text_that_a_database_could_not_hold_is_kept_as_it_is_shown(tmp_path: Path) -> None:
    async def odd(turn: Turn) -> None:
        turn.text("a\ud800b\x00c\u202ed")
        await asyncio.sleep(10)
        turn.result()

    async def test(rig: Rig) -> None:
        rig.claude.scripts["odd"] = odd
        for shows in (True, False):
            rig.may_show = lambda _, shows=shows: shows  # type: ignore[misc] # a lambda with a default
            async with rig.life() as life:
                await tell(rig, life, f"odd {shows}")
                await rig.wait_ended(1 if shows else 2)
        shown, kept = await rig.bodies()
        assert shown == kept

    run(tmp_path, test)


def test_a_draft_that_grows_too_long_leaves_as_a_file_and_the_turn_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_output, "MAX_DRAFT_CHARS", 200_000)

    async def test(rig: Rig) -> None:
        rig.may_show = lambda _: False
        rig.claude.scripts["go"] = saying(25, every_s=2, chars=20_000)
        async with rig.life() as life:
            await tell(rig, life, "go")
            await asyncio.sleep(30)
            assert (await rig.turns())[0].draft_chars < 200_000
            assert "answer.md" in await rig.bodies()
            await rig.wait_ended(1)
        said = await rig.said()
        names = [c["body"] for c in said if c.get("msgtype") == "m.file"]
        assert len(set(names)) == len(names) > 1, "each file of a turn has a name of its own"
        assert [mark_of(c)["final"] for c in said] == [False] * (len(said) - 1) + [True]
        read = (await rig.read()).split()
        assert [w for w in read if w.isdigit()] == [str(i) for i in range(25)]
        assert read.count("word") == 25 * 4000

    run(tmp_path, test)


def test_an_answer_too_long_for_messages_is_its_beginning_and_a_file_with_all_of_it(
    tmp_path: Path,
) -> None:
    blocks = [paragraphs(f"{n}", "ä word " * 60, count=100) for n in range(10)]
    answer = "\n\n".join(blocks)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = saying_at_once(blocks)
        async with rig.life() as life:
            await tell(rig, life, "long")
            await rig.wait_ended(1)
        preview, file = await rig.said()
        shown = str(preview["body"]).partition("\n\n…\n\n")
        assert answer.startswith(shown[0])
        assert answer[len(shown[0])] == "\n", "the beginning ends with a paragraph"
        assert "The whole answer" in shown[2]
        assert file["msgtype"] == "m.file"
        (first,) = await rig.store.outbox.outbox_heads(now=2e9, limit=9)
        assert not first.has_file
        await rig.store.outbox.mark_sent(first.seq, EventId("$sent"), now=2e9)
        (second,) = await rig.store.outbox.outbox_heads(now=2e9, limit=9)
        assert second.has_file
        assert await rig.store.outbox.file(second.seq) == answer.encode()
        size = len(answer.encode())
        assert file["info"] == {"mimetype": "text/markdown", "size": size}
        assert [mark_of(c)["final"] for c in (preview, file)] == [False, True]

    run(tmp_path, test)


def test_the_smallest_limit_of_an_event_still_answers_in_an_encrypted_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["go"] = saying(3, chars=500)
        async with rig.life() as life:
            await tell(rig, life, "before")
            await rig.wait_ended(1)
            await rig.store.rooms.update(ROOM, encrypted=True)
            await tell(rig, life, "go")
            await rig.wait_ended(2)
        assert await rig.outcomes() == ["done", "done"]
        assert (await rig.read()).count("block") == 3

    run(tmp_path, test, gateway={"max_event_bytes": 4096})


@pytest.mark.parametrize("most", [50, 3])
def test_where_the_homeserver_takes_no_file_its_text_is_sent_as_messages_or_told_to_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(outgoing, "_MOST_INSTEAD_OF_FILE", most)
    blocks = [paragraphs(f"{n}", "word " * 90, count=100) for n in range(6)]
    answer = "\n\n".join(blocks)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["long"] = saying_at_once(blocks)
        async with rig.life() as life:
            await tell(rig, life, "long")
            await rig.wait_ended(1)
            (head,) = await rig.store.outbox.outbox_heads(now=2e9, limit=9)
            await rig.store.outbox.mark_sent(head.seq, EventId("$sent"), now=2e9)
            (row,) = await rig.store.outbox.outbox_heads(now=2e9, limit=9)
            for _ in range(2):  # a crash between the two steps repeats the first
                await life.manager.tell_refused(row, TOO_LARGE)
            await rig.store.outbox.mark_refused(row.seq, reason="M_TOO_LARGE", now=2e9)
            assert await rig.store.outbox.file(row.seq) is None
        instead = (await rig.said())[2:]
        assert instead[0]["body"] == texts.FILE_NOT_TAKEN
        marks = [mark_of(c) for c in instead]
        assert [m["final"] for m in marks] == [False] * (len(marks) - 1) + [True]
        assert marks[-1]["outcome"] == "done"
        assert all("outcome" not in m for m in marks[:-1])
        bodies = [str(c["body"]) for c in instead[1:]]
        if most == 50:
            assert " ".join(" ".join(bodies).split()) == " ".join(answer.split())
        else:
            assert len(bodies) == most + 1
            assert "KiB more are left out" in bodies[-1]

    run(tmp_path, test)
