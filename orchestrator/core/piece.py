"""The messages that a waiting turn is made of, so that each can be changed or taken back. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.attachment import decode_attachment, encode_attachment
from orchestrator.core.policy import Message, build_prompt
from orchestrator.model import EventId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The messages in their order, and whether each says who wrote it."""

    messages: tuple[Message, ...]
    name_senders: bool

    @property
    def prompt(self) -> str:
        """What the agent is asked; empty where nothing is left."""
        return build_prompt(list(self.messages), name_senders=self.name_senders)

    def with_text(self, event_id: EventId, text: str, *, by: UserId) -> Pieces | None:
        """One message in other words; None where it is not this person's, or not here."""
        if not any(m.event_id == event_id and m.sender == by for m in self.messages):
            return None
        changed = (replace(m, text=text) if m.event_id == event_id else m for m in self.messages)
        return replace(self, messages=tuple(changed))

    def without(self, *event_ids: EventId) -> Pieces:
        """The others."""
        kept = tuple(m for m in self.messages if m.event_id not in event_ids)
        return replace(self, messages=kept)


def encode_pieces(messages: Sequence[Message], *, name_senders: bool) -> str:
    """As they are stored."""
    rows = [
        [m.event_id, m.sender, m.name, m.text, encode_attachment(m.attachment), m.quotes]
        for m in messages
    ]
    return json.dumps({"named": name_senders, "messages": rows})


def decode_pieces(text: str) -> Pieces:
    """What was stored; nothing of a turn from before they were kept."""
    stored = json.loads(text or "{}")
    messages = tuple(
        Message(
            event_id=EventId(event),
            sender=UserId(sender),
            name=name,
            text=words,
            attachment=decode_attachment(attachment),
            quotes=EventId(more[0]) if more and more[0] is not None else None,
        )
        for event, sender, name, words, attachment, *more in stored.get("messages", [])
    )
    return Pieces(messages=messages, name_senders=bool(stored.get("named")))
