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


class ApprovalState(StrEnum):
    """Where a question is."""

    OPEN = "open"
    """Asked, and nobody has decided."""
    GRANTED_HOUR = "granted_hour"
    GRANTED_ALWAYS = "granted_always"
    REFUSED = "refused"
    EXPIRED = "expired"
    """Nobody decided in time, which refuses it."""
    WITHDRAWN = "withdrawn"
    """It is of no use any more: the room was left, or replaced."""


class ApprovalEvent(StrEnum):
    """What happens to a question."""

    ALLOWED_HOUR = "allowed_hour"
    """A person who may decide allows it for an hour."""
    ALLOWED_ALWAYS = "allowed_always"
    """A person who may decide allows it in this room for good."""
    REFUSED = "refused"
    """A person who may decide refuses it."""
    TIME_UP = "time_up"
    """Nobody decided within the room's `approval_timeout_s`."""
    ROOM_ENDED = "room_ended"
    """The agent left the room, another room replaced it, or an older database was restored."""


_DECIDED: Mapping[ApprovalEvent, ApprovalState] = MappingProxyType({})
APPROVAL_TABLE: Mapping[ApprovalState, Mapping[ApprovalEvent, ApprovalState]] = MappingProxyType(
    {
        ApprovalState.OPEN: MappingProxyType(
            {
                ApprovalEvent.ALLOWED_HOUR: ApprovalState.GRANTED_HOUR,
                ApprovalEvent.ALLOWED_ALWAYS: ApprovalState.GRANTED_ALWAYS,
                ApprovalEvent.REFUSED: ApprovalState.REFUSED,
                ApprovalEvent.TIME_UP: ApprovalState.EXPIRED,
                ApprovalEvent.ROOM_ENDED: ApprovalState.WITHDRAWN,
            }
        ),
        ApprovalState.GRANTED_HOUR: _DECIDED,
        ApprovalState.GRANTED_ALWAYS: _DECIDED,
        ApprovalState.REFUSED: _DECIDED,
        ApprovalState.EXPIRED: _DECIDED,
        ApprovalState.WITHDRAWN: _DECIDED,
    }
)

# As they come from keyboards and from clients' pickers. A thumb up, a heart or a tick can mean "I
# have seen it", so they decide nothing; a thumb down can only mean no.
_KEYS: Mapping[str, ApprovalEvent] = MappingProxyType(
    {
        "\N{STOPWATCH}": ApprovalEvent.ALLOWED_HOUR,
        "\N{CLOCK FACE ONE OCLOCK}": ApprovalEvent.ALLOWED_HOUR,
        "\N{ALARM CLOCK}": ApprovalEvent.ALLOWED_HOUR,
        "1h": ApprovalEvent.ALLOWED_HOUR,
        "\N{PERMANENT PAPER SIGN}": ApprovalEvent.ALLOWED_ALWAYS,
        "\N{INFINITY}": ApprovalEvent.ALLOWED_ALWAYS,
        "always": ApprovalEvent.ALLOWED_ALWAYS,
        "\N{CROSS MARK}": ApprovalEvent.REFUSED,
        "\N{NEGATIVE SQUARED CROSS MARK}": ApprovalEvent.REFUSED,
        "\N{HEAVY MULTIPLICATION X}": ApprovalEvent.REFUSED,
        "\N{NO ENTRY SIGN}": ApprovalEvent.REFUSED,
        "\N{THUMBS DOWN SIGN}": ApprovalEvent.REFUSED,
        "no": ApprovalEvent.REFUSED,
    }
)
# Variation selectors ask for colour or for none, modifiers for a skin tone: the sign is the same.
_VARIANTS = dict.fromkeys([0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400)])
_MAX_KEY_CHARS = 16


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciders:
    """Who may decide."""

    me: UserId
    agents: Collection[UserId]
    """The accounts of all configured agents: they never decide, whatever a pattern covers."""
    is_approver: Callable[[RoomId, str], Awaitable[bool]]
    """Whether somebody may decide in a room, by name or by the room's power levels."""
    has_any: bool
    """Whether the configuration names anybody at all."""

    async def may_decide(self, room_id: RoomId, sender: str) -> bool:
        """Whether this account's word counts in the room."""
        if sender == self.me or sender in self.agents:
            return False
        return await self.is_approver(room_id, sender)


def next_approval_state(state: ApprovalState, event: ApprovalEvent) -> ApprovalState:
    """Where the event takes the question.

    Raises:
        IllegalTransitionError: it was decided already; the first decision stands.
    """
    target = APPROVAL_TABLE[state].get(event)
    if target is None:
        raise IllegalTransitionError(state=state, event=event)
    return target


def parse_key(key: str) -> ApprovalEvent | None:
    """What a reaction with this key says; None for any that is not in the list."""
    if len(key) > _MAX_KEY_CHARS:
        return None
    return _KEYS.get(key.translate(_VARIANTS).strip().lower())
