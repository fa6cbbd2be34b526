"""Which thread a message belongs to, and how one is put into it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.thread import (
    MAIN,
    conversation_in,
    find_thread,
    left_behind,
    parse_thread,
    put_in_thread,
    take_out_of_thread,
    thread_of,
)
from orchestrator.core.turn_mark import parse_reply
from orchestrator.model import EventId

ROOT = EventId("$root")


@pytest.mark.parametrize(
    "relation",
    [
        None,
        "m.thread",
        [],
        {},
        {"rel_type": "m.replace", "event_id": "$root"},
        {"rel_type": "m.thread"},
        {"rel_type": "m.thread", "event_id": 1},
        {"rel_type": "m.thread", "event_id": "main"},
        {"rel_type": "m.thread", "event_id": "root"},
        {"rel_type": "m.thread", "event_id": "$" + "a" * 255},
        {"rel_type": "m.thread", "event_id": "$r\u00f6ot"},
        {"rel_type": "m.thread", "event_id": "$a\n"},
    ],
)
def test_what_names_no_thread_is_of_the_main_timeline(relation: Any) -> None:
    assert parse_thread({"m.relates_to": relation}) is None


@pytest.mark.parametrize("raw", ["", "m.thread", '"m.thread"', "[" * 100_000 + "m.thread", "{}"])
def test_what_is_no_event_is_of_no_thread(raw: str) -> None:
    assert find_thread(raw) is None


def test_an_encrypted_event_says_its_thread_in_the_clear() -> None:
    relation = {"rel_type": "m.thread", "event_id": ROOT}
    event = {"type": "m.room.encrypted", "content": {"ciphertext": "x", "m.relates_to": relation}}
    assert find_thread(json.dumps(event)) == ROOT


def test_a_message_goes_into_a_thread_and_out_again() -> None:
    content = {"body": "x", "msgtype": "m.text"}
    inside = put_in_thread(content, ROOT)
    assert parse_thread(inside) == ROOT
    assert inside["m.relates_to"]["m.in_reply_to"] == {"event_id": ROOT}
    assert parse_reply(inside) is None, "what only falls back is no reply"
    assert take_out_of_thread(inside) == content


def test_a_reply_stays_one_in_a_thread_and_out_of_it() -> None:
    reply = {"body": "x", "m.relates_to": {"m.in_reply_to": {"event_id": "$asked"}}}
    inside = put_in_thread(reply, ROOT)
    assert parse_reply(inside) == "$asked"
    assert take_out_of_thread(inside) == reply
    assert take_out_of_thread(reply) == reply


def test_a_conversation_is_named_after_its_thread() -> None:
    assert conversation_in(None) == MAIN
    assert thread_of(MAIN) is None
    assert thread_of(conversation_in(ROOT)) == ROOT
    assert left_behind(MAIN) == MAIN
    assert thread_of(left_behind(ROOT)) is None
    assert left_behind(left_behind(ROOT)) == left_behind(ROOT)
