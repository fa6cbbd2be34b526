"""What somebody with the admin's token may do on the status page. Pure.

Each is about one thing that was seen there, by its id: a turn, a room's runner, a question. What
has ended meanwhile is left alone; nothing that came later is met.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from orchestrator.core.approval import ApprovalEvent, ApprovalKind
from orchestrator.model import UserId

STATUS_PAGE = UserId("status page")
"""Who did it. No account is called that: those begin with `@`."""


class PageVerb(StrEnum):
    """What is to be done."""

    CANCEL = "cancel"
    """The turn that `subject` names."""
    RESTART = "restart"
    """The room's runner."""
    ALLOW = "allow"
    """What the question `subject` asks, the least that there is: once, or for an hour."""
    REFUSE = "refuse"


class PageAction(BaseModel):
    """As it stands in the inbox."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    verb: PageVerb
    subject: str = ""


_ONCE: Mapping[PageVerb, ApprovalEvent] = MappingProxyType(
    {PageVerb.ALLOW: ApprovalEvent.ALLOWED_ONCE, PageVerb.REFUSE: ApprovalEvent.REFUSED}
)
DECISIONS: Mapping[ApprovalKind, Mapping[PageVerb, ApprovalEvent]] = MappingProxyType(
    {
        ApprovalKind.EGRESS: MappingProxyType(
            {PageVerb.ALLOW: ApprovalEvent.ALLOWED_HOUR, PageVerb.REFUSE: ApprovalEvent.REFUSED}
        ),
        ApprovalKind.TOOL: _ONCE,
        ApprovalKind.PLAN: _ONCE,
        # An answer is words or a number, for which the room is the place.
        ApprovalKind.QUESTION: MappingProxyType({PageVerb.REFUSE: ApprovalEvent.REFUSED}),
    }
)
"""What each means for a question, by what it is about; more than this is decided in the room."""
