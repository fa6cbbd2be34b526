"""Outbox rows out of texts. Pure: the same source and text always give the same rows.

Every message that belongs to a turn carries `org.aiagentchat.turn`, so that a program that asked
can find its answer: the turn's id, the events that asked, the part's number, whether it is the
last one, and then the outcome. What answers a message without being of a turn (a command's answer)
carries `org.aiagentchat.answer`: the event that asked, whether it is the last one, and then the
outcome.

A text that would take more messages than the installation allows is its beginning and a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from orchestrator.core import texts
from orchestrator.core.chunking import (
    LEAST_BYTES,
    RESERVE_BYTES,
    split_for_event,
    split_markdown,
)
from orchestrator.core.naming import refused_txn_id, txn_id
from orchestrator.core.poll import POLL_END, POLL_START
from orchestrator.core.render import build_text_content
from orchestrator.core.sanitise import sanitise
from orchestrator.core.texts import approval as approval_texts
from orchestrator.core.texts import file as file_texts
from orchestrator.core.texts import live as live_texts
from orchestrator.core.turn_mark import (
    ANSWER_KEY,
    MARK_KEYS,
    build_answer_mark,
    build_live_mark,
    parse_reply,
)
from orchestrator.core.turn_mark import TURN_KEY as TURN_KEY
from orchestrator.model import EventId, JsonObject, Priority, RoomId, TurnId, TurnOutcome, TxnId
from orchestrator.store.api import NewOutboxRow, OutboxRow, TurnRow

MESSAGE = "m.room.message"
# What is not the new content, in a content that takes a message's place (core.edit).
_EDIT_BYTES = 2560
_ANSWER_TYPE = "text/markdown"
# Enough to see what the answer is about: a screen or two.
_PREVIEW_BYTES = 6144
# The sentence behind a preview, as Markdown and as HTML.
_SENTENCE_BYTES = 600
# A file's text as messages, where the homeserver takes no file: four minutes at Synapse's stock
# pace, and some 1 MB of prose.
_MOST_INSTEAD_OF_FILE = 50


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
    more_follows: bool = False,
    outcome: TurnOutcome = TurnOutcome.DONE,
) -> list[NewOutboxRow]:
    """What is said about something that is no turn: an `m.notice`, so that no bot answers it.

    As a reply to `reply_to`, so that whoever asked (a program, too) knows what it is about, and
    when the answer is whole: the last message is marked so, with what came of it, unless
    `more_follows`.
    """
    contents = split_for_event(text, max_event_bytes=max_event_bytes, notice=True)
    if reply_to is not None:
        for content in contents:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": reply_to}}
            is_end = content is contents[-1] and not more_follows
            content[ANSWER_KEY] = build_answer_mark(reply_to, final=is_end, outcome=outcome)
    return _rows(room_id, source, contents, first_part=0, priority=Priority.NOTICE)


def build_progress_rows(
    room_id: RoomId, source: str, text: str, *, max_event_bytes: int, reply_to: EventId
) -> list[NewOutboxRow]:
    """How a command goes on that takes its time; its answer follows."""
    rows = build_notice_rows(
        room_id, source, text, max_event_bytes=max_event_bytes, reply_to=reply_to
    )
    mark = build_answer_mark(reply_to, final=False, is_live=True)
    return [replace(row, content={**row.content, ANSWER_KEY: mark}) for row in rows]


def build_turn_notice_rows(
    turn: TurnRow,
    topic: str,
    text: str,
    *,
    max_event_bytes: int,
    final: Final | None = None,
    replies: bool = False,
) -> list[NewOutboxRow]:
    """What is said about a turn besides its answer; `topic` makes the transaction ids.

    With `replies` it shows as a reply to the first message of the turn.
    """
    contents = split_for_event(
        text, max_event_bytes=max_event_bytes, notice=True, reserve_bytes=_reserve_bytes(turn)
    )
    _mark(contents, turn, first_part=turn.parts, final=final)
    for content in contents if replies and turn.asked else ():
        content["m.relates_to"] = {"m.in_reply_to": {"event_id": turn.asked[0]}}
    priority = Priority.FINAL if final else Priority.NOTICE
    return _rows(turn.room_id, f"{turn.turn_id}:{topic}", contents, first_part=0, priority=priority)


def build_turn_text_rows(
    turn: TurnRow, text: str, *, max_event_bytes: int, max_messages: int, final: Final | None
) -> list[NewOutboxRow]:
    """A piece of a turn's answer, numbered from `turn.parts` on.

    In more than `max_messages` messages it is two: its beginning, and a file with all of it.
    """
    max_bytes = max(LEAST_BYTES, max_event_bytes - _reserve_bytes(turn))
    pieces = islice(split_markdown(text, max_bytes=max_bytes), max_messages + 1)
    contents = [piece.content for piece in pieces]
    file = None
    if len(contents) > max_messages:
        file = sanitise(text).encode()
        contents = [
            _preview(text, len(file), max_bytes=max_bytes, is_rest=turn.parts > 0),
            _file_content(len(file), part=turn.parts),
        ]
    _mark(contents, turn, first_part=turn.parts, final=final)
    priority = Priority.FINAL if final else Priority.TEXT
    rows = _rows(turn.room_id, turn.turn_id, contents, first_part=turn.parts, priority=priority)
    return rows if file is None else [*rows[:-1], replace(rows[-1], file=file)]


def build_rows_instead_of_file(
    row: OutboxRow, file: bytes, *, max_event_bytes: int
) -> list[NewOutboxRow]:
    """The text of a file that the homeserver does not take, as messages; its mark on the last."""
    marks = {key: m for key in MARK_KEYS if isinstance(m := row.content.get(key), dict)}
    reserve_bytes = RESERVE_BYTES + len(json.dumps(marks).encode())
    max_bytes = max(LEAST_BYTES, max_event_bytes - reserve_bytes)
    pieces = split_markdown(file.decode(), max_bytes=max_bytes)
    shown = list(islice(pieces, _MOST_INSTEAD_OF_FILE))
    left_bytes = len(file) - sum(len(piece.source.encode()) for piece in shown)
    contents = [build_text_content(texts.FILE_NOT_TAKEN, notice=True)]
    contents += [piece.content for piece in shown]
    if next(pieces, None) is not None:
        contents.append(build_text_content(texts.file_left_out(left_bytes), notice=True))
    for content in contents[:-1]:
        for key, mark in marks.items():
            content[key] = {k: v for k, v in mark.items() if k != "outcome"} | {"final": False}
    contents[-1].update(marks)
    source = f"{row.txn_id}:instead"
    first, *others = _rows(row.room_id, source, contents, first_part=0, priority=row.priority)
    # By its id an audit finds what stands in place of a refused message.
    return [replace(first, txn_id=refused_txn_id(row.txn_id)), *others]


def is_answer_file(row: OutboxRow) -> bool:
    """Whether the row's file is an answer as text, which messages can say as well."""
    info = row.content.get("info")
    return isinstance(info, dict) and info.get("mimetype") == _ANSWER_TYPE


def is_left_out_unsaid(row: OutboxRow) -> bool:
    """Whether nobody misses the row where it is refused: a stand-in, or the end of a poll."""
    return row.event_type == POLL_END or texts.is_message_refused(row.content.get("body"))


def build_refusal_row(row: OutboxRow, errcode: str, *, max_event_bytes: int) -> NewOutboxRow:
    """What stands in place of a refused message: with its mark, for whoever waits for that.

    A reply where it was one, so that whoever asked knows what it is about.
    """
    text = texts.message_refused(errcode)
    if row.event_type == POLL_START:
        text = approval_texts.no_poll(errcode)
    if row.has_file:
        info = row.content.get("info")
        size = info.get("size") if isinstance(info, dict) else None
        text = file_texts.file_not_taken(errcode, size if isinstance(size, int) else 0)
    (content,) = split_for_event(text, max_event_bytes=max_event_bytes, notice=True)
    if (reply_to := parse_reply(row.content)) is not None:
        content["m.relates_to"] = {"m.in_reply_to": {"event_id": reply_to}}
    content.update({key: row.content[key] for key in MARK_KEYS if key in row.content})
    mark = content.get(ANSWER_KEY)
    if row.has_file and isinstance(mark, dict) and mark.get("final") is True:
        # A file ends the answer to who asked for it, and they don't get it.
        content[ANSWER_KEY] = {**mark, "outcome": TurnOutcome.FAILED}
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


def build_refusal_mark_row(turn: TurnRow, final: Final) -> NewOutboxRow:
    """The end of refused messages that the room was told of already; no answer waits for it."""
    return replace(build_end_mark_row(turn, final), priority=Priority.TEXT)


def build_pointer_row(turn: TurnRow, live: TxnId) -> NewOutboxRow:
    """What takes the place of a turn's live message where the answer stands further below."""
    content = build_text_content(live_texts.BELOW, notice=True)
    content[TURN_KEY] = build_live_mark(turn.turn_id, turn.asked)
    return NewOutboxRow(
        room_id=turn.room_id,
        txn_id=txn_id(f"{turn.turn_id}:below", 0),
        event_type=MESSAGE,
        content=content,
        priority=Priority.TEXT,
        edits=live,
    )


def _preview(text: str, size_bytes: int, *, max_bytes: int, is_rest: bool) -> JsonObject:
    """The beginning, up to a paragraph's end where there is one, and where the rest is."""
    room_bytes = max(LEAST_BYTES, min(_PREVIEW_BYTES, max_bytes - _SENTENCE_BYTES))
    beginning = next(split_markdown(text, max_bytes=room_bytes)).markdown.strip("\n")
    sentence = texts.in_file(size_bytes, is_rest=is_rest)
    return build_text_content(f"{beginning}\n\n…\n\n{sentence}")


def _file_content(size_bytes: int, *, part: int) -> JsonObject:
    """An `m.file` without its address. A second file of a turn has a name of its own."""
    name = "answer.md" if part == 0 else f"answer-{part}.md"
    return {
        "msgtype": "m.file",
        "body": name,
        "filename": name,
        "info": {"mimetype": _ANSWER_TYPE, "size": size_bytes},
        "m.mentions": {},
    }


def mark_of_turn(turn: TurnRow) -> JsonObject:
    """The key of something that is said in the middle of a turn and is no part of its answer."""
    return {TURN_KEY: _turn_mark(turn.turn_id, turn.asked, turn.parts, None)}


def _turn_mark(
    turn_id: TurnId, asked: Sequence[EventId], part: int, final: Final | None
) -> JsonObject:
    mark: JsonObject = {"turn": turn_id, "asked": list(asked), "part": part, "final": bool(final)}
    if final is not None:
        mark["outcome"] = final.outcome
    return mark


def _reserve_bytes(turn: TurnRow) -> int:
    """What the marks and an edit take in a content, beside what is always left free."""
    longest = _turn_mark(turn.turn_id, turn.asked, 10**6, Final(outcome=TurnOutcome.OUT_OF_MEMORY))
    return RESERVE_BYTES + _EDIT_BYTES + 2 * len(json.dumps({TURN_KEY: longest}).encode())


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
