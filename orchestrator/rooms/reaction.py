"""Reactions, votes and replies: a person's answer to a question of ours, and nothing else.

Only one to the event of a stored question (a vote: of its poll), in the question's own room, by
somebody who may decide it and has not left, says anything. What an agent, a tool or a person writes
can look like a question; it is in no table, so that nothing follows from a reaction to it.
Everything else is marked as looked at, without a word: who may not decide learns nothing and causes
nothing.

A reaction can be here before it is stored that our question was sent. Then its row stays NEW and is
looked at again, for as long as a question of the room is on its way (HOLD_S at most); a crash
meanwhile only means that the next life does the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.core.approval import (
    Answer,
    Approval,
    ApprovalEvent,
    ApprovalKind,
    ApprovalState,
    Deciders,
    parse_key,
    parse_words,
)
from orchestrator.core.policy import RoomEvent
from orchestrator.core.poll import RESPONSE_TYPES, parse_response, parse_vote
from orchestrator.errors import StoreError
from orchestrator.model import EventId, RoomId, UserId
from orchestrator.rooms.egress_question import build_decision_rows
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.tool_question import build_tool_decision_rows
from orchestrator.store.api import InboxRow, InboxState
from orchestrator.store.approval_table import REACTION, Decision

REACTION_TYPE = "m.reaction"
HOLD_S = 300.0
"""For as long as that a reaction waits for the news which message it is about."""
LOOK_EVERY_S = 1.0
# Of each room: another one's are not lost because of them. More at once are no matter of a second.
_MAX_HELD = 100


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Relation(_Outside):
    rel_type: str
    event_id: str
    key: str


class _Content(_Outside):
    relates_to: _Relation = Field(alias="m.relates_to")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A message in reply to another."""

    to: EventId
    by: UserId
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A reaction, or a vote, that may decide something."""

    seq: int
    room_id: RoomId
    event_id: EventId
    question: EventId
    key: str = ""
    """Of a reaction."""
    answers: tuple[str, ...] | None = None
    """Of a vote."""
    by: UserId
    received_at: float


class Reactions:
    """Invariant: a row that is held here is NEW (or waits for its key), and was not acted on."""

    def __init__(
        self, kit: Kit, deciders: Deciders, on_decided: Callable[[Approval], Awaitable[None]]
    ) -> None:
        self._kit = kit
        self._deciders = deciders
        self._on_decided = on_decided
        self._held: list[_Said] = []

    def __repr__(self) -> str:
        return f"<Reactions held={len(self._held)}>"

    @property
    def holds_any(self) -> bool:
        """Whether one waits to be looked at again."""
        return bool(self._held)

    async def take(self, row: InboxRow, room_id: RoomId, event: RoomEvent) -> None:
        """Act on a reaction, hold it, or mark it as nothing. Only the store's errors come out."""
        await self._take(row, self._read(row, room_id, event))

    async def take_reply(self, row: InboxRow, room_id: RoomId, reply: Reply) -> bool:
        """The same for a reply in words, where it answers a question; False: it is none.

        The question's event is known by then: whoever replies has read it, and so has our sync.
        """
        approval = await self._kit.store.approvals.find(room_id, reply.to)
        if approval is None or approval.kind is ApprovalKind.EGRESS:
            return False
        if approval.state is not ApprovalState.OPEN:
            return False  # what is said about it later is a message like others
        if not await self._deciders.may_answer(reply.by, approval):
            return False
        answer = parse_words(reply.words, approval)
        await self.decide(approval, answer, seq=row.seq, by=reply.by)
        return True

    async def _take(self, row: InboxRow, said: _Said | None) -> None:
        if said is None:
            await self._ignore(row.seq)
        elif not await self._settle(said):
            if sum(held.room_id == said.room_id for held in self._held) < _MAX_HELD:
                self._held.append(said)
            else:
                await self._ignore(row.seq)

    async def look_again(self) -> None:
        """Look at those that were held."""
        for said in list(self._held):
            try:
                is_settled = await self._settle(said)
            except StoreError:
                raise
            except Exception as e:  # noqa: BLE001 - one poisoned event must not take others along
                logger.bind(
                    action="intake.failed", room=said.room_id, error=type(e).__name__
                ).error("a reaction was not handled")
                reason = type(e).__name__
                await self._kit.store.inbox.mark(said.seq, InboxState.FAILED, reason=reason)
                is_settled = True
            if is_settled:
                self._held.remove(said)

    def _read(self, row: InboxRow, room_id: RoomId, event: RoomEvent) -> _Said | None:
        if not self._deciders.is_person(event.sender):
            return None
        said = _Said(
            seq=row.seq,
            room_id=room_id,
            event_id=EventId(event.event_id),
            question=EventId(""),
            by=UserId(event.sender),
            received_at=row.received_at,
        )
        if event.type in RESPONSE_TYPES:
            response = parse_response(event.type, event.content)
            if response is None:
                return None
            return replace(said, question=response.poll, answers=response.answers)
        try:
            relation = _Content.model_validate(event.content).relates_to
        except ValidationError:  # redacted, too
            return None
        if relation.rel_type != "m.annotation":
            return None
        return replace(said, question=EventId(relation.event_id), key=relation.key)

    async def _settle(self, said: _Said) -> bool:
        """False: what it is about may be known soon."""
        approvals, now = self._kit.store.approvals, self._kit.wall_clock()
        # In this order: what is sent by then is found, and what is not is on its way still.
        is_sending = await approvals.is_sending(said.room_id)
        is_vote = said.answers is not None
        find = approvals.find_by_poll if is_vote else approvals.find
        approval = await find(said.room_id, said.question)
        if approval is not None:
            answer = await self._parse(said, approval)
            if answer is None or not await self._deciders.may_answer(said.by, approval):
                await self._ignore(said.seq)
            else:
                await self.decide(approval, answer, seq=said.seq, by=said.by)
            return True
        if is_sending and now < said.received_at + HOLD_S:
            return False
        await self._ignore(said.seq)
        return True

    async def _parse(self, said: _Said, approval: Approval) -> Answer | None:
        if said.answers is not None:
            return parse_vote(said.answers, approval, by=said.by, event_id=said.event_id)
        return parse_key(said.key, await self._with_votes_that_count(approval))

    async def _with_votes_that_count(self, approval: Approval) -> Approval:
        """Without those of people who have left since, or may not answer any more."""
        votes = [
            vote for vote in approval.votes if await self._deciders.may_answer(vote.by, approval)
        ]
        return replace(approval, votes=tuple(votes))

    async def decide(self, approval: Approval, answer: Answer, *, seq: int, by: UserId) -> None:
        """Act on an answer of somebody who may give it; `seq` is the inbox row that says it."""
        rows = partial(
            _ROWS[approval.kind],
            event=answer.event or ApprovalEvent.ALLOWED_ONCE,
            max_event_bytes=self._kit.config.gateway.max_event_bytes,
        )
        decision = await self._kit.store.approvals.decide(
            seq, approval, answer, rows, by=by, now=self._kit.wall_clock()
        )
        if decision is None:
            return
        if decision.is_first:
            _log_decision(decision)
            await self._on_decided(decision.approval)
        self._kit.notify_outbox()

    async def _ignore(self, seq: int) -> None:
        await self._kit.store.inbox.mark(seq, InboxState.IGNORED, reason=REACTION)


# What a decision is answered with, by what it is about.
_ROWS = {
    ApprovalKind.EGRESS: build_decision_rows,
    ApprovalKind.TOOL: build_tool_decision_rows,
    ApprovalKind.PLAN: build_tool_decision_rows,
    ApprovalKind.QUESTION: build_tool_decision_rows,
}
_VERBS = {
    ApprovalState.GRANTED_HOUR: "grant",
    ApprovalState.GRANTED_ALWAYS: "grant",
    ApprovalState.GRANTED_ONCE: "grant",
    ApprovalState.GRANTED_SESSION: "grant",
    ApprovalState.REFUSED: "refuse",
    ApprovalState.EXPIRED: "expire",
}


def _log_decision(decision: Decision) -> None:
    """For whoever asks later who allowed what."""
    approval, grant = decision.approval, decision.grant
    logger.bind(
        action=f"{approval.kind}.{_VERBS[approval.state]}",
        room=approval.room_id,
        approval=approval.approval_id,
        subject=approval.subject,
        by=approval.decided_by,
        until=grant.expires_at if grant is not None else None,
        audit=True,
    ).info("a question was decided")
