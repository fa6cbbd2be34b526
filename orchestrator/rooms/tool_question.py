"""A question about a tool, a plan or an answer as outbox rows. Pure: the same in, the same out.

The question itself is one event, whatever its length, because a reaction to it must find it. What
is too long for it is a file that is sent before it: whoever can see the question can see all of it.
A poll stands below it, and is never all there is: clients that know no polls show nothing of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.approval import (
    APPROVAL_TABLE,
    Approval,
    ApprovalEvent,
    ApprovalKind,
    ApprovalState,
    ToolDetails,
)
from orchestrator.core.chunking import RESERVE_BYTES, measure_content
from orchestrator.core.naming import question_file_txn_id, sibling_txn_id
from orchestrator.core.poll import POLL_PART, POLL_START, build_poll
from orchestrator.core.render import build_text_content
from orchestrator.core.sanitise import sanitise
from orchestrator.core.texts import approval as approval_texts
from orchestrator.core.tool_request import INLINE_CHARS, Shown, fence
from orchestrator.model import JsonObject, Priority
from orchestrator.rooms.outgoing import MESSAGE, build_notice_rows, mark_of_turn
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.approval_table import Decision

_FILE_NAME = "question.md"
_PREVIEW_CHARS = 1500
_UNKNOWN = ToolDetails(what="…")


def build_tool_question_rows(
    approval: Approval, shown: Shown, turn: TurnRow, *, max_poll_bytes: int = 0
) -> Sequence[NewOutboxRow]:
    """The question, and before it the file with all of it where it is long.

    With `max_poll_bytes` a poll behind it, where it has options and the poll is not larger.
    """
    poll = _poll_row(approval, turn, max_bytes=max_poll_bytes)
    is_long = len(shown.markdown) > INLINE_CHARS
    preview = f"{fence(shown.markdown[:_PREVIEW_CHARS])}\n\n…"
    text = approval_texts.question(
        approval.kind,
        shown.details,
        preview if is_long else shown.markdown,
        number=approval.number,
        until=approval.expires_at,
        asker=approval.asker,
        in_file=_FILE_NAME if is_long else None,
        has_poll=poll is not None,
    )
    content = build_text_content(text)
    content.update(mark_of_turn(turn))
    question = NewOutboxRow(
        room_id=approval.room_id,
        txn_id=approval.txn_id,
        event_type=MESSAGE,
        content=content,
        # What a person waits for, as for an answer.
        priority=Priority.FINAL,
    )
    rows = [_file_row(question, approval, shown.markdown), question] if is_long else [question]
    return rows if poll is None else [*rows, poll]


def _poll_row(approval: Approval, turn: TurnRow, *, max_bytes: int) -> NewOutboxRow | None:
    content = build_poll(approval) if approval.kind is ApprovalKind.QUESTION else None
    if content is None:
        return None
    content.update(mark_of_turn(turn))
    if measure_content(content) + RESERVE_BYTES > max_bytes:
        return None
    return NewOutboxRow(
        room_id=approval.room_id,
        txn_id=sibling_txn_id(approval.txn_id, POLL_PART),
        event_type=POLL_START,
        content=content,
        priority=Priority.FINAL,
    )


def _file_row(question: NewOutboxRow, approval: Approval, markdown: str) -> NewOutboxRow:
    data = sanitise(markdown).encode()
    info: JsonObject = {"mimetype": "text/markdown", "size": len(data)}
    content: JsonObject = {
        "msgtype": "m.file",
        "body": _FILE_NAME,
        "filename": _FILE_NAME,
        "info": info,
        "m.mentions": {},
    }
    txn = question_file_txn_id(approval.approval_id)
    return replace(question, txn_id=txn, content=content, file=data)


def build_tool_end_rows(approval: Approval, *, max_event_bytes: int) -> Sequence[NewOutboxRow]:
    """Nobody decided in time."""
    text = approval_texts.expired(approval.details or _UNKNOWN)
    return _answer(approval, "ended", text, max_event_bytes=max_event_bytes)


def build_tool_decision_rows(
    decision: Decision, event: ApprovalEvent, *, max_event_bytes: int
) -> Sequence[NewOutboxRow]:
    """What came of somebody's answer; once a question the news that it came too late."""
    text = decision_text(decision, event)
    topic = "ended" if decision.is_first else "late"
    if text is None:
        return []
    return _answer(decision.approval, topic, text, max_event_bytes=max_event_bytes)


def decision_text(decision: Decision, event: ApprovalEvent) -> str | None:
    """What is said of it; nothing to somebody who agrees with what was decided before."""
    approval = decision.approval
    details, by = approval.details or _UNKNOWN, approval.decided_by or ""
    if not decision.is_first:
        agrees = approval.state is APPROVAL_TABLE[ApprovalState.OPEN][event]
        return None if agrees else approval_texts.over(details)
    match approval.state:
        case ApprovalState.GRANTED_ONCE if answer_of(approval) is not None:
            return approval_texts.answered(details, by, answer_of(approval) or "")
        case ApprovalState.GRANTED_ONCE | ApprovalState.GRANTED_SESSION:
            for_session = approval.state is ApprovalState.GRANTED_SESSION
            return approval_texts.allowed(details, by, for_session=for_session)
        case ApprovalState.REFUSED:
            return approval_texts.refused(details, by, approval.reason)
        case _:
            return approval_texts.expired(details)


def answer_of(approval: Approval) -> str | None:
    """What was answered, for people: the words, or the options that were chosen."""
    if approval.reason is not None:
        return approval.reason
    options = approval.details.options if approval.details else ()
    return ", ".join(options[pick] for pick in approval.picks if pick < len(options)) or None


def _answer(
    approval: Approval, topic: str, text: str, *, max_event_bytes: int
) -> Sequence[NewOutboxRow]:
    return build_notice_rows(
        approval.room_id,
        f"{approval.approval_id}:{topic}",
        text,
        max_event_bytes=max_event_bytes,
        reply_to=approval.event_id,
    )
