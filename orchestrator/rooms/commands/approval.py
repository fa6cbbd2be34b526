"""`!approve` and `!deny`: the same as a reaction to the question, for whoever types."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

from orchestrator.core.approval import Answer, Approval, ApprovalEvent, ApprovalKind, ToolDetails
from orchestrator.core.texts import approval as approval_texts
from orchestrator.rooms.room_command import RoomCommand
from orchestrator.rooms.tool_question import decision_text
from orchestrator.store.approval_row import open_approvals
from orchestrator.store.approval_table import decide_approval, is_new

_FORM = re.compile(r"(?:(\d{1,3})(?:\s+|$))?(.*)", re.DOTALL)


async def approve(doing: RoomCommand, argument: str) -> None:
    """Allow one of the open questions; a question for words needs a reply."""
    await _decide(doing, argument, ApprovalEvent.ALLOWED_ONCE)


async def deny(doing: RoomCommand, argument: str) -> None:
    """Refuse one of the open questions, with a reason."""
    await _decide(doing, argument, ApprovalEvent.REFUSED)


async def _decide(doing: RoomCommand, argument: str, event: ApprovalEvent) -> None:
    found = _FORM.fullmatch(argument)
    number, words = (found[1], found[2].strip()) if found else (None, "")
    command = "!approve" if event is ApprovalEvent.ALLOWED_ONCE else "!deny"

    deciders = doing.kit.deciders
    is_decider = await deciders.may_decide(doing.worker.room_id, doing.sender)

    def effect(db: sqlite3.Connection) -> str:
        if not is_new(db, doing.seq):
            return approval_texts.NOTHING_OPEN  # it was handled before: nothing is stored of this
        waiting = [
            one
            for one in open_approvals(db, doing.worker.room_id)
            if one.kind is not ApprovalKind.EGRESS
            and (one.kind is not ApprovalKind.QUESTION or event is ApprovalEvent.REFUSED)
        ]
        if not waiting:
            return approval_texts.NOTHING_OPEN
        chosen = _choose(waiting, number)
        if chosen is None:
            return approval_texts.which([_details(one) for one in waiting], command)
        if not is_decider and not deciders.is_asker(doing.sender, chosen):
            return approval_texts.NOT_DECIDER
        refuses = event is ApprovalEvent.REFUSED
        answer = Answer(event=event, words=(words or None) if refuses else None)
        decision = decide_approval(db, chosen, answer, by=doing.sender, now=doing.now)
        text = None if decision is None else decision_text(decision, event)
        return text or approval_texts.NOTHING_OPEN

    await doing.do(effect, lambda text: text)
    doing.worker.note_decided()


def _choose(waiting: Sequence[Approval], number: str | None) -> Approval | None:
    if number is None:
        return waiting[0] if len(waiting) == 1 else None
    index = int(number) - 1
    return waiting[index] if 0 <= index < len(waiting) else None


def _details(approval: Approval) -> ToolDetails:
    return approval.details or ToolDetails(what="…")
