"""What a room is told about a refused host, as outbox rows. Pure: the same approval, the same rows.

The message that asks is one event, whatever its length: a reaction to it must find it.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.approval import (
    APPROVAL_TABLE,
    Approval,
    ApprovalEvent,
    ApprovalState,
)
from orchestrator.core.denial import Wanted
from orchestrator.core.egress_rules import Target
from orchestrator.core.grant import parse_subject
from orchestrator.core.render import build_text_content
from orchestrator.core.texts import egress as egress_texts
from orchestrator.core.texts import utc_time
from orchestrator.model import Priority, RoomId
from orchestrator.rooms.outgoing import MESSAGE, build_notice_rows
from orchestrator.store.api import NewOutboxRow
from orchestrator.store.approval_table import ASK_AGAIN_S, Decision

_MAX_TOOLS = 3
_DAY_S = 86400


def build_question_rows(approval: Approval, wanted: Wanted) -> Sequence[NewOutboxRow]:
    """The question: one message, which `approval.txn_id` names."""
    text = egress_texts.question(
        parse_subject(approval.subject),
        tools=wanted.tools[:_MAX_TOOLS],
        asker=wanted.asker,
        until=approval.expires_at,
    )
    return [
        NewOutboxRow(
            room_id=approval.room_id,
            txn_id=approval.txn_id,
            event_type=MESSAGE,
            content=build_text_content(text, notice=True),
            priority=Priority.NOTICE,
        )
    ]


def build_more_rows(newest: Approval, *, max_event_bytes: int) -> Sequence[NewOutboxRow]:
    """There is more than is asked about: said once as long as `newest` is the newest question."""
    source = f"{newest.approval_id}:more"
    return build_notice_rows(
        newest.room_id, source, egress_texts.MORE, max_event_bytes=max_event_bytes
    )


def build_nobody_rows(
    room_id: RoomId, target: Target, *, now: float, max_event_bytes: int
) -> Sequence[NewOutboxRow]:
    """Nobody can be asked: said once a day in a room."""
    source = f"{room_id}:nobody decides:{now // _DAY_S:.0f}"
    text = egress_texts.nobody(target)
    return build_notice_rows(room_id, source, text, max_event_bytes=max_event_bytes)


def build_end_rows(approval: Approval, *, max_event_bytes: int) -> Sequence[NewOutboxRow]:
    """Nobody decided in time: the question is answered with that."""
    text = egress_texts.expired(_name(approval))
    return _answer(approval, "ended", text, max_event_bytes=max_event_bytes)


def build_decision_rows(
    decision: Decision, event: ApprovalEvent, *, max_event_bytes: int
) -> Sequence[NewOutboxRow]:
    """What came of somebody's answer (`event`); once a question the news that it came too late."""
    approval = decision.approval
    if not decision.is_first:
        text = _late_words(approval, event)
        topic = "late"
    else:
        until = decision.grant.expires_at if decision.grant else None
        text, topic = _words(approval, until), "ended"
    if text is None:
        return []
    return _answer(approval, topic, text, max_event_bytes=max_event_bytes)


def _words(approval: Approval, until: float | None) -> str:
    name, by = _name(approval), approval.decided_by or ""
    match approval.state:
        case ApprovalState.GRANTED_HOUR | ApprovalState.GRANTED_ALWAYS:
            return egress_texts.granted(name, by, until)
        case ApprovalState.REFUSED:
            return egress_texts.refused(name, by, ASK_AGAIN_S)
        case _:
            return egress_texts.expired(name)


def _late_words(approval: Approval, event: ApprovalEvent) -> str | None:
    """Nothing is said to somebody who agrees, and nothing where the room has ended."""
    if approval.state is APPROVAL_TABLE[ApprovalState.OPEN][event]:
        return None
    name, at = _name(approval), utc_time(approval.decided_at or approval.expires_at)
    match approval.state:
        case ApprovalState.WITHDRAWN:
            return None
        case ApprovalState.EXPIRED:
            return egress_texts.late(name, f"nobody had decided by {at}")
        case _:
            by = egress_texts.code(approval.decided_by or "")
            return egress_texts.late(name, f"{by} decided at {at}")


def _name(approval: Approval) -> str:
    return str(parse_subject(approval.subject))


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
