"""Polls: what a client is sent, and what a vote says, in each form that clients send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.approval import (
    Answer,
    Approval,
    ApprovalEvent,
    ApprovalKind,
    ApprovalState,
    ToolDetails,
    Vote,
    parse_key,
)
from orchestrator.core.poll import (
    MAX_ANSWERS,
    POLL_START,
    build_poll,
    build_poll_end,
    parse_response,
    parse_vote,
    refer_to_poll,
)
from orchestrator.model import EventId, RoomId, TxnId, UserId

UNSTABLE, STABLE = "org.matrix.msc3381.poll.response", "m.poll.response"
REFERENCE = {"rel_type": "m.reference", "event_id": "$poll"}
ALICE = UserId("@alice:test")


def question(
    *options: str, is_multiple: bool = False, approval_id: str = "a1", **more: Any
) -> Approval:
    return Approval(
        approval_id=approval_id,
        room_id=RoomId("!r:test"),
        kind=ApprovalKind.QUESTION,
        subject="s",
        wanted_by=None,
        turn_id=None,
        txn_id=TxnId("aac-1-0"),
        state=ApprovalState.OPEN,
        asked_at=0.0,
        expires_at=1.0,
        details=ToolDetails(what="Which one?", options=options, is_multiple=is_multiple),
        **more,
    )


ONE, MANY = question("a", "b", "c"), question("a", "b", "c", is_multiple=True)


def ids(approval: Approval) -> list[str]:
    content: Any = build_poll(approval)
    return [answer["id"] for answer in content[POLL_START]["answers"]]


def vote(*answers: str, of: Approval) -> Answer | None:
    return parse_vote(answers, of, by=ALICE, event_id=EventId("$vote"))


def test_a_poll_has_the_question_its_options_and_a_text_for_clients_without_polls() -> None:
    content: Any = build_poll(ONE)
    start = content["org.matrix.msc3381.poll.start"]
    assert content["org.matrix.msc1767.text"] == "Which one?\n1. a\n2. b\n3. c"
    assert start["question"] == {"org.matrix.msc1767.text": "Which one?"}
    assert start["kind"] == "org.matrix.msc3381.poll.disclosed"
    assert start["max_selections"] == 1
    assert [answer["org.matrix.msc1767.text"] for answer in start["answers"]] == ["a", "b", "c"]
    assert len(set(ids(ONE))) == 3
    many: Any = build_poll(MANY)
    assert many[POLL_START]["max_selections"] == 3


def test_what_closes_a_poll_names_it_now_or_later() -> None:
    at_once = build_poll_end("over", EventId("$poll"))
    assert at_once == refer_to_poll(build_poll_end("over", None), EventId("$poll"))
    assert at_once == {
        "org.matrix.msc1767.text": "over",
        "org.matrix.msc3381.poll.end": {},
        "m.relates_to": REFERENCE,
    }


def test_a_question_that_is_no_choice_has_no_poll_nor_has_one_that_clients_would_cut() -> None:
    assert build_poll(question()) is None
    assert build_poll(question(*map(str, range(MAX_ANSWERS)))) is not None
    assert build_poll(question(*map(str, range(MAX_ANSWERS + 1)))) is None


@pytest.mark.parametrize(
    ("event_type", "more"),
    [
        (UNSTABLE, {UNSTABLE: {"answers": ["x"]}}),
        (STABLE, {"m.selections": ["x"]}),
        (STABLE, {STABLE: {"answers": ["x"]}}),
    ],
)
def test_a_response_is_read_in_each_form(event_type: str, more: dict[str, Any]) -> None:
    found = parse_response(event_type, {"m.relates_to": REFERENCE, **more})
    assert found is not None
    assert (found.poll, found.answers) == ("$poll", ("x",))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {UNSTABLE: {"answers": ["x"]}},
        {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$poll", "key": "x"}},
        {"m.relates_to": {"rel_type": "m.reference", "event_id": 3}},
        {"m.relates_to": []},
    ],
)
def test_what_names_no_poll_is_no_response(content: dict[str, Any]) -> None:
    assert parse_response(UNSTABLE, content) is None


@pytest.mark.parametrize(
    ("event_type", "more"),
    [
        (UNSTABLE, {}),
        (UNSTABLE, {UNSTABLE: ["x"]}),
        (UNSTABLE, {UNSTABLE: {"answers": "x"}}),
        (UNSTABLE, {UNSTABLE: {"answers": ["x", 3]}}),
        # Of the other form than its type says.
        (UNSTABLE, {"m.selections": ["x"]}),
        (STABLE, {UNSTABLE: {"answers": ["x"]}}),
        (STABLE, {"m.selections": {"answers": ["x"]}}),
    ],
)
def test_a_response_that_can_not_be_read_has_no_answers(
    event_type: str, more: dict[str, Any]
) -> None:
    found = parse_response(event_type, {"m.relates_to": REFERENCE, **more})
    assert found is not None
    assert found.answers == ()


def test_the_first_vote_answers_a_question_with_one_answer() -> None:
    a, b, _ = ids(ONE)
    assert vote(b, of=ONE) == Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=1)
    assert vote(b, b, of=ONE) == Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=1)
    for nothing in ([], [a, b], ["1"], [a.upper()], [ids(question("a", approval_id="a2"))[0]]):
        assert vote(*nothing, of=ONE) is None


def test_a_vote_for_several_is_kept_and_a_spoilt_one_chooses_nothing() -> None:
    a, b, c = ids(MANY)
    assert vote(c, a, of=MANY) == Answer(
        vote=Vote(by=ALICE, event_id=EventId("$vote"), picks=(0, 2))
    )
    for nothing in ([], [a, "x"], [a, b, c, "x"]):
        assert vote(*nothing, of=MANY) == Answer(
            vote=Vote(by=ALICE, event_id=EventId("$vote"), picks=())
        )


def test_a_tick_takes_what_is_voted() -> None:
    votes = tuple(
        Vote(by=UserId(f"@{n}:test"), event_id=EventId(f"${n}"), picks=(n,)) for n in (2, 0)
    )
    voted = question("a", "b", "c", is_multiple=True, votes=votes)
    assert parse_key("✅", voted) == Answer(event=ApprovalEvent.ALLOWED_ONCE, voted=(0, 2))
    assert parse_key("✅", MANY) is None


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["answers", UNSTABLE, STABLE, "m.selections", "rel_type"]), inner
        )
    ),
    max_leaves=8,
)


@given(JSON, st.sampled_from([UNSTABLE, STABLE]))
def test_no_response_fails_or_chooses_what_the_poll_has_not(value: Any, event_type: str) -> None:
    content = {**(value if isinstance(value, dict) else {}), "m.relates_to": REFERENCE}
    found = parse_response(event_type, content)
    assert found is not None
    for approval in (ONE, MANY):
        answer = vote(*found.answers, of=approval)
        assert answer is None or answer.vote is None or answer.vote.picks == ()
        assert answer is None or answer.event is None
