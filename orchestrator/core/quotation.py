"""What a message replies to, for the agent: read from an event, written below the message. Pure.

Clients no longer put it into the message itself (Matrix 1.13), so without it the agent would not
know what "this one" is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from orchestrator.core.edit import parse_new_content
from orchestrator.core.policy import RoomEvent, strip_quote
from orchestrator.core.sanitise import sanitise
from orchestrator.core.turn_mark import parse_mark
from orchestrator.model import EventId, JsonValue, UserId

# A screen or two: it is there to be recognised, and who needs all of it can paste it.
MAX_QUOTED_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """Somebody's message, as it is read in the room."""

    sender: UserId
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotation:
    """What the `number`-th message of a turn replies to; None: it can't be read."""

    number: int
    quoted: Quoted | None


class _Event(RoomEvent):
    unsigned: dict[str, Any] = Field(default_factory=dict)


def read_quoted(event: Mapping[str, JsonValue], event_id: EventId) -> Quoted | None:
    """A message out of an event in clear, as it was edited last; None where it says nothing.

    The homeserver's answer is not trusted to be the event that was asked for, nor to be one.
    """
    try:
        read = _Event.model_validate(event)
    except ValidationError:
        return None
    if read.event_id != event_id or read.type != "m.room.message":
        return None
    text = read_words(_edited(read) or read.content)
    return None if text is None else Quoted(sender=UserId(read.sender), text=text)


def read_words(content: Mapping[str, JsonValue]) -> str | None:
    """The words of a content, without what it replies to itself; None where there are none."""
    mark = parse_mark(content)
    said = content if mark is None else parse_new_content(content) or content
    body = said.get("body")
    words = strip_quote(sanitise(body)) if isinstance(body, str) else ""
    if len(words) > MAX_QUOTED_CHARS:
        words = f"{words[:MAX_QUOTED_CHARS].rstrip()} […]"
    return words or None


def render_quotations(quotations: Sequence[Quotation], *, messages: int, me: str) -> str:
    """Below the messages of a turn, for the agent; empty where there is none."""
    parts: list[str] = []
    for one in quotations:
        which = "This" if messages == 1 else f"Message {one.number}"
        if one.quoted is None:
            parts.append(f"[{which} is a reply to a message that could not be read.]")
            continue
        whose = "you" if one.quoted.sender == me else one.quoted.sender
        lines = "\n".join(f"> {line}".rstrip() for line in one.quoted.text.splitlines())
        parts.append(f"[{which} is a reply to what was said before, by {whose}:]\n{lines}")
    return "\n\n".join(parts)


def _edited(event: _Event) -> Mapping[str, JsonValue] | None:
    """What the sender put in its place since, as the homeserver bundles it with the event."""
    relations = event.unsigned.get("m.relations")
    edit = relations.get("m.replace") if isinstance(relations, dict) else None
    content = edit.get("content") if isinstance(edit, dict) else None
    if not isinstance(edit, dict) or edit.get("sender") != event.sender:
        return None
    return parse_new_content(content) if isinstance(content, dict) else None
