"""A word counts by what its sender is when it is read; what they were before counts for nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ACCESS, AGENTS, CAROL, handle, react, rows, run_asking
from tests.support.outbox import FlakyHomeserver
from tests.support.room_rig import ALICE, Life, Rig, config
from tests.unit.rooms.test_asking import react_early
from tests.unit.rooms.test_people import settle, state
from tests.unit.rooms.test_tool_asking import begin, reply, states

ADMIN = "@admin:test"
READERS = {"readers": ["@*:test"], "admins": [ADMIN]}
BY_LEVEL = {**READERS, "power_levels": {"user": 10, "approver": 50}}
ASKER = {"deciders": "asker"}
OPEN = [("open", None, None)]


async def by_reaction(rig: Rig, life: Life, question: str, who: str) -> None:
    await react(rig, life, question, "✅", by=who)


async def by_reply(rig: Rig, life: Life, question: str, who: str) -> None:
    await reply(rig, life, question, "not like this", by=who)


async def by_command(rig: Rig, life: Life, _: str, who: str) -> None:
    await rig.receive("!approve", sender=who)
    await handle(life)


WAYS = [by_reaction, by_reply, by_command]
Way = Callable[[Rig, Life, str, str], Awaitable[None]]


def membership(value: str, who: str = ALICE) -> Callable[[Rig], Awaitable[None]]:
    async def change(rig: Rig) -> None:
        await state(rig, "m.room.member", {"membership": value}, key=who, sender=ADMIN)

    return change


def levels(**users: int) -> Callable[[Rig], Awaitable[None]]:
    async def change(rig: Rig) -> None:
        named = {f"@{name}:test": level for name, level in users.items()}
        await state(rig, "m.room.power_levels", {"users": named}, sender=ADMIN)

    return change


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "change",
    [membership("leave"), membership("ban"), levels(alice=9)],
    ids=["kicked", "banned", "demoted"],
)
def test_an_asker_who_may_not_run_turns_any_more_decides_nothing(
    tmp_path: Path, change: Callable[[Rig], Awaitable[None]], way: Way
) -> None:
    async def test(rig: Rig) -> None:
        await state(rig, "m.room.create", {"room_version": "11"}, sender=ADMIN)
        await levels(alice=10)(rig)
        async with rig.life() as life:
            await settle(rig, life)
            question = await begin(rig, life)
            await change(rig)
            await way(rig, life, question, ALICE)
            assert await states(rig) == OPEN
            await by_reaction(rig, life, question, ADMIN)
            assert (await states(rig))[0][:2] == ("granted_once", ADMIN)

    run_asking(tmp_path, test, defaults=ASKER, access=BY_LEVEL)


def test_an_asker_who_is_back_decides_again(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
            await membership("leave")(rig)
            await by_reaction(rig, life, question, ALICE)
            assert await states(rig) == OPEN
            await membership("join")(rig)
            await by_reaction(rig, life, question, ALICE)
            assert (await states(rig))[0][:2] == ("granted_once", ALICE)

    run_asking(tmp_path, test, defaults=ASKER)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "after",
    [
        {"access": {**READERS, "approvers": [CAROL]}, "defaults": ASKER},
        {"access": ACCESS, "defaults": {"deciders": "approvers"}},
    ],
    ids=["a reader now", "approvers alone now"],
)
def test_after_a_reload_an_asker_decides_what_the_file_lets_them_now(
    tmp_path: Path, after: dict[str, Any], way: Way
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
        rig.config = config(**after, agents=AGENTS)
        async with rig.life() as life:
            await way(rig, life, question, ALICE)
            assert await states(rig) == OPEN
            await by_reaction(rig, life, question, CAROL)
            assert (await states(rig))[0][:2] == ("granted_once", CAROL)

    run_asking(tmp_path, test, defaults=ASKER)


@pytest.mark.parametrize("way", WAYS)
def test_an_approver_whom_a_reload_took_off_the_list_decides_nothing(
    tmp_path: Path, way: Way
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await begin(rig, life)
        rig.config = config(access={"users": [ALICE, CAROL], "admins": [ADMIN]}, agents=AGENTS)
        async with rig.life() as life:
            await way(rig, life, question, CAROL)
            assert await states(rig) == OPEN
            await by_reaction(rig, life, question, ADMIN)
            assert (await states(rig))[0][:2] == ("granted_once", ADMIN)

    run_asking(tmp_path, test)


@pytest.mark.parametrize("way", WAYS)
def test_an_approver_by_power_level_who_lost_it_decides_nothing(tmp_path: Path, way: Way) -> None:
    async def test(rig: Rig) -> None:
        await state(rig, "m.room.create", {"room_version": "11"}, sender=ADMIN)
        await levels(alice=10, carol=50)(rig)
        async with rig.life() as life:
            await settle(rig, life)
            question = await begin(rig, life)
            await levels(alice=10, carol=49)(rig)
            await way(rig, life, question, CAROL)
            assert await states(rig) == OPEN

    run_asking(tmp_path, test, access=BY_LEVEL)


def test_who_leaves_while_their_reaction_waits_decides_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        account = rig.account = FlakyHomeserver(accepts=True)
        async with rig.life() as life:
            await react_early(rig, life, account)
            assert await rig.inbox_states() == [("new", None)]
            await membership("leave", CAROL)(rig)
            await handle(life)
            account.is_away = lambda _: False
            await settle(rig, life)
            assert await rows(rig, "SELECT state FROM approvals") == [("open",)]
            assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


def test_who_was_promoted_after_they_came_back_decides(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await state(rig, "m.room.create", {"room_version": "11"}, sender=ADMIN)
        await levels(alice=10, carol=50)(rig)
        async with rig.life() as life:
            await settle(rig, life)
            question = await begin(rig, life)
            await membership("leave", CAROL)(rig)
            await levels(alice=10)(rig)
            await membership("join", CAROL)(rig)
            await levels(alice=10, carol=50)(rig)
            await by_reaction(rig, life, question, CAROL)
            assert (await states(rig))[0][:2] == ("granted_once", CAROL)

    run_asking(tmp_path, test, access=BY_LEVEL)
