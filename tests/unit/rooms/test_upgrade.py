"""A room is replaced: its conversation goes on in the new one, where both rooms say so."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.naming import room_slug, runner_name
from orchestrator.errors import HomeserverUnreachableError, RequestRefusedError
from orchestrator.model import EventId, RoomId, RunnerState
from orchestrator.rooms.manager import RoomManager
from orchestrator.store.api import InboxKind, InboxRow
from orchestrator.store.inbox_table import InboxTable
from tests.support.room_rig import ALICE, INSTALLATION, ROOM, Life, Rig, open_rig, run_rooms
from tests.unit.rooms.scenario import hang, run, tell, works_for

NEW = RoomId("!new:test")
NEWER = RoomId("!newer:test")
STRANGER = "@stranger:else"


async def tombstone(rig: Rig, new: str = NEW, *, by: str = ALICE, room: RoomId = ROOM) -> None:
    content: Any = {"body": "replaced", "replacement_room": new}
    await rig.receive_event("m.room.tombstone", content, by, room, state_key="")


async def creation(rig: Rig, old: Any = ROOM, *, room: RoomId = NEW) -> None:
    """What the first sync of a room brings."""
    content = {"room_version": "11", "predecessor": {"room_id": old, "event_id": "$t"}}
    event = {"type": "m.room.create", "sender": ALICE, "state_key": "", "content": content}
    rig.events += 1
    event_id: Any = f"$create{rig.events}"
    await rig.receive_row(InboxKind.STATE, {**event, "event_id": event_id}, room, event_id)


async def deliver(rig: Rig) -> None:
    """What the rooms have said so far is sent."""
    while heads := await rig.store.outbox.outbox_heads(now=math.inf, limit=100):
        for row in heads:
            await rig.store.outbox.mark_sent(row.seq, EventId(f"$sent{row.seq}"), now=0.0)


async def upgrade(rig: Rig, life: Life) -> None:
    await tombstone(rig)
    await creation(rig)
    life.notify()
    await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)


def test_the_conversation_its_files_and_its_runner_go_on_in_the_new_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        before = await rig.store.rooms.ensure(ROOM, joined=True)
        async with rig.life() as life:
            await tell(rig, life, "remember")
            await rig.wait_ended(1)
            await deliver(rig)
            await upgrade(rig, life)
            await rig.receive("go on", room=NEW)
            life.notify()
            await rig.wait_ended(2)
        after = await rig.store.rooms.get(NEW)
        assert after is not None
        assert (after.slug, after.index, after.former) == (before.slug, before.index, (ROOM,))
        assert await rig.bodies(NEW) == [texts.ROOM_CONTINUES, "You said: go on"]
        assert len(rig.shims) == 1
        assert len(rig.claude.conversations) == 1
        info = await rig.info()
        assert info is not None
        assert (info.generation, info.state) == (1, RunnerState.RUNNING)
        old = await rig.store.rooms.get(ROOM)
        assert old is not None
        assert await rig.backend.inspect(runner_name(INSTALLATION, old.slug)) is None

    run(tmp_path, test)


def test_a_turn_that_runs_goes_on_and_its_answer_comes_in_the_new_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(20)
        async with rig.life() as life:
            await rig.receive("work")
            await rig.receive("next", sender="@bob:test")
            life.notify()
            await rig.wait_body("begun")
            await upgrade(rig, life)
            await rig.wait_ended(2)
        assert rig.claude.asked == ["work", "next"]
        assert "finished" not in await rig.bodies()
        assert (await rig.bodies(NEW))[-2:] == ["finished", "You said: next"]
        assert await rig.outcomes(NEW) == ["done", "done"]

    run(tmp_path, test)


def test_a_turn_of_the_new_room_can_be_stopped_and_asked_for_there(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        async with rig.life() as life:
            await tell(rig, life, "hang")
            await rig.wait_body("working")
            await upgrade(rig, life)
            await rig.receive("!cancel", room=NEW)
            life.notify()
            await rig.wait_body("Cancelled.", room=NEW)
        assert await rig.outcomes(NEW) == ["cancelled"]

    run(tmp_path, test)


@pytest.mark.parametrize("creation_first", [False, True])
def test_either_side_may_be_heard_of_first(tmp_path: Path, *, creation_first: bool) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive("before")
        async with rig.life() as life:
            await rig.wait_ended(1)
            await deliver(rig)
            for part in (creation, tombstone) if creation_first else (tombstone, creation):
                await part(rig)
                life.notify()
                await asyncio.sleep(5)
        assert await rig.bodies(NEW) == [texts.ROOM_CONTINUES]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("by", "named", "predecessor"),
    [
        (STRANGER, NEW, ROOM),
        (ALICE, NEW, "!somewhere:else"),
        (ALICE, NEW, {"not": "a room"}),
        (ALICE, "!somewhere:else", ROOM),
        (ALICE, "not a room", ROOM),
        (ALICE, ROOM, ROOM),
    ],
)
def test_a_room_is_not_followed_where_the_two_do_not_agree(
    tmp_path: Path, by: str, named: str, predecessor: Any
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "mine")
            await rig.wait_ended(1)
            before = await rig.store.rooms.get(ROOM)
            await tombstone(rig, named, by=by)
            await creation(rig, predecessor)
            life.notify()
            await rig.receive("steal", room=NEW)
            await tell(rig, life, "still mine")
            await rig.wait_ended(3)
        after = await rig.store.rooms.get(ROOM)
        assert before is not None
        assert after is not None
        assert (after.slug, after.index, after.moved_seq) == (before.slug, before.index, None)
        assert await rig.bodies(NEW) == ["You said: steal"]
        assert await rig.bodies() == ["You said: mine", "You said: still mine"]
        assert len(rig.shims) == 2

    run(tmp_path, test)


def test_a_room_with_turns_of_its_own_takes_over_no_other(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.receive("here", room=NEW)
            await tell(rig, life, "there")
            await rig.wait_ended(2)
            await tombstone(rig)
            await creation(rig)
            life.notify()
            await asyncio.sleep(5)
        assert texts.ROOM_CONTINUES not in await rig.bodies(NEW)
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert room.moved_seq is None

    run(tmp_path, test)


def test_nothing_of_an_encrypted_room_goes_into_one_that_is_not(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.encryption", {"algorithm": "x"}, state_key="")
        async with rig.life() as life:
            await tombstone(rig)
            await creation(rig)
            life.notify()
            await asyncio.sleep(5)
            assert await rig.bodies(NEW) == []
            await rig.receive_event(
                "m.room.encryption", {"algorithm": "x"}, ALICE, NEW, state_key=""
            )
            life.notify()
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)

    run(tmp_path, test)


def test_the_new_room_is_joined_and_where_that_is_refused_an_invitation_does_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        refused = RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="joining")
        rig.homeserver.errors = [HomeserverUnreachableError(), refused]
        await tombstone(rig)
        async with rig.life() as life:
            await asyncio.sleep(30)
            assert rig.homeserver.joined == []
            await tombstone(rig)
            life.notify()
            await asyncio.sleep(30)
            assert rig.homeserver.joined == [NEW]
        assert {state for state, _ in await rig.inbox_states()} == {"ignored"}

    run(tmp_path, test)


def test_what_is_said_in_the_old_room_later_is_told_once_in_the_new_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await upgrade(rig, life)
            await rig.receive("anybody?")
            await rig.receive("hello?")
            await rig.receive("me too", sender=STRANGER)
            await tell(rig, life, "!status")
            await asyncio.sleep(5)
        assert rig.claude.asked == []
        assert await rig.bodies(NEW) == [
            texts.ROOM_CONTINUES,
            texts.ROOM_REPLACED,
            texts.NOT_ALLOWED,
        ]
        assert await rig.bodies() == []
        assert ("used", "room replaced") in await rig.inbox_states()

    run(tmp_path, test)


def test_what_was_said_before_the_move_is_answered_in_the_new_room_also_after_a_crash(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive("just before")
        await tombstone(rig)
        await creation(rig)
        async with rig.life():
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
            assert await rig.turns() == []  # its window is open still
        async with rig.life():
            await rig.wait_ended(1)
        assert rig.claude.asked == ["just before"]
        assert (await rig.bodies(NEW))[-1] == "You said: just before"

    run(tmp_path, test)


def test_an_upgrade_behind_many_messages_of_the_old_room_is_seen_before_the_new_rooms_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = InboxTable.still_new

    async def slowly(self: InboxTable, seqs: Sequence[int]) -> Sequence[InboxRow]:
        await asyncio.sleep(3)  # a window closes within 2 s
        return await usual(self, seqs)

    monkeypatch.setattr(InboxTable, "still_new", slowly)

    async def test(rig: Rig) -> None:
        for number in range(40):
            await rig.receive(f"m{number}")
        await tombstone(rig)
        await creation(rig)
        await rig.receive("first", room=NEW)
        async with rig.life():
            await rig.wait_body("You said: first", room=NEW)
            await rig.wait_body("m39", room=NEW)
        bodies = await rig.bodies(NEW)
        assert bodies.count(texts.ROOM_CONTINUES) == 1
        assert len(rig.shims) == 1
        said = "\n".join(rig.claude.asked)
        assert [said.count(f"m{number}\n") for number in range(39)] == [1] * 39

    run(tmp_path, test, gateway={"sender_burst": 100})


def test_a_room_that_is_replaced_again_goes_on_in_the_latest(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await tell(rig, life, "remember")
            await rig.wait_ended(1)
            await deliver(rig)
            await upgrade(rig, life)
            await tombstone(rig, NEWER, room=NEW)
            await creation(rig, NEW, room=NEWER)
            await rig.receive("and now?", room=NEWER)
            await tell(rig, life, "lost?")
            await rig.wait_ended(2)
            await asyncio.sleep(2)
        room = await rig.store.rooms.get(NEWER)
        assert room is not None
        assert (room.slug, room.former) == (room_slug(ROOM), (NEW, ROOM))
        assert len(rig.claude.conversations) == 1
        assert set(await rig.bodies(NEWER)) == {
            texts.ROOM_CONTINUES,
            texts.ROOM_REPLACED,
            "You said: and now?",
        }

    run(tmp_path, test)


def test_leaving_the_old_room_afterwards_does_not_touch_what_moved(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(20)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            await upgrade(rig, life)
            await rig.receive_row(InboxKind.LEAVE, {})
            life.notify()
            await rig.wait_ended(1)
        assert await rig.outcomes(NEW) == ["done"]

    run(tmp_path, test)


def test_a_room_keeps_its_profile_under_its_new_id(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await upgrade(rig, life)
            await rig.receive("not addressed", room=NEW)
            life.notify()
            await asyncio.sleep(5)
            worker = life.manager.workers[NEW]
            assert worker.profile.trigger == "mention"
        assert rig.claude.asked == []

    run(tmp_path, test, rooms={ROOM: {"trigger": "mention"}})


async def upgrade_and_crash(folder: Path, crash_at: int) -> int:
    """A turn runs, the room is replaced, a crash at that step, another life."""
    async with open_rig(folder) as rig:
        rig.claude.scripts["work"] = works_for(20)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
        await rig.receive("said just before")
        await tombstone(rig)
        await creation(rig)
        async with rig.life(crash_at=crash_at) as life:
            await rig.wait_ended(2, life=life)
            count = life.points.count
        async with rig.life():
            await rig.wait_ended(2, timeout_s=60)
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
        assert rig.claude.asked == ["work", "said just before"], crash_at
        assert await rig.bodies() == [], crash_at
        bodies = await rig.bodies(NEW)
        answers = [b for b in bodies if b.startswith(("begun", "finished", "You said"))]
        assert answers == ["begun", "finished", "You said: said just before"], crash_at
        assert bodies.count(texts.ROOM_CONTINUES) == 1, crash_at
        assert len(rig.shims) == 1, crash_at
        return count


def test_a_crash_at_any_step_of_a_move_neither_loses_nor_doubles_anything(tmp_path: Path) -> None:
    steps = run_rooms(upgrade_and_crash(tmp_path / "none", 0))
    assert steps > 30
    for crash_at in range(1, steps + 1):
        run_rooms(upgrade_and_crash(tmp_path / str(crash_at), crash_at))


def test_a_move_that_is_no_longer_possible_leaves_the_old_room_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = RoomManager.move

    async def late(self: RoomManager, move: Any) -> None:
        await self._kit.store.rooms.ensure(NEW, joined=False)
        await usual(self, move)

    monkeypatch.setattr(RoomManager, "move", late)

    async def test(rig: Rig) -> None:
        rig.claude.scripts["work"] = works_for(10)
        async with rig.life() as life:
            await tell(rig, life, "work")
            await rig.wait_body("begun")
            await tombstone(rig)
            await creation(rig)
            life.notify()
            await rig.wait_ended(1)
        assert await rig.outcomes() == ["done"]
        assert rig.claude.asked == ["work"]

    run(tmp_path, test)
