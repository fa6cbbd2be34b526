"""A life ends at each step of a question and of a decision; nothing is lost, and nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.core.naming import room_slug
from tests.support.asking import (
    ACCESS,
    AGENTS,
    ALWAYS,
    CAROL,
    HOST,
    NO,
    listening,
    questions,
    relation,
    rows,
)
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import ROOM, Life, Rig, open_rig, run_rooms

SLUG = room_slug(ROOM)


async def refuse_until_asked(rig: Rig, life: Life) -> None:
    """The room's runner tries again and again, as programs do, until there is a question."""

    async def is_asked() -> bool:
        if rig.doors.listener is not None:
            rig.doors.connect(HOST)
        return life.points.crashed.is_set() or bool(await questions(rig))

    await rig.wait(is_asked)


async def ask_and_decide(folder: Path, crash_at: int, decision: str) -> int:
    """A crash at that step of asking and deciding, and another life that goes on."""
    async with open_rig(folder, access=ACCESS, agents=AGENTS) as rig:
        rig.account = MemoryHomeserver()
        await rig.store.rooms.ensure(ROOM, joined=True)
        async with rig.life(crash_at=crash_at) as life:
            await refuse_until_asked(rig, life)
            if not life.points.crashed.is_set():
                await decide(rig, life, decision)
            count = life.points.count
        async with rig.life() as life:
            await listening(rig)
            await refuse_until_asked(rig, life)
            await decide(rig, life, decision)
            await asyncio.sleep(2)
            is_granted = decision == ALWAYS
            assert rig.doors.connect(HOST) is is_granted, crash_at
            await asyncio.sleep(2)
        states = await rows(rig, "SELECT state, decided_by FROM approvals")
        assert states == [("granted_always" if is_granted else "refused", CAROL)], crash_at
        grants = await rows(rig, "SELECT rule, granted_by, revoked_at FROM grants")
        assert grants == ([("example.org:443", CAROL, None)] if is_granted else []), crash_at
        shown = [str(body) for body in rig.account.bodies(ROOM)]
        assert sum("**Refused: `example.org`**" in body for body in shown) == 1, crash_at
        told = sum("for good, by" in body or "stays refused, by" in body for body in shown)
        assert (told, len(shown)) == (1, 2), (crash_at, shown)
        assert await rig.inbox_states() == [("ignored", "reaction")], crash_at
        return count


async def decide(rig: Rig, life: Life, decision: str) -> None:
    """An approver reacts once, whichever life hears of it."""
    (question,) = await questions(rig)
    content = relation(question, decision)
    await rig.receive_event("m.reaction", content, CAROL, event_id="$reaction")
    life.notify()

    async def is_decided() -> bool:
        held = await rows(rig, "SELECT state FROM inbox")
        return life.points.crashed.is_set() or held == [("ignored",)]

    await rig.wait(is_decided)
    if not life.points.crashed.is_set():
        await asyncio.sleep(1)


@pytest.mark.parametrize("decision", [ALWAYS, NO])
def test_a_crash_at_any_step_asks_once_decides_once_and_grants_what_was_decided(
    tmp_path: Path, decision: str
) -> None:
    steps = run_rooms(ask_and_decide(tmp_path / "none", 0, decision))
    assert steps > 20
    for crash_at in range(1, steps + 1):
        run_rooms(ask_and_decide(tmp_path / str(crash_at), crash_at, decision))


async def expire(folder: Path, crash_at: int) -> int:
    """A crash at that step of an expiry."""
    sections = {"access": ACCESS, "defaults": {"approval_timeout_s": 60}}
    async with open_rig(folder, **sections) as rig:
        rig.account = MemoryHomeserver()
        await rig.store.rooms.ensure(ROOM, joined=True)
        async with rig.life() as life:
            await refuse_until_asked(rig, life)
        async with rig.life(crash_at=crash_at) as life:
            await asyncio.sleep(90)
            count = life.points.count
        async with rig.life():
            await asyncio.sleep(90)
        assert await rows(rig, "SELECT state FROM approvals") == [("expired",)], crash_at
        shown = [str(body) for body in rig.account.bodies(ROOM)]
        assert sum(body.startswith("Expired:") for body in shown) == 1, (crash_at, shown)
        return count


def test_a_crash_at_any_step_of_an_expiry_tells_it_once(tmp_path: Path) -> None:
    steps = run_rooms(expire(tmp_path / "none", 0))
    for crash_at in range(1, steps + 1):
        run_rooms(expire(tmp_path / str(crash_at), crash_at))
