"""A message that takes another one's place: how it is written, and how it is read. Pure.

An edit names its message in `m.relates_to`, and holds the whole new content in `m.new_content`.
What stands beside that is for clients that know no edits. Nothing in an edit pings anybody.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.turn_mark import TURN_KEY, parse_mark
from orchestrator.model import EventId, JsonObject, JsonValue

_REPLACE = "m.replace"
# For clients without edits: enough to see what it is, and little beside the new content itself.
_FALLBACK_CHARS = 300


def build_edit(content: JsonObject, event_id: EventId) -> JsonObject:
    """The content of an event that puts `content` in the place of the message `event_id`.

    It takes some 2.5 KB more than `content` at most.
    """
    new = {key: value for key, value in content.items() if key != "m.relates_to"}
    edit: JsonObject = {
        "msgtype": content.get("msgtype", "m.text"),
        "body": f"* {_beginning(str(content.get('body', '')))}",
        "m.mentions": {},
        "m.new_content": new,
        "m.relates_to": {"rel_type": _REPLACE, "event_id": event_id},
    }
    if TURN_KEY in content:
        edit[TURN_KEY] = content[TURN_KEY]
    return edit


def parse_edited(content: Mapping[str, JsonValue]) -> EventId | None:
    """The event that a content takes the place of, or None where it is no edit."""
    relation = content.get("m.relates_to")
    if not isinstance(relation, dict) or relation.get("rel_type") != _REPLACE:
        return None
    event_id = relation.get("event_id")
    return EventId(event_id) if isinstance(event_id, str) else None


def parse_new_content(content: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    """The content that an edit puts in another one's place; None where there is none."""
    new = content.get("m.new_content")
    return new if parse_edited(content) is not None and isinstance(new, dict) else None


def read_said(content: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    """What a message says; None where it only shows how another agent's turn goes on.

    An answer that takes the place of such a message is read as if it stood alone.
    """
    mark = parse_mark(content)
    if mark is None:
        return content
    return None if mark.is_live else parse_new_content(content) or content


def _beginning(text: str) -> str:
    return text if len(text) <= _FALLBACK_CHARS else f"{text[: _FALLBACK_CHARS - 1]}…"
