"""Matrix polls (MSC3381): a question written as one, and what people vote. Pure.

Polls are sent in the unstable form. It is what clients send (Element Web, and those of the Rust SDK
as Element X is) and the only one that these show; the form of the merged proposal is in no version
of the specification yet. A vote is read in either form.

Rule: a vote counts by the poll that it names and by the ids of that poll's answers. One with an id
that is not the poll's, or with more answers than the poll takes, chooses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.core.approval import Answer, Approval, ApprovalEvent, Vote
from orchestrator.model import EventId, JsonObject, JsonValue, UserId

POLL_START = "org.matrix.msc3381.poll.start"
POLL_END = "org.matrix.msc3381.poll.end"
_RESPONSE = "org.matrix.msc3381.poll.response"
_STABLE_RESPONSE = "m.poll.response"
RESPONSE_TYPES = frozenset({_RESPONSE, _STABLE_RESPONSE})
POLL_PART = 1
"""A question's poll is the second thing that the question makes, after the message that asks."""
END_PART = 2
MAX_ANSWERS = 20
"""Clients leave out what comes after so many."""
_TEXT = "org.matrix.msc1767.text"
# Everybody sees what is chosen while it is: ✅ takes all of it.
_KIND = "org.matrix.msc3381.poll.disclosed"
_RELATION = "m.relates_to"
_REFERENCE = "m.reference"


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Reference(_Outside):
    rel_type: Literal["m.reference"]
    event_id: str


class _Referring(_Outside):
    relates_to: _Reference = Field(alias=_RELATION)


class _Answers(_Outside):
    answers: list[str]


class _Unstable(_Outside):
    response: _Answers = Field(alias=_RESPONSE)


class _Stable(_Outside):
    selections: list[str] = Field(alias="m.selections")


class _EarlierStable(_Outside):
    """As matrix-js-sdk reads an event of the stable type."""

    response: _Answers = Field(alias=_STABLE_RESPONSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResponse:
    """What somebody sent to a poll; no answers where it has none that can be read."""

    poll: EventId
    answers: tuple[str, ...]


def build_poll(approval: Approval) -> JsonObject | None:
    """The content of the poll beside a question; None where a poll can't ask it."""
    details = approval.details
    if details is None or not 0 < len(details.options) <= MAX_ANSWERS:
        return None
    numbered = [f"{number}. {option}" for number, option in enumerate(details.options, 1)]
    return {
        _TEXT: "\n".join([details.what, *numbered]),
        POLL_START: {
            "kind": _KIND,
            "max_selections": _most(approval),
            "question": {_TEXT: details.what},
            "answers": [
                {"id": _answer_id(approval, index), _TEXT: option}
                for index, option in enumerate(details.options)
            ],
        },
        "m.mentions": {},
    }


def build_poll_end(text: str, poll: EventId | None) -> JsonObject:
    """The content of the event that closes a poll, which `refer_to_poll` names if it is not yet."""
    content: JsonObject = {_TEXT: text, POLL_END: {}}
    return content if poll is None else refer_to_poll(content, poll)


def refer_to_poll(content: JsonObject, poll: EventId) -> JsonObject:
    """The same, with the poll that it is about."""
    return {**content, _RELATION: {"rel_type": _REFERENCE, "event_id": poll}}


def parse_response(event_type: str, content: Mapping[str, JsonValue]) -> PollResponse | None:
    """What was sent to a poll; None where it names none (redacted, too)."""
    try:
        poll = _Referring.model_validate(content).relates_to.event_id
    except ValidationError:
        return None
    return PollResponse(poll=EventId(poll), answers=_read_answers(event_type, content))


def parse_vote(
    answers: Sequence[str], approval: Approval, *, by: UserId, event_id: EventId
) -> Answer | None:
    """What it says to the question; None: nothing.

    Of a question with one answer the first vote decides. Of one with several it is kept until
    somebody takes what is chosen, and each vote of a person replaces their last one.
    """
    details = approval.details
    if details is None:
        return None
    picks = _read_picks(answers, approval)
    if details.is_multiple:
        return Answer(vote=Vote(by=by, event_id=event_id, picks=picks))
    return Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=picks[0]) if picks else None


def _read_answers(event_type: str, content: Mapping[str, JsonValue]) -> tuple[str, ...]:
    if event_type == _RESPONSE:
        try:
            return tuple(_Unstable.model_validate(content).response.answers)
        except ValidationError:
            return ()
    try:
        return tuple(_Stable.model_validate(content).selections)
    except ValidationError:
        pass
    try:
        return tuple(_EarlierStable.model_validate(content).response.answers)
    except ValidationError:
        return ()


def _read_picks(answers: Sequence[str], approval: Approval) -> tuple[int, ...]:
    """Options by their index, each once."""
    count = len(approval.details.options) if approval.details else 0
    known = {_answer_id(approval, index): index for index in range(count)}
    chosen = set(answers)
    if len(chosen) > _most(approval) or not chosen <= known.keys():
        return ()
    return tuple(sorted(known[answer] for answer in chosen))


def _most(approval: Approval) -> int:
    details = approval.details
    return len(details.options) if details is not None and details.is_multiple else 1


def _answer_id(approval: Approval, index: int) -> str:
    """Of this question alone: an answer to another one's poll is none to this."""
    return f"{approval.approval_id}.{index + 1}"
