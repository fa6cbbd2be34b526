"""Threads of a room: each is a conversation of its own, and what it says stays in it. Pure.

A conversation's name is `main`, for the room's main timeline, or the event that a thread hangs on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.model import EventId, JsonObject, JsonValue

MAIN = "main"
"""The conversation of the room's main timeline."""
_RELATION = "m.relates_to"
_THREAD = "m.thread"
# The Matrix specification's limit of an event id.
_MAX_EVENT_ID_BYTES = 255
# What a room leaves behind: a thread hangs on an event of it, and can't be gone on with elsewhere.
_LEFT = "left:"


def parse_thread(content: Mapping[str, JsonValue]) -> EventId | None:
    """The event that the thread of a message hangs on, or None in the main timeline."""
    relation = content.get(_RELATION)
    if not isinstance(relation, dict) or relation.get("rel_type") != _THREAD:
        return None
    root = relation.get("event_id")
    if not isinstance(root, str) or not root.startswith("$"):
        return None
    is_plain = root.isascii() and root.isprintable() and len(root) <= _MAX_EVENT_ID_BYTES
    return EventId(root) if is_plain else None


def find_thread(raw: str) -> EventId | None:
    """The same of a whole event as JSON, also of one that is still encrypted; never raises."""
    if _THREAD not in raw:
        return None
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    content = event.get("content") if isinstance(event, dict) else None
    return parse_thread(content) if isinstance(content, dict) else None


def conversation_in(thread: EventId | None) -> str:
    """The conversation's name."""
    return MAIN if thread is None else thread


def thread_of(conversation: str) -> EventId | None:
    """The thread that a conversation is held in; None: in the main timeline."""
    return EventId(conversation) if conversation.startswith("$") else None


def left_behind(conversation: str) -> str:
    """The name of a conversation that moves into another room, where its thread is not."""
    return MAIN if conversation == MAIN else f"{_LEFT}{conversation.removeprefix(_LEFT)}"


def take_out_of_thread(content: JsonObject) -> JsonObject:
    """The content as a message of the main timeline; a reply stays one."""
    relation = content.get(_RELATION)
    if parse_thread(content) is None or not isinstance(relation, dict):
        return content
    kept = {key: value for key, value in content.items() if key != _RELATION}
    if relation.get("is_falling_back") is True:
        return kept
    return {**kept, _RELATION: {"m.in_reply_to": relation.get("m.in_reply_to")}}


def loosen(content: JsonObject) -> JsonObject | None:
    """The content with less that it relates to, its thread first; None: it relates to nothing."""
    if _RELATION not in content:
        return None
    if parse_thread(content) is not None:
        return take_out_of_thread(content)
    return {key: value for key, value in content.items() if key != _RELATION}


def put_in_thread(content: JsonObject, thread: EventId) -> JsonObject:
    """The content as a message of the thread.

    A reply stays one. What is none names the thread's root for clients that know no threads, which
    show it as a reply to that.
    """
    relation = content.get(_RELATION)
    reply = relation.get("m.in_reply_to") if isinstance(relation, dict) else None
    return {
        **content,
        _RELATION: {
            "rel_type": _THREAD,
            "event_id": thread,
            "is_falling_back": reply is None,
            "m.in_reply_to": {"event_id": thread} if reply is None else reply,
        },
    }
