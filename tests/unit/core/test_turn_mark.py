from __future__ import annotations

from orchestrator.core.turn_mark import parse_mark, parse_reply
from tests.support.evidence import ASKED, mark


def test_a_mark_is_read_back_and_nothing_malformed_is() -> None:
    content = {"turn": "t1", "asked": ["$asked", 7], "part": 0, "final": True}
    assert parse_mark({"org.aiagentchat.turn": content}) == mark()
    for bad in (
        None,
        3,
        {},
        {"turn": "t1"},
        {"turn": 1, "asked": []},
        {"turn": "t", "asked": "$a"},
    ):
        assert parse_mark({"org.aiagentchat.turn": bad}) is None  # type: ignore[dict-item] # on purpose: no JSON is too odd


def test_a_reply_is_read_back_and_nothing_malformed_is() -> None:
    assert parse_reply({"m.relates_to": {"m.in_reply_to": {"event_id": "$asked"}}}) == ASKED
    for bad in (None, 3, {}, {"m.in_reply_to": 3}, {"m.in_reply_to": {"event_id": 3}}):
        assert parse_reply({"m.relates_to": bad}) is None  # type: ignore[dict-item] # on purpose: no JSON is too odd
