"""Which messages are the answer, and when it is complete."""

from __future__ import annotations

import itertools

import pytest

from cchat.answer import Answer
from cchat.event import TURN_KEY, Kind, Said, TurnMark, parse_event

_numbers = itertools.count()


def _said(
    body: str = "x",
    *,
    kind: Kind = Kind.TEXT,
    sender: str = "@claude:hs",
    asked: str | None = "$q",
    outcome: str | None = None,
    reply_to: str | None = None,
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
        reply_to=reply_to,
        is_edit=is_edit,
    )


def _answer(agent: str | None = None, *, is_command: bool = False) -> Answer:
    return Answer("$q", me="@me:hs", agent=agent, is_command=is_command)


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


@pytest.mark.parametrize("is_command", [True, False])
def test_a_room_commands_answer_ends_the_wait(is_command: bool) -> None:
    answer = _answer(is_command=is_command)
    notice = _said("status", kind=Kind.NOTICE, asked=None)
    line = answer.take(notice)
    assert line is not None
    assert line.is_answer is is_command
    assert answer.outcome == ("done" if is_command else None)


def test_a_notice_in_reply_to_us_ends_the_wait() -> None:
    answer = _answer()
    line = answer.take(_said("no", kind=Kind.NOTICE, asked=None, reply_to="$q"))
    assert line is not None
    assert line.is_answer
    assert answer.outcome == "done"


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
