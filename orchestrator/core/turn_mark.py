"""The marks that messages carry: of a turn, and of what is answered without one. Pure.

`rooms.outgoing` writes them; a program that asked finds its answer by them (docs/protocol.md), and
the audit reads a turn's back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.model import EventId, JsonObject, JsonValue, TurnId, TurnOutcome

TURN_KEY = "org.aiagentchat.turn"
ANSWER_KEY = "org.aiagentchat.answer"
"""On what answers a message without being of a turn: a command's answer, a refusal's reason."""

MARK_KEYS = (TURN_KEY, ANSWER_KEY)


# In the mark of a message that shows how a turn goes on, and is no answer yet.
_LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMark:
    """What a message says of its turn."""

    turn_id: TurnId
    asked: frozenset[EventId]
    is_final: bool
    is_live: bool = False
    """The message shows how the turn goes on; the answer will take its place."""


def build_live_mark(turn_id: TurnId, asked: Sequence[EventId]) -> JsonObject:
    """The mark of what is shown of a running turn."""
    return {"turn": turn_id, "asked": list(asked), "part": 0, "final": False, _LIVE: True}


def build_answer_mark(
    to: EventId,
    *,
    final: bool,
    is_live: bool = False,
    outcome: TurnOutcome = TurnOutcome.DONE,
) -> JsonObject:
    """The mark of what is said in answer to the event `to`; nothing follows the final one.

    That one alone has the outcome. With `is_live` it shows how a command goes on, and is no answer
    yet.
    """
    mark: JsonObject = {"to": to, "final": final, **({_LIVE: True} if is_live else {})}
    if final:
        mark["outcome"] = outcome
    return mark


def parse_mark(content: Mapping[str, JsonValue]) -> TurnMark | None:
    """The mark in a content, or None where there is no well-formed one."""
    value = content.get(TURN_KEY)
    if not isinstance(value, dict):
        return None
    turn_id, asked = value.get("turn"), value.get("asked")
    if not isinstance(turn_id, str) or not isinstance(asked, list):
        return None
    return TurnMark(
        turn_id=TurnId(turn_id),
        asked=frozenset(EventId(e) for e in asked if isinstance(e, str)),
        is_final=value.get("final") is True,
        is_live=value.get(_LIVE) is True,
    )


def parse_reply(content: Mapping[str, JsonValue]) -> EventId | None:
    """The event that a message is a reply to, or None.

    A message of a thread that only names another for clients that know no threads is no reply.
    """
    relation = content.get("m.relates_to")
    if not isinstance(relation, dict) or relation.get("is_falling_back") is True:
        return None
    reply = relation.get("m.in_reply_to")
    event_id = reply.get("event_id") if isinstance(reply, dict) else None
    return EventId(event_id) if isinstance(event_id, str) else None
