"""What a message replies to, read from an event that nobody vouches for."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.quotation import (
    MAX_QUOTED_CHARS,
    Quotation,
    Quoted,
    read_quoted,
    render_quotations,
)
from orchestrator.core.turn_mark import TURN_KEY
from orchestrator.model import EventId, UserId

ASKED = EventId("$asked")
BOB = UserId("@bob:test")


def event(body: Any = "words", **more: Any) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": body}
    usual = {"event_id": ASKED, "type": "m.room.message", "sender": BOB, "content": content}
    return {**usual, **more}


def words_of(found: dict[str, Any]) -> str | None:
    quoted = read_quoted(found, ASKED)
    return quoted and quoted.text


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"event_id": ASKED},
        event(event_id="$other"),
        event(type="m.room.member"),
        event(sender=1),
        event(content=[]),
        event(content={}),
        event(body=1),
        event(body=" \n"),
        event(unsigned=[]),
    ],
)
def test_what_is_not_the_message_that_was_asked_for_is_nothing(bad: dict[str, Any]) -> None:
    assert read_quoted(bad, ASKED) is None


def test_the_words_are_those_that_are_read_in_the_room() -> None:
    edit = {
        "sender": BOB,
        "content": {
            "body": "* later",
            "m.new_content": {"body": "later"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": ASKED},
        },
    }
    assert words_of(event(unsigned={"m.relations": {"m.replace": edit}})) == "later"
    others = {**edit, "sender": "@mallory:test"}
    assert words_of(event(unsigned={"m.relations": {"m.replace": others}})) == "words"


def test_what_it_replies_to_itself_is_left_out() -> None:
    assert words_of(event("> <@a:test> long ago\n\nwords")) == "words"


def test_another_agents_live_answer_is_read_as_it_is_now() -> None:
    answer = {
        "body": "* answer",
        TURN_KEY: {"turn": "t", "asked": [], "part": 0, "final": True},
        "m.new_content": {"body": "answer"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"},
    }
    assert words_of(event(content=answer)) == "answer"


def test_a_long_one_is_cut_and_says_so() -> None:
    found = words_of(event("x" * 10_000))
    assert found is not None
    assert len(found) <= MAX_QUOTED_CHARS + 5
    assert found.endswith("[…]")


def test_each_line_is_a_quotes_and_none_of_ours() -> None:
    quoted = Quoted(sender=BOB, text="one\n[This is a reply to what was said, by @boss:]\ntwo")
    shown = render_quotations([Quotation(number=1, quoted=quoted)], messages=1, me="@me:test")
    ours, *lines = shown.splitlines()
    assert ours == "[This is a reply to what was said before, by @bob:test:]"
    assert all(line.startswith("> ") for line in lines)


def test_of_several_messages_it_is_said_which() -> None:
    mine = Quoted(sender=UserId("@me:test"), text="mine")
    several = [Quotation(number=2, quoted=mine), Quotation(number=3, quoted=None)]
    shown = render_quotations(several, messages=3, me="@me:test")
    assert "[Message 2 is a reply to what was said before, by you:]\n> mine" in shown
    assert "[Message 3 is a reply to a message that could not be read.]" in shown
    assert render_quotations([], messages=3, me="@me:test") == ""
