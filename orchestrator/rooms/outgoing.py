"""Outbox rows out of texts. Pure: the same source and text always give the same rows.

Every message that belongs to a turn carries `org.aiagentchat.turn`, so that a program that asked
can find its answer: the turn's id, the events that asked, the part's number, whether it is the
last one, and then the outcome.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core import texts
from orchestrator.core.chunking import RESERVE_BYTES, split_for_event
from orchestrator.core.naming import refused_txn_id, txn_id
from orchestrator.core.turn_mark import TURN_KEY as TURN_KEY
from orchestrator.core.turn_mark import parse_reply
from orchestrator.model import EventId, JsonObject, Priority, RoomId, TurnId, TurnOutcome
from orchestrator.store.api import NewOutboxRow, OutboxRow, TurnRow

MESSAGE = "m.room.message"


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The mark on the last message of a turn."""

    outcome: TurnOutcome


def build_notice_rows(
    room_id: RoomId,
    source: str,
    text: str,
    *,
    max_event_bytes: int,
    reply_to: EventId | None = None,
) -> list[NewOutboxRow]:
    """What is said about something that is no turn: an `m.notice`, so that no bot answers it.

    As a reply to `reply_to`, so that whoever asked (a program, too) knows what it is about.
    """
    contents = split_for_event(text, max_event_bytes=max_event_bytes, notice=True)
    if reply_to is not None:
        for content in contents:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": reply_to}}
    return _rows(room_id, source, contents, first_part=0, priority=Priority.NOTICE)


def build_turn_notice_rows(
    turn: TurnRow, topic: str, text: str, *, max_event_bytes: int, final: Final | None = None
) -> list[NewOutboxRow]:
    """What is said about a turn besides its answer; `topic` makes the transaction ids."""
    contents = split_for_event(
        text, max_event_bytes=max_event_bytes, notice=True, reserve_bytes=_reserve_bytes(turn)
    )
    _mark(contents, turn, first_part=turn.parts, final=final)
    priority = Priority.FINAL if final else Priority.NOTICE
    return _rows(turn.room_id, f"{turn.turn_id}:{topic}", contents, first_part=0, priority=priority)


def build_turn_text_rows(
    turn: TurnRow, text: str, *, max_event_bytes: int, final: Final | None
) -> list[NewOutboxRow]:
    """A piece of a turn's answer, numbered from `turn.parts` on."""
    contents = split_for_event(
        text, max_event_bytes=max_event_bytes, reserve_bytes=_reserve_bytes(turn)
    )
    _mark(contents, turn, first_part=turn.parts, final=final)
    priority = Priority.FINAL if final else Priority.TEXT
    return _rows(turn.room_id, turn.turn_id, contents, first_part=turn.parts, priority=priority)


def build_refusal_row(row: OutboxRow, errcode: str, *, max_event_bytes: int) -> NewOutboxRow:
    """What stands in place of a refused message: with its mark, for whoever waits for that.

    A reply where it was one, so that whoever asked knows what it is about.
    """
    text = texts.message_refused(errcode)
    (content,) = split_for_event(text, max_event_bytes=max_event_bytes, notice=True)
    if (reply_to := parse_reply(row.content)) is not None:
        content["m.relates_to"] = {"m.in_reply_to": {"event_id": reply_to}}
    if (mark := row.content.get(TURN_KEY)) is not None:
        content[TURN_KEY] = mark
    return NewOutboxRow(
        room_id=row.room_id,
        txn_id=refused_txn_id(row.txn_id),
        event_type=MESSAGE,
        content=content,
        priority=Priority.NOTICE,
    )


def build_end_mark_row(turn: TurnRow, final: Final) -> NewOutboxRow:
    """The end of a turn whose whole text was sent already: an event that clients don't show."""
    content: JsonObject = {TURN_KEY: _turn_mark(turn.turn_id, turn.asked, turn.parts, final)}
    return NewOutboxRow(
        room_id=turn.room_id,
        txn_id=txn_id(f"{turn.turn_id}:end", 0),
        event_type=TURN_KEY,
        content=content,
        priority=Priority.FINAL,
    )


def _turn_mark(
    turn_id: TurnId, asked: Sequence[EventId], part: int, final: Final | None
) -> JsonObject:
    mark: JsonObject = {"turn": turn_id, "asked": list(asked), "part": part, "final": bool(final)}
    if final is not None:
        mark["outcome"] = final.outcome
    return mark


def _reserve_bytes(turn: TurnRow) -> int:
    """What the mark takes in a content, beside what is always left free."""
    longest = _turn_mark(turn.turn_id, turn.asked, 10**6, Final(outcome=TurnOutcome.OUT_OF_MEMORY))
    return RESERVE_BYTES + len(json.dumps({TURN_KEY: longest}).encode())


def _mark(
    contents: list[JsonObject], turn: TurnRow, *, first_part: int, final: Final | None
) -> None:
    last = len(contents) - 1
    for i, content in enumerate(contents):
        mark = final if i == last else None
        content[TURN_KEY] = _turn_mark(turn.turn_id, turn.asked, first_part + i, mark)


def _rows(
    room_id: RoomId,
    source: str,
    contents: Sequence[JsonObject],
    *,
    first_part: int,
    priority: Priority,
) -> list[NewOutboxRow]:
    last = len(contents) - 1
    return [
        NewOutboxRow(
            room_id=room_id,
            txn_id=txn_id(source, first_part + i),
            event_type=MESSAGE,
            content=content,
            priority=priority if i == last or priority is not Priority.FINAL else Priority.TEXT,
        )
        for i, content in enumerate(contents)
    ]
