"""`!egress`: what holds is shown to everybody, and changed by who may decide alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.core import texts
from orchestrator.core.egress_rules import Scheme, parse_rule
from orchestrator.core.naming import room_slug
from orchestrator.core.texts import egress as egress_texts
from orchestrator.core.texts.person import ONLY_READER
from orchestrator.model import JsonObject, RoomId
from orchestrator.store.api import InboxKind
from tests.support.asking import (
    ALWAYS,
    BOB,
    CAROL,
    HOST,
    HOUR,
    REVIEWER,
    ask,
    handle,
    listening,
    questions,
    react,
    rows,
    run_asking,
    said_of,
    target,
)
from tests.support.room_rig import ALICE, ME, ROOM, Life, Rig
from tests.unit.rooms.test_upgrade import NEW, creation, tombstone

SLUG = room_slug(ROOM)


async def order(rig: Rig, life: Life, text: str, *, by: str = CAROL, room: RoomId = ROOM) -> str:
    """Somebody writes a command; the answer to it."""
    before = len(await rig.bodies(room))
    await rig.receive(text, sender=by, room=room)
    await handle(life)
    new = (await rig.bodies(room))[before:]
    return new[-1] if new else ""


def test_an_approver_who_may_run_no_turn_allows_denies_and_revokes_by_command(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            assert "is allowed until" in await order(rig, life, "!egress allow example.org")
            assert rig.doors.connect(HOST)
            assert rig.doors.connect(target("example.org"))
            assert "for good" in await order(rig, life, "!egress allow example.org always")
            assert rig.doors.granted[SLUG] == (parse_rule("example.org"),)
            assert "Taken back" in await order(rig, life, "!egress revoke example.org")
            assert not rig.doors.connect(HOST)
            await ask(rig, target("b.example.org"))
            assert "stays refused" in await order(rig, life, "!egress deny b.example.org")
            # What was said no to is not asked about again.
            for host in ("example.org", "b.example.org"):
                rig.doors.connect(target(host))
            await asyncio.sleep(100)
            assert len(await questions(rig)) == 2
            assert await order(rig, life, "hello", by=CAROL) == ONLY_READER
        states = await rows(rig, "SELECT state, decided_by FROM approvals ORDER BY asked_at")
        assert states == [("granted_hour", CAROL), ("refused", CAROL)]
        revoked = await rows(rig, "SELECT expires_at IS NULL, revoked_by FROM grants")
        assert revoked == [(0, CAROL), (1, CAROL)]

    run_asking(tmp_path, test)


def test_an_hour_by_command_ends_as_one_by_reaction_does(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await order(rig, life, "!egress allow example.org 1h")
            await asyncio.sleep(3590)
            assert rig.doors.connect(HOST)
            await asyncio.sleep(11)
            assert not rig.doors.connect(HOST)

    run_asking(tmp_path, test)


@pytest.mark.parametrize("by", [ALICE, BOB])
@pytest.mark.parametrize("verb", ["allow", "deny", "revoke"])
def test_who_may_run_turns_may_look_and_not_decide(tmp_path: Path, by: str, verb: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig, target("a.example.org")), ALWAYS)
            await ask(rig)
            before = await rows(rig, "SELECT * FROM approvals")
            grants = await rows(rig, "SELECT * FROM grants")
            for host in ("example.org", "a.example.org"):
                answer = await order(rig, life, f"!egress {verb} {host}", by=by)
                assert answer == egress_texts.NOT_APPROVER
            assert await rows(rig, "SELECT * FROM approvals") == before
            assert await rows(rig, "SELECT * FROM grants") == grants
            shown = await order(rig, life, "!egress", by=by)
        assert "`a.example.org:443` for good by `@carol:test`" in shown
        assert "Asked, and open: `example.org` until" in shown

    run_asking(tmp_path, test)


@pytest.mark.parametrize("by", ["@stranger:else", REVIEWER, ME])
def test_strangers_and_agents_change_nothing_by_command(tmp_path: Path, by: str) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            for text in ("!egress allow example.org always", "!egress deny example.org"):
                await order(rig, life, text, by=by)
            assert await rows(rig, "SELECT state FROM approvals") == [("open",)]
            assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


@pytest.mark.parametrize(
    "content",
    [
        {"msgtype": "m.notice", "body": "!egress allow example.org always"},
        {
            "msgtype": "m.text",
            "body": "!egress allow example.org always",
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$e1"},
        },
        {"msgtype": "m.text", "body": "> !egress allow example.org always"},
        {"msgtype": "m.text", "body": "please !egress allow example.org always"},
        {"msgtype": "m.file", "body": "!egress allow example.org always"},
    ],
)
def test_what_is_no_command_of_a_persons_changes_nothing(
    tmp_path: Path, content: JsonObject
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            await rig.receive_event("m.room.message", content, CAROL)
            await handle(life)
            assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


def test_what_an_agent_answers_is_no_command(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            await rig.receive("say it", sender=ALICE)
            await rig.receive("!egress allow example.org always", sender=ME)
            await handle(life)
            await rig.wait_ended(1)
            assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


def test_bad_input_and_nothing_to_change_get_one_line(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await listening(rig)
            answers = [
                await order(rig, life, f"!egress {text}")
                for text in (
                    "allow",
                    "allow *.example.org",
                    "allow api.anthropic.com",
                    "deny example.org",
                    "revoke git.example.org",
                    "allow 169.254.169.254",
                    "allow 10.1.2.3 always",
                    "allow localhost:8080",
                )
            ]
        assert answers[5:] == [egress_texts.NOT_PUBLIC] * 3
        assert await rows(rig, "SELECT * FROM grants") == []
        assert answers[:3] == [
            egress_texts.USAGE,
            egress_texts.NO_WILDCARD,
            egress_texts.NOT_THE_API,
        ]
        assert "neither granted here nor asked about" in answers[3]
        assert "configuration" in answers[4]
        assert all("\n" not in answer for answer in answers)

    run_asking(tmp_path, test, defaults={"egress": {"allow": ["git.example.org"]}})


def test_a_host_in_clear_is_told_from_the_same_host_with_tls(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            await ask(rig, target("example.org", 80, Scheme.HTTP))
            shown = await order(rig, life, "!egress", by=ALICE)
        clear = "`example.org` (port 80, not encrypted)"
        assert f"{clear} until" in shown
        assert f"Refused lately: {clear}, `example.org`" in shown

    run_asking(tmp_path, test)


def test_the_list_shows_what_is_configured_granted_asked_and_refused(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig, target("a.example.org")), HOUR)
            await ask(rig)
            rig.doors.connect(HOST)
            shown = await order(rig, life, "!egress", by=ALICE)
        assert "Allowed by the configuration: `git.example.org`, `*.pip.example.org`" in shown
        assert "Granted here: `a.example.org:443` until 20" in shown
        assert "Refused lately: `example.org` (2 times), `a.example.org`" in shown
        assert "Today: 0 B of 10 GiB" in shown
        assert "Asked, and open: `example.org` until" in shown

    allow = ["git.example.org", "*.pip.example.org"]
    run_asking(tmp_path, test, defaults={"egress": {"allow": allow}})


def test_an_upgrade_moves_no_grant_and_no_question(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig), ALWAYS)
            question = await ask(rig, target("b.example.org"))
            assert rig.doors.granted[SLUG]
            await tombstone(rig)
            await creation(rig)
            life.notify()
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
            await handle(life)
            # The new room has the old one's name on this host, and nothing that was granted there.
            room = await rig.store.rooms.get(NEW)
            assert room is not None
            assert room.slug == SLUG
            assert not any(rig.doors.granted.values())
            assert len(await said_of(rig, "does not hold here: `example.org:443`", NEW)) == 1
            await react(rig, life, question, ALWAYS)
            await react(rig, life, question, ALWAYS, room=NEW)
            assert not any(rig.doors.granted.values())
            # It is asked about anew, in the new room.
            rig.doors.connect(HOST, slug=SLUG)
            await asyncio.sleep(1)
            (new,) = await questions(rig, NEW)
            await react(rig, life, new, HOUR, room=NEW)
            assert rig.doors.connect(HOST, slug=SLUG)
        states = await rows(rig, "SELECT state FROM approvals ORDER BY asked_at")
        assert states == [("granted_always",), ("withdrawn",), ("granted_hour",)]
        async with rig.life() as life:
            await handle(life)
            assert rig.doors.connect(HOST, slug=SLUG)

    run_asking(tmp_path, test)


def test_a_question_that_was_not_sent_before_the_upgrade_is_not_sent_after_it(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        account, rig.account = rig.account, None
        async with rig.life() as life:
            await listening(rig)
            rig.doors.connect(HOST)
            await rig.wait_body("**Refused: `example.org`**")
            await tombstone(rig)
            await creation(rig)
            life.notify()
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
        rig.account = account
        async with rig.life():
            await asyncio.sleep(5)
        assert account is not None
        assert account.bodies(NEW) == [texts.ROOM_CONTINUES]
        assert account.bodies(ROOM) == []

    run_asking(tmp_path, test)


def test_a_reaction_from_before_the_upgrade_that_is_read_after_it_is_late(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            await tombstone(rig)
            await creation(rig)
            life.notify()
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
            said = len(await rig.bodies(NEW))
            await react(rig, life, question, ALWAYS)
            assert len(await rig.bodies(NEW)) == said
        assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


def test_a_command_from_before_the_upgrade_that_is_read_after_it_grants_nothing(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        for n in range(8):
            notice = {"msgtype": "m.notice", "body": f"{n}"}
            await rig.receive_event("m.room.message", notice, CAROL)
        await rig.receive("!egress allow example.org always", sender=CAROL)
        await tombstone(rig)
        await creation(rig)
        async with rig.life() as life:
            await handle(life)
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
            await rig.wait_body(texts.ROOM_REPLACED, room=NEW)
            assert not any(rig.doors.granted.values())
        assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


def test_a_room_that_was_left_for_its_replacement_takes_no_grant_along(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig), ALWAYS)
            await tombstone(rig)
            await rig.receive_row(InboxKind.LEAVE, {})
            await handle(life)
            await creation(rig)
            life.notify()
            await rig.wait_body(texts.ROOM_CONTINUES, room=NEW)
            await handle(life)
            assert not any(rig.doors.granted.values())

    run_asking(tmp_path, test)
