"""A refused host is shown once, and who may decides; nobody else does anything by it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from orchestrator.core.approval import Approval
from orchestrator.core.denial import QUESTIONS_PER_MINUTE
from orchestrator.core.egress_rules import Scheme, parse_rule
from orchestrator.core.naming import room_slug
from orchestrator.core.texts import egress as egress_texts
from orchestrator.model import EventId, JsonObject, RoomId
from orchestrator.rooms.reaction import LOOK_EVERY_S
from orchestrator.store.api import InboxKind
from orchestrator.store.approval_table import ASK_AGAIN_S, MAX_OPEN, ApprovalTable
from tests.support.asking import (
    ALWAYS,
    BOB,
    CAROL,
    HOST,
    HOUR,
    NO,
    REVIEWER,
    ask,
    handle,
    listening,
    questions,
    react,
    relation,
    rows,
    run_asking,
    said_of,
    target,
    uses,
)
from tests.support.outbox import FlakyHomeserver
from tests.support.room_rig import ALICE, ME, ROOM, Life, Rig
from tests.unit.rooms.scenario import tell

OTHER = RoomId("!other:test")
SLUG = room_slug(ROOM)
GRANTED = (parse_rule("example.org:443"),)


def test_a_refused_host_is_shown_once_with_the_tool_and_the_turn_which_goes_on(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        rig.claude.scripts["fetch"] = uses("Bash", command="curl `https://example.org`\nrm x")
        async with rig.life() as life:
            await tell(rig, life, "fetch it")
            await asyncio.sleep(5)
            await ask(rig)
            for _ in range(50):
                assert not rig.doors.connect(HOST)
                await asyncio.sleep(0.1)
            await rig.wait_ended(1)
        (body,) = await said_of(rig, "example.org")
        assert "**Refused: `example.org`**" in body
        assert "`Bash: curl 'https://example.org' rm x`" in body
        assert f"in a turn of `{ALICE}`" in body
        assert await rig.outcomes() == ["done"]
        assert rig.doors.granted.get(SLUG, ()) == ()

    run_asking(tmp_path, test)


def test_outside_of_a_turn_the_question_says_that_no_tool_is_known(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            await ask(rig, target("example.org", 8080, Scheme.HTTP))
        (body,) = await said_of(rig, "example.org")
        assert "`example.org:8080`** (port 8080, not encrypted)" in body
        assert "outside of any turn" in body

    run_asking(tmp_path, test)


def test_an_approver_allows_it_for_an_hour_which_ends_to_the_second(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            await react(rig, life, question, HOUR)
            assert rig.doors.granted[SLUG] == GRANTED
            assert rig.doors.connect(HOST)
            assert not rig.doors.connect(target("example.org", 8443))
            ((granted_at, expires_at),) = await rows(
                rig, "SELECT granted_at, expires_at FROM grants"
            )
            assert expires_at == granted_at + 3600
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(expires_at - now - 0.01)
            assert rig.doors.connect(HOST)
            await asyncio.sleep(0.02)
            assert not rig.doors.connect(HOST)
            # Nobody said no: it may be asked about again.
            await asyncio.sleep(1)
            assert len(await questions(rig)) == 3
        (answer,) = await said_of(rig, "is allowed until")
        assert f"`{CAROL}`" in answer

    run_asking(tmp_path, test)


def test_an_approver_allows_it_for_good_which_a_restart_does_not_change(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig), ALWAYS)
            assert rig.doors.granted[SLUG] == GRANTED
        async with rig.life() as life:
            await handle(life)
            assert rig.doors.granted[SLUG] == GRANTED
            await asyncio.sleep(2 * 3600)
            assert rig.doors.connect(HOST)
        assert len(await said_of(rig, "for good, by")) == 1

    run_asking(tmp_path, test)


def test_a_no_stands_and_is_not_asked_about_again_within_an_hour(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig), NO)
            assert rig.doors.granted[SLUG] == ()
            for _ in range(59):
                assert not rig.doors.connect(HOST)
                await asyncio.sleep(60)
            assert len(await questions(rig)) == 1
            await asyncio.sleep(ASK_AGAIN_S)
            await ask(rig)
        assert len(await said_of(rig, "stays refused, by")) == 1

    run_asking(tmp_path, test)


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("@stranger:else", HOUR),
        (ALICE, HOUR),
        (BOB, ALWAYS),
        (ME, ALWAYS),
        (REVIEWER, ALWAYS),
        ("@carol:else", HOUR),
        ("@CAROL:test", HOUR),
        (CAROL, "👍"),
        (CAROL, "✅"),
        (CAROL, ""),
    ],
)
def test_who_may_not_decide_and_what_says_nothing_changes_nothing(
    tmp_path: Path, by: str, key: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            said = await rig.bodies()
            await react(rig, life, question, key, by=by)
            assert await rig.bodies() == said
            assert not rig.doors.connect(HOST)
            assert await rows(rig, "SELECT state FROM approvals") == [("open",)]
            assert await rig.inbox_states() == [("ignored", "reaction")]
            await react(rig, life, question, HOUR)
            assert rig.doors.connect(HOST)

    run_asking(tmp_path, test)


def _annotation(question: str) -> dict[str, object]:
    return {"rel_type": "m.annotation", "event_id": question, "key": HOUR}


def _relates(value: object) -> JsonObject:
    return {"m.relates_to": value}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "forge",
    [
        lambda question: {},
        lambda question: relation(question, HOUR, "m.replace"),
        lambda question: relation(question, HOUR, "m.reference"),
        lambda question: _relates({"event_id": question, "key": HOUR}),
        lambda question: _relates({"rel_type": "m.annotation", "event_id": question}),
        lambda question: _relates(
            {"rel_type": "m.annotation", "event_id": [question], "key": "❌"}
        ),
        lambda question: _relates(
            {"rel_type": "m.annotation", "event_id": question, "key": [HOUR]}
        ),
        lambda question: _relates([question, HOUR]),
        lambda question: _relates(None),
        lambda question: relation("$unknown", HOUR),
        lambda question: relation("", HOUR),
        lambda question: relation(question + " ", HOUR),
        lambda question: {"m.new_content": relation(question, HOUR)},
    ],
)
def test_a_reaction_that_was_redacted_or_is_none_of_ours_decides_nothing(
    tmp_path: Path, forge: Any
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            said = await rig.bodies()
            await rig.receive_event("m.reaction", forge(question), CAROL)
            await handle(life)
            assert await rig.bodies() == said
            assert await rows(rig, "SELECT state FROM approvals") == [("open",)]
            assert await rig.inbox_states() == [("ignored", "reaction")]

    run_asking(tmp_path, test)


def test_a_reaction_in_another_room_does_not_count_for_this_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.store.rooms.ensure(OTHER, joined=True)
        async with rig.life() as life:
            question = await ask(rig)
            await react(rig, life, question, ALWAYS, room=OTHER)
            assert await rows(rig, "SELECT state FROM approvals") == [("open",)]
            assert await rows(rig, "SELECT * FROM grants") == []
            assert await rig.bodies(OTHER) == []

    run_asking(tmp_path, test)


def test_what_an_agent_writes_is_no_question_however_much_it_looks_like_one(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig, target("evil.example"))
            await react(rig, life, question, NO)
            (words,) = await said_of(rig, "**Refused: `evil.example`**")
            await tell(rig, life, words)
            await rig.wait_ended(1)
            await asyncio.sleep(5)
            account = rig.account
            assert account is not None
            found = [
                number
                for number, (_, body) in enumerate(account.timeline)
                if "You said:" in str(body) and "evil.example" in str(body)
            ]
            assert found
            said = await rig.bodies()
            for number in found:
                await react(rig, life, f"${number}", ALWAYS)
            assert await rig.bodies() == said
            assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


def test_a_message_of_ours_that_is_no_question_is_none(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await ask(rig)
            await tell(rig, life, "!help")
            await rig.wait_body("`!egress`")
            await handle(life)
            ((answer,),) = await rows(
                rig, "SELECT event_id FROM outbox WHERE content LIKE '%!retry%'"
            )
            await react(rig, life, answer, ALWAYS)
            assert await rows(rig, "SELECT * FROM grants") == []

    run_asking(tmp_path, test)


async def react_sealed(rig: Rig, life: Life, question: EventId) -> None:
    """A reaction whose key has not come."""
    content = relation(question, HOUR)
    clear: JsonObject = {"type": "m.reaction", "sender": CAROL, "content": content}
    await rig.receive_event("m.room.encrypted", {"key": "k1", "clear": clear}, CAROL)
    await handle(life)


def test_an_encrypted_reaction_counts_as_one_in_the_clear_does(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            await react_sealed(rig, life, question)
            assert not rig.doors.connect(HOST)
            await rig.receive_row(InboxKind.TO_DEVICE, {"key": "k1", "room_id": ROOM})
            await handle(life)
            assert rig.doors.connect(HOST)

    run_asking(tmp_path, test)


def test_a_key_that_was_there_before_a_restart_opens_a_reaction_at_the_start(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            await react_sealed(rig, life, question)
        rig.encryption.keys.add("k1")
        async with rig.life() as life:
            await handle(life)
            assert rig.doors.connect(HOST)
        assert await rig.inbox_states() == [("ignored", "reaction")]

    run_asking(tmp_path, test)


async def react_early(rig: Rig, life: Life, account: FlakyHomeserver) -> None:
    """The homeserver has the question, its answer was lost, and somebody reacts."""

    async def is_there() -> bool:
        return bool(account.timeline)

    await listening(rig)
    rig.doors.connect(HOST)
    await rig.wait(is_there)
    (question,) = account.known.values()
    await react(rig, life, question, HOUR)


def test_a_reaction_that_comes_before_our_own_mark_waits_for_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        account = rig.account = FlakyHomeserver(accepts=True)
        async with rig.life() as life:
            await react_early(rig, life, account)
            assert await rig.inbox_states() == [("new", None)]
            assert not rig.doors.connect(HOST)
            account.is_away = lambda _: False
            await rig.wait(lambda: _is_granted(rig))
            assert await rig.inbox_states() == [("ignored", "reaction")]

    run_asking(tmp_path, test)


def test_a_reaction_is_not_lost_where_our_mark_comes_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ApprovalTable.find

    async def find(self: ApprovalTable, room_id: RoomId, event_id: EventId) -> Approval | None:
        found = await original(self, room_id, event_id)
        await asyncio.sleep(LOOK_EVERY_S)
        return found

    async def test(rig: Rig) -> None:
        account = rig.account = FlakyHomeserver(accepts=True)
        async with rig.life() as life:
            await react_early(rig, life, account)
            account.is_away = lambda _: False
            monkeypatch.setattr(ApprovalTable, "find", find)
            await rig.wait(lambda: _is_granted(rig))

    run_asking(tmp_path, test)


def test_a_reaction_that_waits_is_taken_up_by_the_next_life(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        account = rig.account = FlakyHomeserver(accepts=True)
        async with rig.life() as life:
            await react_early(rig, life, account)
        account.is_away = lambda _: False
        async with rig.life() as life:
            life.notify()
            await rig.wait(lambda: _is_granted(rig))
        assert len(await rows(rig, "SELECT * FROM grants")) == 1

    run_asking(tmp_path, test)


def test_a_reaction_to_nothing_waits_for_a_bounded_time(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.account = FlakyHomeserver(accepts=False)
        async with rig.life() as life:
            await listening(rig)
            rig.doors.connect(HOST)
            await asyncio.sleep(1)
            await react(rig, life, "$made-up", HOUR)
            assert await rig.inbox_states() == [("new", None)]
            await asyncio.sleep(310)
            assert await rig.inbox_states() == [("ignored", "reaction")]

    run_asking(tmp_path, test)


async def _is_granted(rig: Rig) -> bool:
    return bool(rig.doors.granted.get(SLUG))


def test_the_first_decision_stands_and_later_ones_are_answered_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            await react(rig, life, question, NO)
            await react(rig, life, question, NO)
            assert len(await said_of(rig, "Too late")) == 0
            for key in (HOUR, ALWAYS, HOUR):
                await react(rig, life, question, key)
            assert len(await said_of(rig, "Too late")) == 1
            assert not rig.doors.connect(HOST)
        assert await rows(rig, "SELECT state, decided_by FROM approvals") == [("refused", CAROL)]

    run_asking(tmp_path, test)


@pytest.mark.parametrize("is_down", [False, True])
def test_a_question_expires_closed_and_in_time_also_across_a_restart(
    tmp_path: Path, *, is_down: bool
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            if not is_down:
                await asyncio.sleep(595)
                assert len(await said_of(rig, "Expired:")) == 0
                await asyncio.sleep(6)
                assert len(await said_of(rig, "Expired:")) == 1
        if is_down:
            await asyncio.sleep(700)
        async with rig.life() as life:
            await handle(life)
            assert len(await said_of(rig, "Expired:")) == 1
            for _ in range(3):
                await react(rig, life, question, ALWAYS)
            assert not rig.doors.connect(HOST)
        assert len(await said_of(rig, "Too late")) == 1
        assert await rows(rig, "SELECT state FROM approvals") == [("expired",)]

    run_asking(tmp_path, test, defaults={"approval_timeout_s": 600})


def test_a_reaction_from_before_the_end_that_is_read_after_it_expires_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            question = await ask(rig)
        await rig.receive_event("m.reaction", relation(question, ALWAYS), CAROL)
        await asyncio.sleep(700)
        async with rig.life() as life:
            await handle(life)
        assert await rows(rig, "SELECT state FROM approvals") == [("expired",)]
        assert await rows(rig, "SELECT * FROM grants") == []
        assert len(await said_of(rig, "Expired:")) == 1

    run_asking(tmp_path, test, defaults={"approval_timeout_s": 600})


def test_who_left_the_room_decides_nothing_until_they_are_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)

            async def member(membership: str) -> None:
                content: JsonObject = {"membership": membership}
                await rig.receive_event("m.room.member", content, CAROL, state_key=CAROL)

            for membership in ("leave", "ban"):
                await member(membership)
                await react(rig, life, question, ALWAYS)
                await tell(rig, life, "!egress")
                await handle(life)
                await rig.receive("!egress allow example.org", sender=CAROL)
                await handle(life)
                assert await rows(rig, "SELECT * FROM grants") == []
            await member("join")
            await react(rig, life, question, ALWAYS)
            assert rig.doors.connect(HOST)

    run_asking(tmp_path, test)


def test_a_flood_of_names_is_a_few_questions_and_one_word_that_there_is_more(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await listening(rig)
            for i in range(2000):
                rig.doors.connect(target(f"h{i}.example.org"))
            await asyncio.sleep(30)
            assert len(await questions(rig)) == QUESTIONS_PER_MINUTE
            for i in range(600):
                rig.doors.connect(target(f"h{i}.example.org"))
                await asyncio.sleep(1)
            assert len(await questions(rig)) == MAX_OPEN
            assert len(await said_of(rig, egress_texts.MORE)) == 1
            await tell(rig, life, "!egress")
            await rig.wait_body("Refused lately")
        (shown,) = await said_of(rig, "Refused lately")
        assert "and 12 more" in shown

    run_asking(tmp_path, test)


def test_where_nobody_may_decide_the_room_is_told_who_could_be_named_once_a_day(
    tmp_path: Path,
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            await listening(rig)
            for i in range(100):
                rig.doors.connect(target(f"h{i}.example.org"))
                await asyncio.sleep(60)
        (body,) = await rig.bodies()
        assert "access.approvers" in body
        assert await rows(rig, "SELECT * FROM approvals") == []

    # An agent that is named as an approver is nobody who could decide.
    run_asking(tmp_path, test, access={"users": [ALICE], "approvers": [REVIEWER, ME]})


@pytest.mark.parametrize(
    ("egress", "host"),
    [
        ({"ask": False}, "example.org"),
        ({"allow": ["example.org"]}, "example.org"),
        ({"allow": ["*.example.org"]}, "a.example.org"),
        ({}, "127.0.0.1"),
        ({}, "169.254.169.254"),
        ({}, "api.anthropic.com"),
        ({}, "localhost"),
    ],
)
def test_what_is_not_to_be_asked_or_would_change_nothing_is_not_asked(
    tmp_path: Path, egress: Any, host: str
) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life():
            await listening(rig)
            rig.doors.connect(target(host))
            await asyncio.sleep(200)
        assert await rig.bodies() == []

    run_asking(tmp_path, test, defaults={"egress": egress})


def test_a_refusal_in_a_room_that_was_left_asks_nobody(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            question = await ask(rig)
            await react(rig, life, question, ALWAYS)
            await ask(rig, target("b.example.org"))
            await rig.receive_row(InboxKind.LEAVE, {})
            await handle(life)
            assert rig.doors.granted[SLUG] == ()
            said = len(await rig.bodies())
            rig.doors.connect(target("c.example.org"))
            await asyncio.sleep(200)
            assert len(await rig.bodies()) == said
            # Whoever invites it again decides again.
            await tell(rig, life, "hello again")
            await rig.wait_ended(1)
            assert rig.doors.granted[SLUG] == ()
        states = await rows(rig, "SELECT state FROM approvals ORDER BY asked_at")
        assert states == [("granted_always",), ("withdrawn",)]
        assert await rows(rig, "SELECT revoked_by FROM grants") == [("-",)]

    run_asking(tmp_path, test)


def test_the_log_says_who_allowed_what_and_until_when(tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = []
    logger.enable("orchestrator")
    sink = logger.add(lambda message: logged.append(message.record["extra"]), level="INFO")

    async def test(rig: Rig) -> None:
        async with rig.life() as life:
            await react(rig, life, await ask(rig), HOUR)
            await rig.receive("!egress revoke example.org", sender=CAROL)
            await handle(life)
            await react(rig, life, await ask(rig, target("b.example.org")), NO)
            await rig.receive("!egress allow c.example.org", sender=CAROL)
            await handle(life)
            await asyncio.sleep(3601)

    try:
        run_asking(tmp_path, test)
    finally:
        logger.remove(sink)
    lines = [extra for extra in logged if str(extra.get("action", "")).startswith("egress.")]
    assert [line["action"] for line in lines] == [
        "egress.ask",
        "egress.grant",
        "egress.revoke",
        "egress.ask",
        "egress.refuse",
        "egress.grant",
        "egress.grant_ended",
    ]
    granted, by_command = lines[1], lines[5]
    assert (granted["by"], granted["subject"]) == (CAROL, "https example.org:443")
    assert (by_command["by"], by_command["host"]) == (CAROL, "c.example.org")
    assert all(line["until"] > 3600 for line in (granted, by_command))
    assert all(line["room"] == ROOM for line in lines)
