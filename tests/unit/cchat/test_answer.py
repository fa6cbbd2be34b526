"""Which messages are the answer, and when it is complete."""

from __future__ import annotations

import itertools

import pytest

from cchat.answer import Answer
from cchat.error import Exit, exit_of_outcome
from cchat.event import ANSWER_KEY, TURN_KEY, AnswerMark, Kind, Said, TurnMark, parse_event

_numbers = itertools.count()


def _said(
    body: str = "x",
    *,
    kind: Kind = Kind.TEXT,
    sender: str = "@claude:hs",
    asked: str | None = "$q",
    outcome: str | None = None,
    answers: AnswerMark | None = None,
    is_edit: bool = False,
) -> Said:
    mark = TurnMark(
        turn="t1", asked=(asked,) if asked else (), final=outcome is not None, outcome=outcome
    )
    return Said(
        event_id=f"${next(_numbers)}",
        sender=sender,
        at_s=1.0,
        kind=kind,
        body=body,
        mark=mark if asked else None,
        answers=answers,
        is_edit=is_edit,
    )


def _answer(agent: str | None = None) -> Answer:
    return Answer("$q", me="@me:hs", agent=agent)


def test_texts_are_the_answer_and_notices_are_about_it_until_the_final_one() -> None:
    answer = _answer()
    taken = [
        answer.take(said)
        for said in (
            _said("one"),
            _said("denied", kind=Kind.NOTICE),
            _said("two", outcome="done"),
            _said("late"),
        )
    ]
    assert [line and (line.said.body, line.is_answer) for line in taken] == [
        ("one", True),
        ("denied", False),
        ("two", True),
        None,
    ]
    assert (answer.outcome, answer.turn) == ("done", "t1")


def test_the_end_may_come_without_a_text() -> None:
    answer = _answer()
    assert answer.take(_said(kind=Kind.MARK, outcome="cancelled")) is None
    assert answer.outcome == "cancelled"


def test_a_final_message_without_an_outcome_is_a_failure() -> None:
    answer = _answer()
    said = _said()
    mark = TurnMark(turn="t1", asked=("$q",), final=True)
    answer.take(
        Said(event_id="$f", sender=said.sender, at_s=1.0, kind=Kind.TEXT, body="x", mark=mark)
    )
    assert answer.outcome == "failed"


def test_another_turns_messages_are_passed_over() -> None:
    answer = _answer()
    assert answer.take(_said(asked="$other", outcome="done")) is None
    assert answer.take(_said(asked=None)) is None
    assert answer.outcome is None


def test_where_the_agent_is_known_nobody_else_is_listened_to() -> None:
    answer = _answer(agent="@claude:hs")
    for kind in Kind:
        assert answer.take(_said(kind=kind, sender="@mallory:hs", outcome="done")) is None
    assert answer.outcome is None


def test_where_it_is_not_known_the_first_that_answers_is_the_agent() -> None:
    answer = _answer()
    assert answer.take(_said("first")) is not None
    assert answer.take(_said("forged", sender="@mallory:hs", outcome="done")) is None
    assert answer.outcome is None


def test_our_own_messages_are_never_the_answer() -> None:
    answer = _answer()
    assert answer.take(_said(sender="@me:hs", outcome="done")) is None
    assert answer.outcome is None


def test_edits_and_repeats_are_not_shown_again() -> None:
    answer = _answer()
    said = _said("once")
    assert answer.take(said) is not None
    assert answer.take(said) is None
    assert answer.take(_said("* once", is_edit=True)) is None


def test_a_room_commands_answer_ends_with_its_final_message_and_not_before() -> None:
    answer = _answer()
    steps = (
        (Kind.NOTICE, None),
        (Kind.NOTICE, AnswerMark(to="$q", live=True)),
        (Kind.NOTICE, AnswerMark(to="$other", final=True)),
        (Kind.NOTICE, AnswerMark(to="$q")),
        (Kind.FILE, AnswerMark(to="$q", final=True)),
        (Kind.NOTICE, AnswerMark(to="$q", final=True)),
    )
    seen = []
    for kind, mark in steps:
        line = answer.take(_said(kind=kind, asked=None, answers=mark))
        seen.append((line and line.is_answer, answer.outcome))
    assert seen == [
        (False, None),
        (False, None),
        (None, None),
        (True, None),
        (True, "done"),
        (None, "done"),
    ]


@pytest.mark.parametrize("outcome", ["refused", "failed", "timed_out", "cancelled", "done"])
def test_a_room_commands_outcome_is_the_one_that_its_final_message_says(outcome: str) -> None:
    content = {"to": "$q", "final": True, "outcome": outcome}
    raw = {**_GOOD, "content": {"msgtype": "m.notice", "body": "x", ANSWER_KEY: content}}
    said, answer = parse_event(raw), _answer()
    assert said is not None
    answer.take(said)
    assert answer.outcome == outcome
    assert (exit_of_outcome(outcome) is Exit.OK) is (outcome == "done")


def test_the_first_that_answers_a_command_is_the_agent() -> None:
    answer = _answer()
    answer.take(_said(kind=Kind.NOTICE, asked=None, answers=AnswerMark(to="$q")))
    mark = AnswerMark(to="$q", final=True)
    assert answer.take(_said(sender="@mallory:hs", asked=None, answers=mark)) is None
    assert answer.outcome is None


@pytest.mark.parametrize("raw", [3, "x", [], {}, {"to": 1}, {"to": "$q", "final": "later"}])
def test_a_mark_of_another_form_answers_nothing(raw: object) -> None:
    content = {"msgtype": "m.notice", "body": "x", ANSWER_KEY: raw}
    said = parse_event({**_GOOD, "content": content})
    assert said is not None
    assert said.answers is None


def test_an_answer_without_a_turn_is_read() -> None:
    content = {"msgtype": "m.notice", "body": "x", ANSWER_KEY: {"to": "$q", "final": True}}
    said = parse_event({**_GOOD, "content": content})
    assert said is not None
    assert said.answers == AnswerMark(to="$q", final=True)


_GOOD = {
    "type": "m.room.message",
    "event_id": "$1",
    "sender": "@a:b",
    "origin_server_ts": 1500,
    "content": {
        "msgtype": "m.text",
        "body": "hi",
        TURN_KEY: {"turn": "t", "asked": ["$q"], "part": 1, "final": True, "outcome": "done"},
    },
}


def test_a_marked_message_is_read() -> None:
    said = parse_event(_GOOD)
    assert said is not None
    assert (said.kind, said.body, said.at_s) == (Kind.TEXT, "hi", 1.5)
    assert said.mark == TurnMark(turn="t", asked=("$q",), part=1, final=True, outcome="done")


@pytest.mark.parametrize(
    "mark", [5, [], "x", {}, {"turn": 5}, {"turn": "t", "part": -1}, {"turn": "t", "asked": [1]}]
)
def test_a_broken_mark_makes_an_ordinary_message(mark: object) -> None:
    content = {**_GOOD["content"], TURN_KEY: mark}  # type: ignore[dict-item]
    said = parse_event({**_GOOD, "content": content})
    assert said is not None
    assert said.mark is None


@pytest.mark.parametrize(
    "raw",
    [
        None,
        5,
        [],
        {},
        {**_GOOD, "event_id": 5},
        {**_GOOD, "content": {}},
        {**_GOOD, "content": {"msgtype": "m.text", "body": 5}},
        {**_GOOD, "content": {"msgtype": "m.poll", "body": "x"}},
        {**_GOOD, "type": TURN_KEY, "content": {}},
        {**_GOOD, "type": "m.room.member"},
        {**_GOOD, "event_id": "$" * 5000},
    ],
)
def test_what_is_not_understood_is_none(raw: object) -> None:
    assert parse_event(raw) is None
