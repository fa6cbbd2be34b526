"""Questions to a room: every state and event, every key, and who may decide."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from orchestrator.core.approval import (
    APPROVAL_TABLE,
    Answer,
    Approval,
    ApprovalEvent,
    ApprovalKind,
    ApprovalState,
    Deciders,
    ToolDetails,
    Voice,
    next_approval_state,
    parse_key,
    parse_words,
)
from orchestrator.errors import IllegalTransitionError
from orchestrator.model import RoomId, TxnId, UserId

ENDS = {
    ApprovalEvent.ALLOWED_HOUR: ApprovalState.GRANTED_HOUR,
    ApprovalEvent.ALLOWED_ALWAYS: ApprovalState.GRANTED_ALWAYS,
    ApprovalEvent.ALLOWED_ONCE: ApprovalState.GRANTED_ONCE,
    ApprovalEvent.ALLOWED_SESSION: ApprovalState.GRANTED_SESSION,
    ApprovalEvent.TURN_ENDED: ApprovalState.WITHDRAWN,
    ApprovalEvent.REFUSED: ApprovalState.REFUSED,
    ApprovalEvent.TIME_UP: ApprovalState.EXPIRED,
    ApprovalEvent.ROOM_ENDED: ApprovalState.WITHDRAWN,
}


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(ApprovalState, ApprovalEvent)), ids=str
)
def test_an_open_question_ends_once_and_what_ended_it_stands(
    state: ApprovalState, event: ApprovalEvent
) -> None:
    assert set(APPROVAL_TABLE) == set(ApprovalState)
    if state is ApprovalState.OPEN:
        assert next_approval_state(state, event) is ENDS[event]
        return
    with pytest.raises(IllegalTransitionError):
        next_approval_state(state, event)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("⏱️", ApprovalEvent.ALLOWED_HOUR),
        ("⏱", ApprovalEvent.ALLOWED_HOUR),
        ("⏱\ufe0e", ApprovalEvent.ALLOWED_HOUR),
        ("🕐", ApprovalEvent.ALLOWED_HOUR),
        ("⏰", ApprovalEvent.ALLOWED_HOUR),
        ("1h", ApprovalEvent.ALLOWED_HOUR),
        ("♾️", ApprovalEvent.ALLOWED_ALWAYS),
        ("♾", ApprovalEvent.ALLOWED_ALWAYS),
        ("∞", ApprovalEvent.ALLOWED_ALWAYS),
        ("Always", ApprovalEvent.ALLOWED_ALWAYS),
        ("❌", ApprovalEvent.REFUSED),
        ("❌️", ApprovalEvent.REFUSED),
        ("✖️", ApprovalEvent.REFUSED),
        ("👎", ApprovalEvent.REFUSED),
        ("👎🏽", ApprovalEvent.REFUSED),
        ("🚫", ApprovalEvent.REFUSED),
        # What may mean "I have seen it", or anything.
        *((key, None) for key in ("👍", "👍🏿", "✅", "❤️", "👀", "🎉", "", " ", "\ufe0f", "🕑")),
        *((key, None) for key in ("yes", "⏱️♾️", "allow", "1h " * 1000, "mxc://server/media")),
    ],
)
def test_only_a_key_that_can_mean_one_thing_decides(key: str, said: ApprovalEvent | None) -> None:
    answer = parse_key(key, question(ApprovalKind.EGRESS))
    assert (answer and answer.event) is said


def question(kind: ApprovalKind, **more: Any) -> Approval:
    return Approval(
        approval_id="a1",
        room_id=RoomId("!r:test"),
        kind=kind,
        subject="s",
        wanted_by=None,
        turn_id=None,
        txn_id=TxnId("t"),
        state=ApprovalState.OPEN,
        asked_at=0.0,
        expires_at=1.0,
        **more,
    )


RULE = ToolDetails(what="Bash: x", rule="Bash(x:*)")
NO_RULE = ToolDetails(what="Bash: x")
ONE = ToolDetails(what="which?", options=("a", "b"))
MANY = ToolDetails(what="which?", options=("a", "b"), is_multiple=True)


@pytest.mark.parametrize(
    ("kind", "details", "key", "said"),
    [
        (ApprovalKind.TOOL, RULE, "✅", Answer(event=ApprovalEvent.ALLOWED_ONCE)),
        (ApprovalKind.TOOL, RULE, "✔️", Answer(event=ApprovalEvent.ALLOWED_ONCE)),
        (ApprovalKind.TOOL, RULE, "♾️", Answer(event=ApprovalEvent.ALLOWED_SESSION)),
        (ApprovalKind.TOOL, NO_RULE, "♾️", None),
        (ApprovalKind.TOOL, RULE, "❌", Answer(event=ApprovalEvent.REFUSED)),
        (ApprovalKind.TOOL, RULE, "👍", None),
        (ApprovalKind.TOOL, RULE, "1️⃣", None),
        (ApprovalKind.TOOL, RULE, "⏱️", None),
        (ApprovalKind.PLAN, NO_RULE, "✅", Answer(event=ApprovalEvent.ALLOWED_ONCE)),
        (ApprovalKind.PLAN, RULE, "♾️", None),
        (ApprovalKind.QUESTION, ONE, "1️⃣", Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=0)),
        (ApprovalKind.QUESTION, ONE, "2", Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=1)),
        (ApprovalKind.QUESTION, ONE, "3️⃣", None),
        (ApprovalKind.QUESTION, ONE, "0️⃣", None),
        (ApprovalKind.QUESTION, ONE, "✅", None),
        (ApprovalKind.QUESTION, MANY, "2️⃣", Answer(pick=1)),
        (ApprovalKind.QUESTION, MANY, "✅", None),
        (ApprovalKind.QUESTION, None, "1️⃣", None),
    ],
)
def test_each_kind_of_question_has_its_own_keys(
    kind: ApprovalKind, details: ToolDetails | None, key: str, said: Answer | None
) -> None:
    assert parse_key(key, question(kind, details=details)) == said


def test_a_tick_ends_the_choice_of_several_options() -> None:
    chosen = question(ApprovalKind.QUESTION, details=MANY, picks=(0,))
    assert parse_key("✅", chosen) == Answer(event=ApprovalEvent.ALLOWED_ONCE)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (ApprovalKind.TOOL, "yes do it", Answer(event=ApprovalEvent.REFUSED, words="yes do it")),
        (ApprovalKind.PLAN, "smaller", Answer(event=ApprovalEvent.REFUSED, words="smaller")),
        (ApprovalKind.QUESTION, "2", Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=1)),
        (ApprovalKind.QUESTION, "9", Answer(event=ApprovalEvent.ALLOWED_ONCE, words="9")),
        (ApprovalKind.QUESTION, "both", Answer(event=ApprovalEvent.ALLOWED_ONCE, words="both")),
    ],
)
def test_a_reply_in_words_answers_a_question_and_refuses_anything_else(
    kind: ApprovalKind, words: str, said: Answer
) -> None:
    assert parse_words(words, question(kind, details=ONE)) == said


APPROVER = Voice(decides=True)
READER = Voice()
USER = Voice(answers=True)
OWN = Voice(answers=True, decides_own=True)


@pytest.mark.parametrize(
    ("voice", "kind", "asker", "counts"),
    [
        (APPROVER, ApprovalKind.TOOL, "@bob:test", True),
        (APPROVER, ApprovalKind.EGRESS, None, True),
        (OWN, ApprovalKind.TOOL, "@me:test", True),
        (OWN, ApprovalKind.PLAN, "@me:test", True),
        (OWN, ApprovalKind.TOOL, "@bob:test", False),
        (OWN, ApprovalKind.EGRESS, None, False),
        (USER, ApprovalKind.TOOL, "@me:test", False),
        (USER, ApprovalKind.QUESTION, "@me:test", True),
        (USER, ApprovalKind.QUESTION, "@bob:test", False),
        (READER, ApprovalKind.TOOL, "@me:test", False),
        (READER, ApprovalKind.QUESTION, "@me:test", False),
    ],
)
async def test_a_word_counts_by_what_somebody_may_now_and_whose_turn_it_is(
    voice: Voice, kind: ApprovalKind, asker: str | None, *, counts: bool
) -> None:
    async def find_voice(_: RoomId, user_id: UserId) -> Voice:
        assert user_id == "@me:test"
        return voice

    me = UserId("@me:test")
    deciders = Deciders(me=UserId("@agent:test"), agents=(), find_voice=find_voice, has_any=True)
    asked = question(kind, asker=None if asker is None else UserId(asker))
    assert await deciders.may_answer(me, asked) is counts


async def test_an_agent_that_asked_for_the_turn_has_no_voice() -> None:
    async def find_voice(_: RoomId, __: UserId) -> Voice:
        return OWN

    reviewer = UserId("@reviewer:test")
    deciders = Deciders(
        me=UserId("@agent:test"), agents={reviewer}, find_voice=find_voice, has_any=True
    )
    assert not await deciders.may_answer(reviewer, question(ApprovalKind.TOOL, asker=reviewer))


@pytest.mark.parametrize(
    ("sender", "may"),
    [
        ("@alice:test", True),
        ("@agent:test", False),
        ("@reviewer:test", False),
        ("@stranger:else", False),
        ("", False),
        ("@Alice:test", True),
    ],
)
async def test_no_agent_decides_whatever_a_pattern_covers(sender: str, *, may: bool) -> None:
    async def find_voice(_: RoomId, user_id: UserId) -> Voice:
        return Voice(decides=user_id.endswith(":test"))

    deciders = Deciders(
        me=UserId("@agent:test"),
        agents={UserId("@reviewer:test")},
        find_voice=find_voice,
        has_any=True,
    )
    assert await deciders.may_decide(RoomId("!r:test"), UserId(sender)) is may
