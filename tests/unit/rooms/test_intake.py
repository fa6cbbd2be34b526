"""From inbox rows to turns: each row by itself, whatever stands in it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import texts
from orchestrator.core.texts import file as file_texts
from orchestrator.errors import (
    HomeserverUnreachableError,
    RateLimitedError,
    RequestRefusedError,
    StoreCorruptError,
)
from orchestrator.model import RoomId
from orchestrator.rooms.intake import KEY_PATIENCE_S
from orchestrator.store.api import InboxKind
from tests.support.room_rig import ALICE, ME, ROOM, Rig
from tests.unit.rooms.scenario import hang, run, tell

STRANGER = "@stranger:else"


def invite(by: str) -> dict[str, Any]:
    member = {"type": "m.room.member", "sender": by, "state_key": ME}
    return {"events": [{**member, "content": {"membership": "invite"}}]}


def sealed(key: str, text: str, **more: Any) -> Any:
    clear = {
        "type": "m.room.message",
        "sender": ALICE,
        "content": {"msgtype": "m.text", "body": text},
        **more,
    }
    return {"key": key, "clear": clear}


def test_a_burst_is_one_turn_and_two_people_are_two(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await rig.receive("one")
            await rig.receive("two")
            await tell(rig, life, "three")
            await rig.wait_ended(1)
            await rig.receive("mine", sender="@bob:test")
            await tell(rig, life, "yours")
            await rig.wait_ended(3)
            assert rig.homeserver.read[-1][0] == ROOM
        assert rig.claude.asked == ["one\n\ntwo\n\nthree", "mine", "yours"]

    run(tmp_path, test)


def test_poisoned_rows_take_nothing_along(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        poison: list[Any] = [
            "{",
            "[1,2]",
            "null",
            "[" * 20_000,
            {"type": "m.room.message"},
            {"type": 5, "sender": ALICE, "event_id": "$x", "content": {}},
            '{"type": "m.room.message", "n": ' + "9" * 5000 + "}",
        ]
        for kind in (InboxKind.TIMELINE, InboxKind.SUMMARY, InboxKind.STATE, InboxKind.TO_DEVICE):
            for i, raw in enumerate(poison):
                await rig.receive_row(kind, raw, ROOM, f"$poison{kind}{i}")  # type: ignore[arg-type]
        for raw in poison:
            await rig.receive_row(InboxKind.TIMELINE, raw, None)
            await rig.receive_row(InboxKind.INVITE, raw)
        await rig.receive("still here?")
        async with rig.life():
            await rig.wait_ended(1)
        assert await rig.bodies() == ["You said: still here?"]
        states = await rig.inbox_states()
        assert ("failed", "ValidationError") in states
        assert "new" not in [state for state, _ in states]

    run(tmp_path, test)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"msgtype": "m.notice", "body": "a bot"},
        {"msgtype": "m.text", "body": "edit", "m.relates_to": {"rel_type": "m.replace"}},
        {"msgtype": "m.location", "body": "here"},
    ],
)
def test_what_is_no_message_to_the_agent_starts_nothing(tmp_path: Path, content: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.message", content)
        await rig.receive_event("m.reaction", {})
        await rig.receive("my own", sender=ME)
        async with rig.life():
            await asyncio.sleep(5)
        assert await rig.turns() == []
        assert await rig.bodies() == []

    run(tmp_path, test)


def test_who_may_not_ask_is_told_once_and_the_outbox_is_woken(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        woken: list[int] = []
        await rig.receive("let me in", sender=STRANGER)
        await rig.receive("please", sender=STRANGER)
        await rig.receive_event("m.room.message", {"msgtype": "m.image", "body": "cat.png"})
        await rig.receive_event("m.room.message", {"msgtype": "m.text", "body": "  "})
        async with rig.life() as life:
            life.intake._messages._notify_outbox = lambda: woken.append(1)
            await asyncio.sleep(5)
        assert await rig.bodies() == [
            texts.NOT_ALLOWED,
            file_texts.not_taken("cat.png", file_texts.UNREADABLE),
            texts.EMPTY_MESSAGE,
        ]
        assert len(woken) >= 3

    run(tmp_path, test)


def test_too_many_people_at_once_are_told_and_nobody_is_forgotten(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["hang"] = hang
        for i in range(66):
            await rig.receive(f"person {i}", sender=f"@user{i}:test")
        async with rig.life():
            await asyncio.sleep(30)
        assert (await rig.bodies()).count(texts.TOO_MANY_AT_ONCE) == 2

    run(
        tmp_path,
        test,
        access={"users": ["@user*:test"]},
        gateway={"max_queued_turns": 100},
        defaults={"trigger": "all"},
    )


def test_a_key_that_comes_late_opens_what_waited_for_it_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.encrypted", sealed("k1", "secret"))
        await rig.receive_event("m.room.encrypted", sealed("k2", "other"))
        async with rig.life() as life:
            await asyncio.sleep(5)
            assert await rig.turns() == []
            await rig.receive_row(InboxKind.TO_DEVICE, {"key": "k1", "room_id": ROOM}, None)
            life.notify()
            await rig.wait_ended(1)
        rig.encryption.keys.add("k2")
        async with rig.life():
            await rig.wait_ended(2)
        assert rig.claude.asked == ["secret", "other"]

    run(tmp_path, test)


def test_a_key_that_opens_much_delays_no_other_room_and_opens_each_event_once(
    tmp_path: Path,
) -> None:
    other = RoomId("!other:test")

    async def test(rig: Rig) -> None:
        for i in range(40):
            await rig.receive_event("m.room.encrypted", sealed("k", f"[{i}]"))
        async with rig.life() as life:
            await asyncio.sleep(5)
            order: list[RoomId | None] = []
            handle = life.intake._handle

            async def note(row: Any) -> None:
                order.append(row.room_id)
                await handle(row)

            life.intake._handle = note  # type: ignore[method-assign] # it passes on to the real one
            await rig.receive("later, in the same room")
            await rig.receive("and here?", room=other)
            for _ in range(2):
                await rig.receive_row(InboxKind.TO_DEVICE, {"key": "k", "room_id": ROOM}, None)
            life.notify()
            await rig.wait_ended(2)
        assert order.index(other) <= 6
        assert len(order) == 44
        in_room = next(asked for asked in rig.claude.asked if "[0]" in asked)
        wanted = [*(f"[{i}]" for i in range(40)), "later, in the same room"]
        assert in_room.split("\n\n") == wanted

    run(tmp_path, test)


def test_what_is_never_opened_is_told_once_and_only_for_those_who_may_ask(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        for i in range(20):
            await rig.receive_event("m.room.encrypted", sealed("k", f"{i}"))
        for sender in (STRANGER, ME):
            await rig.receive_event(
                "m.room.encrypted", sealed("k", "x"), sender, RoomId("!other:test")
            )
        async with rig.life():
            await asyncio.sleep(KEY_PATIENCE_S + 100)
        assert await rig.bodies() == [texts.UNDECRYPTABLE]
        assert await rig.bodies(RoomId("!other:test")) == []
        assert "pending_keys" not in [state for state, _ in await rig.inbox_states()]

    run(tmp_path, test)


def test_an_encrypted_event_can_not_pass_for_the_rooms_state(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.encryption.keys.add("k")
        alias = {"type": "m.room.canonical_alias", "content": {"alias": "#trusted:test"}}
        forged = sealed("k", "", state_key="", **alias)
        await rig.receive_event("m.room.encrypted", forged)
        async with rig.life():
            await asyncio.sleep(2)
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert room.alias is None

    run(tmp_path, test)


def test_state_is_remembered(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        for name, content in {
            "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
            "m.room.name": {"name": "Tea"},
            "m.room.canonical_alias": {"alias": "#tea:test"},
            "m.room.topic": {"topic": 5},
        }.items():
            await rig.receive_event(name, content, state_key="")
        await rig.receive_row(InboxKind.SUMMARY, {"m.joined_member_count": 3})
        await rig.receive_row(InboxKind.DEVICE_LISTS, {"changed": []}, None)
        async with rig.life():
            await asyncio.sleep(2)
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert (room.encrypted, room.name, room.alias) == (True, "Tea", "#tea:test")
        assert room.joined_members == 3
        assert len(rig.encryption.states) == 4

    run(tmp_path, test)


def test_a_room_that_is_left_gives_up_what_waits_for_keys(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.encrypted", sealed("k", "secret"))
        await rig.receive_row(InboxKind.LEAVE, {})
        async with rig.life():
            await asyncio.sleep(KEY_PATIENCE_S + 100)
        assert await rig.bodies() == []
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert not room.joined

    run(tmp_path, test)


@pytest.mark.parametrize(("by", "joins"), [(ALICE, True), (STRANGER, False)])
def test_invitations_are_answered_whatever_time_the_homeserver_takes(
    tmp_path: Path, by: str, joins: bool
) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_row(InboxKind.INVITE, invite(by))
        rig.homeserver.errors = [HomeserverUnreachableError() for _ in range(30)]
        rig.homeserver.errors.insert(3, RateLimitedError(5.0))
        rig.homeserver.errors.insert(4, RateLimitedError(None))
        async with rig.life():
            await asyncio.sleep(100)
            assert rig.homeserver.joined == rig.homeserver.left == []
        async with rig.life():
            await asyncio.sleep(3600)
        assert rig.homeserver.joined == [ROOM] * joins
        assert rig.homeserver.left == [ROOM] * (not joins)
        assert await rig.inbox_states() == []

    run(tmp_path, test)


def test_a_void_invitation_is_given_up(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_row(InboxKind.INVITE, invite(ALICE))
        refused = RequestRefusedError(errcode="M_FORBIDDEN", status=403, what="joining")
        rig.homeserver.errors = [refused]
        async with rig.life():
            await asyncio.sleep(10)
        assert await rig.inbox_states() == [("failed", "RequestRefusedError")]

    run(tmp_path, test)


def test_a_command_that_fails_takes_nothing_along_and_a_failing_store_ends_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:

            async def bug(*_: object) -> None:
                raise KeyError(json.dumps({}))

            life.manager.execute = bug  # type: ignore[method-assign]
            await rig.receive("!help")
            await tell(rig, life, "hello")
            await rig.wait_ended(1)
        assert ("failed", "KeyError") in await rig.inbox_states()

        async def until_it_is_damaged() -> None:
            async with rig.life() as life:
                await asyncio.sleep(1)
                life.database.fail = StoreCorruptError
                await tell(rig, life, "hello")
                await asyncio.sleep(1)

        with pytest.raises(ExceptionGroup) as caught:
            await until_it_is_damaged()
        assert caught.group_contains(StoreCorruptError)

    run(tmp_path, test)


def test_an_alias_counts_only_when_its_own_server_says_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.homeserver.aliases["#ops:test"] = RoomId("!somewhere-else:test")
        await rig.receive_event("m.room.canonical_alias", {"alias": "#ops:test"}, state_key="")
        async with rig.life():
            await asyncio.sleep(2)
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert room.alias is None

    run(tmp_path, test)


def test_state_under_another_key_is_not_the_rooms_own(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.receive_event("m.room.encryption", {"algorithm": "x"}, state_key="x")
        await rig.receive_event("m.room.name", {"name": "Forged"}, state_key=ALICE)
        async with rig.life():
            await asyncio.sleep(2)
        room = await rig.store.rooms.get(ROOM)
        assert room is not None
        assert (room.encrypted, room.name) == (False, None)
        assert rig.encryption.states == []

    run(tmp_path, test)
