"""`!approve` and `!deny`: the same as a reaction to the question, for whoever types."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

from orchestrator.core.approval import (
    Answer,
    Approval,
    ApprovalEvent,
    ApprovalKind,
    ToolDetails,
    counts_for,
)
from orchestrator.core.texts import approval as approval_texts
from orchestrator.rooms.room_command import Refused, Reply, RoomCommand
from orchestrator.rooms.tool_question import decision_text
from orchestrator.store.approval_row import ended_since, open_approvals
from orchestrator.store.approval_table import decide_approval, is_new

_NUMBER = re.compile(r"[0-9]{1,9}")
_FORM = re.compile(r"(?:([0-9]{1,9})(?:\s+|$))?(.*)", re.DOTALL)
# What ended so shortly before a command may be what its sender had before their eyes.
_UNSURE_S = 60.0


async def approve(doing: RoomCommand, argument: str) -> None:
    """Allow one of the open questions; a question for words needs a reply."""
    if argument and _NUMBER.fullmatch(argument) is None:
        await doing.say(Refused(approval_texts.APPROVE_FORM))
        return
    await _decide(doing, argument, ApprovalEvent.ALLOWED_ONCE)


async def deny(doing: RoomCommand, argument: str) -> None:
    """Refuse one of the open questions, with a reason."""
    await _decide(doing, argument, ApprovalEvent.REFUSED)


async def _decide(doing: RoomCommand, argument: str, event: ApprovalEvent) -> None:
    found = _FORM.fullmatch(argument)
    number, words = (found[1], found[2].strip()) if found else (None, "")
    command = "!approve" if event is ApprovalEvent.ALLOWED_ONCE else "!deny"

    voice = await doing.kit.deciders.voice(doing.worker.room_id, doing.sender)

    def effect(db: sqlite3.Connection) -> Reply:
        if not is_new(db, doing.seq):
            return Refused(
                approval_texts.NOTHING_OPEN
            )  # it was handled before: nothing is stored of this
        waiting, is_sure = _find_waiting(db, doing, event)
        if not waiting:
            return Refused(approval_texts.NOTHING_OPEN)
        chosen = _choose(waiting, number, is_sure=is_sure)
        if chosen is None:
            listed = [(one.number, _details(one)) for one in waiting]
            gone = f"{approval_texts.not_open(int(number), command)} " if number else ""
            return Refused(gone + approval_texts.which(listed, command))
        if not counts_for(voice, doing.sender, chosen):
            return Refused(approval_texts.NOT_DECIDER)
        refuses = event is ApprovalEvent.REFUSED
        answer = Answer(event=event, words=(words or None) if refuses else None)
        decision = decide_approval(db, chosen, answer, by=doing.sender, now=doing.now)
        text = None if decision is None else decision_text(decision, event)
        return text or Refused(approval_texts.NOTHING_OPEN)

    await doing.do(effect, lambda reply: reply)
    doing.worker.note_decided()


def _find_waiting(
    db: sqlite3.Connection, doing: RoomCommand, event: ApprovalEvent
) -> tuple[Sequence[Approval], bool]:
    """What the command can mean, and whether its sender saw nothing else that it could mean."""
    room_id = doing.worker.room_id
    # What was asked after it was sent, its sender can't have read.
    (sent_at,) = db.execute("SELECT received_at FROM inbox WHERE seq = ?", (doing.seq,)).fetchone()

    def is_answered_so(one: Approval) -> bool:
        is_question = one.kind is ApprovalKind.QUESTION
        return one.number > 0 and (not is_question or event is ApprovalEvent.REFUSED)

    asked = [one for one in open_approvals(db, room_id) if one.asked_at <= sent_at]
    over = ended_since(db, room_id, sent_at - _UNSURE_S)
    is_sure = not any(is_answered_so(one) and one.decided_by != doing.sender for one in over)
    return [one for one in asked if is_answered_so(one)], is_sure


def _choose(waiting: Sequence[Approval], number: str | None, *, is_sure: bool) -> Approval | None:
    if number is None:
        return waiting[0] if len(waiting) == 1 and is_sure else None
    return next((one for one in waiting if one.number == int(number)), None)


def _details(approval: Approval) -> ToolDetails:
    return approval.details or ToolDetails(what="…")
