"""Events of a room as `cchat` sees them; whatever is not understood is None, never an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

TURN_KEY = "org.aiagentchat.turn"
"""The agent's mark on the messages of a turn, and the type of the event that ends a silent one."""
ANSWER_KEY = "org.aiagentchat.answer"
"""Its mark on what answers a message without being of a turn: a room command's answer."""
MESSAGE_TYPE = "m.room.message"
SHOWN_TYPES = (MESSAGE_TYPE, TURN_KEY)

_M = TypeVar("_M", bound=BaseModel)
_Id = Annotated[str, Field(max_length=300)]


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class TurnMark(_Lenient):
    """Which turn a message belongs to, and whether it is the last one of it."""

    turn: _Id
    asked: tuple[_Id, ...] = ()
    part: int = Field(default=0, ge=0)
    final: bool = False
    outcome: Annotated[str, Field(max_length=50)] | None = None
    live: bool = False
    """It shows how the turn goes on, and is no answer yet."""


class AnswerMark(_Lenient):
    """Which event a message answers, and whether it is the last one that does."""

    to: _Id
    final: bool = False
    outcome: Annotated[str, Field(max_length=50)] | None = None
    """Of the last one; an older orchestrator does not say it."""
    live: bool = False
    """It shows how a command goes on, and is no answer yet."""


class _RelatesTo(_Lenient):
    rel_type: _Id | None = None


class _Content(_Lenient):
    msgtype: _Id = ""
    body: str = ""
    relates_to: _RelatesTo | None = Field(default=None, alias="m.relates_to")
    new_content: dict[str, object] | None = Field(default=None, alias="m.new_content")


class _Event(_Lenient):
    type: str
    event_id: _Id
    sender: _Id
    origin_server_ts: int = 0
    content: dict[str, object] = Field(default_factory=dict)


class Kind(StrEnum):
    """How an event is shown."""

    TEXT = "text"
    NOTICE = "notice"
    EMOTE = "emote"
    FILE = "file"
    MARK = "mark"
    """Nothing to show: the end of a turn whose whole text was sent before."""


_KINDS = {
    "m.text": Kind.TEXT,
    "m.notice": Kind.NOTICE,
    "m.emote": Kind.EMOTE,
    "m.image": Kind.FILE,
    "m.file": Kind.FILE,
    "m.audio": Kind.FILE,
    "m.video": Kind.FILE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One thing that somebody said. `at_s` is the sender's server's Unix time."""

    event_id: str
    sender: str
    at_s: float
    kind: Kind
    body: str
    mark: TurnMark | None = None
    answers: AnswerMark | None = None
    is_edit: bool = False


def parse_event(raw: object) -> Said | None:
    """What an event of a timeline says, or None where there is nothing to show or to learn."""
    try:
        event = _Event.model_validate(raw)
        mark = _parse(TurnMark, event.content.get(TURN_KEY))
        if mark is not None and mark.live:
            return None
        if event.type == TURN_KEY and mark is not None:
            return _said(event, Kind.MARK, _Content(), mark)
        if event.type != MESSAGE_TYPE:
            return None
        content = _Content.model_validate(event.content)
        if content.new_content is not None:
            new = _Content.model_validate(content.new_content)
            content = new.model_copy(update={"relates_to": content.relates_to})
    except (ValidationError, RecursionError):
        return None
    kind = _KINDS.get(content.msgtype)
    # A redacted message has no type and no body any more.
    return None if kind is None else _said(event, kind, content, mark)


def _said(event: _Event, kind: Kind, content: _Content, mark: TurnMark | None) -> Said:
    related = content.relates_to or _RelatesTo()
    return Said(
        event_id=event.event_id,
        sender=event.sender,
        at_s=event.origin_server_ts / 1000,
        kind=kind,
        body=content.body,
        mark=mark,
        answers=_parse(AnswerMark, event.content.get(ANSWER_KEY)),
        # An answer takes the place of what showed the turn's progress: nobody has read it before.
        is_edit=related.rel_type == "m.replace" and mark is None,
    )


def _parse(kind: type[_M], raw: object) -> _M | None:
    if raw is None:
        return None
    try:
        return kind.model_validate(raw)
    except ValidationError:
        return None
