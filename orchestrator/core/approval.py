"""What a room asks a person to allow: its states as a table, and who decides with what.

An approval is general: `kind` says what it is about, `subject` names it, and what a decision does
is the kind's (`store.approval_table`). It refers to no text of the room's: the question is ours,
the subject was parsed by us, and an answer counts by the event that it answers.

Rule: what is not certain decides nothing. A key that is not in the list below, a person who is not
named as one who may decide, an account of an agent: none of these changes anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from orchestrator.errors import IllegalTransitionError
from orchestrator.model import EventId, RoomId, TurnId, TxnId, UserId


class ApprovalKind(StrEnum):
    """What a question is about."""

    EGRESS = "egress"
    """A host that the room's runner may not reach; the subject is a target."""
    TOOL = "tool"
    """A tool that the agent would use; the subject names the turn's request."""
    PLAN = "plan"
    """What the agent would do next, before it does any of it."""
    QUESTION = "question"
    """Something that the agent asks the room's people, mostly with options."""


class ApprovalState(StrEnum):
    """Where a question is."""

    OPEN = "open"
    """Asked, and nobody has decided."""
    GRANTED_HOUR = "granted_hour"
    GRANTED_ALWAYS = "granted_always"
    GRANTED_ONCE = "granted_once"
    """This once; a question of the agent was answered."""
    GRANTED_SESSION = "granted_session"
    """This once, and what the rule covers for as long as the agent's session lives."""
    REFUSED = "refused"
    EXPIRED = "expired"
    """Nobody decided in time, which refuses it."""
    WITHDRAWN = "withdrawn"
    """It is of no use any more: the room was left, or replaced, or its turn has ended."""


class ApprovalEvent(StrEnum):
    """What happens to a question."""

    ALLOWED_HOUR = "allowed_hour"
    """A person who may decide allows it for an hour."""
    ALLOWED_ALWAYS = "allowed_always"
    """A person who may decide allows it in this room for good."""
    ALLOWED_ONCE = "allowed_once"
    """A person who may decide allows this one, or answers a question."""
    ALLOWED_SESSION = "allowed_session"
    """A person who may decide allows it, and more of the kind."""
    REFUSED = "refused"
    """A person who may decide refuses it."""
    TIME_UP = "time_up"
    """Nobody decided within the room's `approval_timeout_s`."""
    ROOM_ENDED = "room_ended"
    """The agent left the room, another room replaced it, or an older database was restored."""
    TURN_ENDED = "turn_ended"
    """The turn that wanted it is over, the agent took the request back, or nobody can read it."""


_DECIDED: Mapping[ApprovalEvent, ApprovalState] = MappingProxyType({})
APPROVAL_TABLE: Mapping[ApprovalState, Mapping[ApprovalEvent, ApprovalState]] = MappingProxyType(
    {
        ApprovalState.OPEN: MappingProxyType(
            {
                ApprovalEvent.ALLOWED_HOUR: ApprovalState.GRANTED_HOUR,
                ApprovalEvent.ALLOWED_ALWAYS: ApprovalState.GRANTED_ALWAYS,
                ApprovalEvent.ALLOWED_ONCE: ApprovalState.GRANTED_ONCE,
                ApprovalEvent.ALLOWED_SESSION: ApprovalState.GRANTED_SESSION,
                ApprovalEvent.REFUSED: ApprovalState.REFUSED,
                ApprovalEvent.TIME_UP: ApprovalState.EXPIRED,
                ApprovalEvent.ROOM_ENDED: ApprovalState.WITHDRAWN,
                ApprovalEvent.TURN_ENDED: ApprovalState.WITHDRAWN,
            }
        ),
        ApprovalState.GRANTED_HOUR: _DECIDED,
        ApprovalState.GRANTED_ALWAYS: _DECIDED,
        ApprovalState.GRANTED_ONCE: _DECIDED,
        ApprovalState.GRANTED_SESSION: _DECIDED,
        ApprovalState.REFUSED: _DECIDED,
        ApprovalState.EXPIRED: _DECIDED,
        ApprovalState.WITHDRAWN: _DECIDED,
    }
)

# As they come from keyboards and from clients' pickers. A thumb up or a heart can mean "I have seen
# it", so they decide nothing; a thumb down can only mean no.
_NO: Mapping[str, ApprovalEvent] = MappingProxyType(
    {
        "\N{CROSS MARK}": ApprovalEvent.REFUSED,
        "\N{NEGATIVE SQUARED CROSS MARK}": ApprovalEvent.REFUSED,
        "\N{HEAVY MULTIPLICATION X}": ApprovalEvent.REFUSED,
        "\N{NO ENTRY SIGN}": ApprovalEvent.REFUSED,
        "\N{THUMBS DOWN SIGN}": ApprovalEvent.REFUSED,
        "no": ApprovalEvent.REFUSED,
    }
)
_ONCE: Mapping[str, ApprovalEvent] = MappingProxyType(
    {
        "\N{WHITE HEAVY CHECK MARK}": ApprovalEvent.ALLOWED_ONCE,
        "\N{HEAVY CHECK MARK}": ApprovalEvent.ALLOWED_ONCE,
        "\N{BALLOT BOX WITH CHECK}": ApprovalEvent.ALLOWED_ONCE,
        "yes": ApprovalEvent.ALLOWED_ONCE,
    }
)
# A tick is no answer to a host's question, which asks for how long.
_EGRESS: Mapping[str, ApprovalEvent] = MappingProxyType(
    {
        "\N{STOPWATCH}": ApprovalEvent.ALLOWED_HOUR,
        "\N{CLOCK FACE ONE OCLOCK}": ApprovalEvent.ALLOWED_HOUR,
        "\N{ALARM CLOCK}": ApprovalEvent.ALLOWED_HOUR,
        "1h": ApprovalEvent.ALLOWED_HOUR,
        "\N{PERMANENT PAPER SIGN}": ApprovalEvent.ALLOWED_ALWAYS,
        "\N{INFINITY}": ApprovalEvent.ALLOWED_ALWAYS,
        "always": ApprovalEvent.ALLOWED_ALWAYS,
        **_NO,
    }
)
_TOOL: Mapping[str, ApprovalEvent] = MappingProxyType(
    {
        **_ONCE,
        "\N{PERMANENT PAPER SIGN}": ApprovalEvent.ALLOWED_SESSION,
        "\N{INFINITY}": ApprovalEvent.ALLOWED_SESSION,
        "always": ApprovalEvent.ALLOWED_SESSION,
        **_NO,
    }
)
_KEYS: Mapping[ApprovalKind, Mapping[str, ApprovalEvent]] = MappingProxyType(
    {
        ApprovalKind.EGRESS: _EGRESS,
        ApprovalKind.TOOL: _TOOL,
        ApprovalKind.PLAN: MappingProxyType({**_ONCE, **_NO}),
        ApprovalKind.QUESTION: MappingProxyType({**_ONCE, **_NO}),
    }
)
_KEYCAP = "\N{COMBINING ENCLOSING KEYCAP}"
# Variation selectors ask for colour or for none, modifiers for a skin tone: the sign is the same.
_VARIANTS = dict.fromkeys([0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400)])
_MAX_KEY_CHARS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDetails:
    """What was asked, in the room's own words: short, one line each."""

    what: str
    rule: str | None = None
    """What ♾️ would allow, where it can."""
    options: tuple[str, ...] = ()
    is_multiple: bool = False
    """Whether more than one option may be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What somebody chose last in the poll of a question with several answers."""

    by: UserId
    event_id: EventId
    """Of the response that says it."""
    picks: tuple[int, ...]
    """Options, by their index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What somebody says to a question of ours."""

    event: ApprovalEvent | None = None
    """None: something was chosen of which there may be several, and nothing is decided yet."""
    pick: int | None = None
    """An option, by its index."""
    vote: Vote | None = None
    """In place of what the person chose in the poll before."""
    voted: tuple[int, ...] = ()
    """What was chosen in the poll by those whose votes count, and is taken by this."""
    words: str | None = None
    """A reason, or an answer in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A question to the room, as it is stored; never deleted."""

    approval_id: str
    room_id: RoomId
    kind: ApprovalKind
    subject: str
    wanted_by: str | None
    """What the room's runner was doing then: the room's own words, one line."""
    turn_id: TurnId | None
    txn_id: TxnId
    """Of the message that asks."""
    state: ApprovalState
    asked_at: float
    expires_at: float
    decided_by: UserId | None = None
    decided_at: float | None = None
    event_id: EventId | None = None
    """The message that asks, once the homeserver has it."""
    asker: UserId | None = None
    """Who asked for the turn, where that person may decide, too."""
    details: ToolDetails | None = None
    """Of a tool, a plan, a question: what its decision is told with."""
    reason: str | None = None
    """Why it was refused, or what was answered, in the words of whoever decided."""
    picks: tuple[int, ...] = ()
    """Options that were chosen, by their index: by reactions, and in the end all that count."""
    votes: tuple[Vote, ...] = ()
    """What is chosen in the poll, as long as nobody has taken it; of each person one at most."""
    number: int = 0
    """By which commands name it: its own in the room for good. 0: none does; a host has a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What somebody's word counts for in a room, now."""

    decides: bool = False
    """What anybody's turn asks for."""
    answers: bool = False
    """What the agent asks of whoever asked for the turn, where it was them."""
    decides_own: bool = False
    """And what else their own turns ask for."""


SILENT = Voice()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciders:
    """Who may decide. Asked when an answer is read: what somebody was before does not count."""

    me: UserId
    agents: Collection[UserId]
    """The accounts of all configured agents: they never decide, whatever a pattern covers."""
    find_voice: Callable[[RoomId, UserId], Awaitable[Voice]]
    """Of a person in a room: by name, by the room's power levels, by whether they are there."""
    has_any: bool
    """Whether the configuration names anybody at all."""

    async def voice(self, room_id: RoomId, sender: UserId) -> Voice:
        """What this account's word counts for in the room."""
        return await self.find_voice(room_id, sender) if self.is_person(sender) else SILENT

    async def may_decide(self, room_id: RoomId, sender: UserId) -> bool:
        """Whether it counts whoever asked."""
        return (await self.voice(room_id, sender)).decides

    async def may_answer(self, sender: UserId, approval: Approval) -> bool:
        """Whether it counts for this question: who asked for the turn may be let decide."""
        return counts_for(await self.voice(approval.room_id, sender), sender, approval)

    def is_person(self, sender: str) -> bool:
        """Whether it is no account of an agent's."""
        return sender != self.me and sender not in self.agents


def counts_for(voice: Voice, sender: UserId, approval: Approval) -> bool:
    """Whether somebody's word decides this question of the room that the voice is of."""
    if approval.asker != sender:
        return voice.decides
    own = voice.answers if approval.kind is ApprovalKind.QUESTION else voice.decides_own
    return voice.decides or own


def next_approval_state(state: ApprovalState, event: ApprovalEvent) -> ApprovalState:
    """Where the event takes the question.

    Raises:
        IllegalTransitionError: it was decided already; the first decision stands.
    """
    target = APPROVAL_TABLE[state].get(event)
    if target is None:
        raise IllegalTransitionError(state=state, event=event)
    return target


def parse_key(key: str, approval: Approval) -> Answer | None:
    """What a reaction with this key says to this question; None for any that says nothing."""
    if len(key) > _MAX_KEY_CHARS:
        return None
    sign = key.translate(_VARIANTS).strip().lower()
    number = sign.removesuffix(_KEYCAP)
    if approval.kind is ApprovalKind.QUESTION and number.isascii() and number.isdigit():
        return _pick(int(number) - 1, approval)
    event = _KEYS[approval.kind].get(sign)
    if event is ApprovalEvent.ALLOWED_SESSION and not (approval.details and approval.details.rule):
        return None
    if approval.kind is ApprovalKind.QUESTION and event is ApprovalEvent.ALLOWED_ONCE:
        # A tick ends the choice of several; alone it answers nothing.
        voted = tuple(sorted({pick for vote in approval.votes for pick in vote.picks}))
        return Answer(event=event, voted=voted) if approval.picks or voted else None
    return None if event is None else Answer(event=event)


def _pick(index: int, approval: Approval) -> Answer | None:
    details = approval.details
    if details is None or not 0 <= index < len(details.options):
        return None
    if details.is_multiple:
        return Answer(pick=index)
    return Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=index)


def parse_words(words: str, approval: Approval) -> Answer:
    """What a reply in words says: a question's answer, of anything else a no with its reason."""
    if approval.kind is not ApprovalKind.QUESTION:
        return Answer(event=ApprovalEvent.REFUSED, words=words)
    number = words.strip().rstrip(".")
    if number.isascii() and number.isdigit() and len(number) <= 2:
        found = _pick(int(number) - 1, approval)
        if found is not None and found.pick is not None:
            return Answer(event=ApprovalEvent.ALLOWED_ONCE, pick=found.pick)
    return Answer(event=ApprovalEvent.ALLOWED_ONCE, words=words)
