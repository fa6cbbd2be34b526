"""What a running turn asks of people: its requests become questions, decisions become answers.

Rules:
- a question is stored before it is waited for, under an id that comes of the turn and of all that
  was asked: a request that is replayed after a crash meets its own question, and another one with
  the same number never does;
- nothing is allowed but by a decision that is stored; whatever is unclear is refused, with words;
- the CLI is answered by whoever follows the turn (`TurnReplies`), so that it is answered once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from loguru import logger

from orchestrator.core.approval import Approval, ApprovalKind, ApprovalState
from orchestrator.core.cli_input import build_permission_allow, build_permission_deny
from orchestrator.core.deadline import TurnClock
from orchestrator.core.quoting import one_line
from orchestrator.core.room_tools import CLI_NAME
from orchestrator.core.texts import approval as approval_texts
from orchestrator.core.tool_request import (
    Shown,
    build_answers,
    describe,
    parse_questions,
    usable_rules,
)
from orchestrator.core.turn_view import PermissionAsked
from orchestrator.model import JsonObject, Seq, TurnId, UserId
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.tool_question import build_tool_question_rows
from orchestrator.store.api import TurnRow
from orchestrator.store.approval_row import NewApproval

# Tools that run side by side ask at the same time; more than a person looks through is refused.
_MAX_OPEN = 8
_NAME_CHARS = 64
# What the CLI asks and takes back costs the room a message each; it does so when it is interrupted.
_MAX_WITHDRAWN = 8


@dataclass(slots=True)
class _Request:
    """A request of the CLI's. Invariant: `approval` is the question that it waits for."""

    asked: PermissionAsked
    seq: Seq
    shown: tuple[Shown, ...]
    approval: Approval
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the CLI is to be answered; `notice` is what the room is told besides, by its topic."""

    seq: Seq
    request_id: str
    line: str
    notice: tuple[str, str] | None = None


class ToolAsking:
    """Invariant: holds the requests that wait for a person, each with a stored question."""

    def __init__(self, kit: Kit, profile: RoomProfile, turn: Callable[[], TurnRow]) -> None:
        self._kit = kit
        self._profile = profile
        self._turn = turn
        self._waiting: dict[str, _Request] = {}
        self._withdrawn = 0
        self.is_due = False
        """Something was decided: `look` may have an answer."""

    def __repr__(self) -> str:
        return f"<ToolAsking waiting={len(self._waiting)} due={self.is_due}>"

    @property
    def is_waiting(self) -> bool:
        """Whether the turn waits for a person."""
        return bool(self._waiting)

    def shown(self, approval_id: str) -> Shown | None:
        """One of the questions that wait, all of it as the room was shown it; None: no such one."""
        for request in self._waiting.values():
            if request.approval.approval_id == approval_id:
                return request.shown[len(request.answers)]
        return None

    def pace(self, clock: TurnClock, now: float) -> bool:
        """The turn's time stands still while it waits for a person; whether that changed now."""
        if self.is_waiting is clock.is_paused:
            return False
        if self.is_waiting:
            clock.pause(now)
        else:
            clock.resume(now)
        return True

    async def begin(self, asked: PermissionAsked, seq: Seq) -> Reply | None:
        """Ask, or find what was asked and decided before; None: it is to be waited for.

        Of our own tool nobody is asked: its bounds are ours.
        """
        if asked.tool == CLI_NAME:
            line = build_permission_allow(asked.request_id, asked.input)
            return Reply(seq=seq, request_id=asked.request_id, line=line)
        shown = describe(asked.tool, asked.input, asked.suggestions)
        if shown is None:
            notice = (f"long:{asked.request_id}", approval_texts.TOO_LONG_NOTICE)
            return _refuse(asked, seq, approval_texts.TOO_LONG, notice)
        if not self._kit.deciders.has_any and self._asker(shown[0].kind) is None:
            tool = one_line(asked.tool, max_chars=_NAME_CHARS)
            text = approval_texts.nobody_notice(tool, self._profile.permissions)
            reason = approval_texts.NOBODY.format(tool=tool)
            return _refuse(asked, seq, reason, (f"denied:{tool}", text))
        is_fickle = self._withdrawn >= _MAX_WITHDRAWN
        approval = None if is_fickle else await self._ask(asked, shown[0], 0)
        if approval is None:
            return _refuse(asked, seq, approval_texts.TOO_MANY, None)
        request = _Request(asked=asked, seq=seq, shown=shown, approval=approval)
        self._waiting[asked.request_id] = request
        return await self._follow(request)

    async def look(self) -> list[Reply]:
        """The answers to what was decided meanwhile."""
        self.is_due = False
        replies: list[Reply] = []
        for request in list(self._waiting.values()):
            held = await self._kit.store.approvals.get(request.approval.approval_id)
            request.approval = held or request.approval
            reply = await self._follow(request)
            replies += [reply] if reply is not None else []
        return replies

    async def withdraw(self, request_id: str) -> None:
        """The CLI took the request back."""
        request = self._waiting.pop(request_id, None)
        if request is not None:
            self._withdrawn += 1
            await self._kit.store.approvals.withdraw(
                request.approval.approval_id, now=self._kit.wall_clock()
            )

    async def _follow(self, request: _Request) -> Reply | None:
        """Go on with the next question of the request, as far as they are decided."""
        while True:
            approval = request.approval
            if approval.state is ApprovalState.OPEN:
                return None
            if approval.kind is not ApprovalKind.QUESTION or not _is_granted(approval):
                break
            request.answers.append(_answer(request, len(request.answers)))
            if len(request.answers) == len(request.shown):
                break
            number = len(request.answers)
            following = await self._ask(request.asked, request.shown[number], number)
            if following is None:
                self._waiting.pop(request.asked.request_id, None)
                return _refuse(request.asked, request.seq, approval_texts.TOO_MANY, None)
            request.approval = following
        self._waiting.pop(request.asked.request_id, None)
        logger.bind(
            action="tool.decided",
            room=approval.room_id,
            turn=approval.turn_id,
            approval=approval.approval_id,
            state=approval.state,
            by=approval.decided_by,
            audit=True,
        ).info("what the agent asked was decided")
        return Reply(seq=request.seq, request_id=request.asked.request_id, line=_line(request))

    async def _ask(self, asked: PermissionAsked, shown: Shown, number: int) -> Approval | None:
        turn, now = self._turn(), self._kit.wall_clock()
        new = NewApproval(
            room_id=turn.room_id,
            kind=shown.kind,
            subject=_subject(turn.turn_id, asked, number),
            wanted_by=shown.details.what,
            turn_id=turn.turn_id,
            expires_at=now + self._profile.approval_timeout_s,
            asker=self._asker(shown.kind),
            details=shown.details,
        )
        polls = self._profile.questions == "polls"
        rows = partial(
            build_tool_question_rows,
            shown=shown,
            turn=turn,
            max_poll_bytes=await self._kit.event_limit(turn.room_id) if polls else 0,
        )
        approval = await self._kit.store.approvals.ask_once(new, rows, most_open=_MAX_OPEN, now=now)
        if approval is not None:
            self._kit.notify_outbox()
            logger.bind(
                action="tool.ask",
                room=turn.room_id,
                turn=turn.turn_id,
                approval=approval.approval_id,
                kind=shown.kind,
            ).info("the agent asks")
        return approval

    def _asker(self, kind: ApprovalKind) -> UserId | None:
        """Who asked for the turn, where they may decide: a question is always theirs to answer."""
        sender = self._turn().sender
        may = self._profile.deciders == "asker" or kind is ApprovalKind.QUESTION
        return sender if may and self._kit.deciders.is_person(sender) else None


def _subject(turn_id: TurnId, asked: PermissionAsked, number: int) -> str:
    content = json.dumps([asked.request_id, asked.tool, asked.input], sort_keys=True)
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{turn_id}:{digest[:32]}:{number}"


def _is_granted(approval: Approval) -> bool:
    return approval.state in (ApprovalState.GRANTED_ONCE, ApprovalState.GRANTED_SESSION)


def _answer(request: _Request, number: int) -> str:
    """The answer to its `number`-th question, in the CLI's own words where it offered them."""
    approval = request.approval
    if approval.reason is not None:
        return approval.reason
    options = parse_questions(request.asked.input)[number].options
    return ", ".join(options[pick].label for pick in approval.picks if pick < len(options))


def _line(request: _Request) -> str:
    """The answer to the CLI."""
    asked, approval = request.asked, request.approval
    match approval.state:
        case ApprovalState.GRANTED_SESSION:
            rules = usable_rules(asked.suggestions)
            return build_permission_allow(asked.request_id, asked.input, rules=rules)
        case ApprovalState.GRANTED_ONCE:
            return build_permission_allow(asked.request_id, _input(request))
        case ApprovalState.REFUSED:
            by = approval.decided_by or "somebody"
            reason = approval_texts.refused_reason(by, approval.reason)
        case ApprovalState.WITHDRAWN:
            reason = approval_texts.UNSHOWN_REASON
        case _ if approval.kind is ApprovalKind.QUESTION:
            reason = approval_texts.ANSWER_EXPIRED
        case _:
            reason = approval_texts.EXPIRED_REASON
    return build_permission_deny(asked.request_id, reason)


def _input(request: _Request) -> JsonObject:
    given = request.asked.input
    return build_answers(given, request.answers) if request.answers else given


def _refuse(asked: PermissionAsked, seq: Seq, reason: str, notice: tuple[str, str] | None) -> Reply:
    line = build_permission_deny(asked.request_id, reason)
    return Reply(seq=seq, request_id=asked.request_id, line=line, notice=notice)
