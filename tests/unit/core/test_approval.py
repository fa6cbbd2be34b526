"""Questions to a room: every state and event, every key, and who may decide."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.core.approval import (
    APPROVAL_TABLE,
    ApprovalEvent,
    ApprovalState,
    Deciders,
    next_approval_state,
    parse_key,
)
from orchestrator.errors import IllegalTransitionError
from orchestrator.model import RoomId, UserId

ENDS = {
    ApprovalEvent.ALLOWED_HOUR: ApprovalState.GRANTED_HOUR,
    ApprovalEvent.ALLOWED_ALWAYS: ApprovalState.GRANTED_ALWAYS,
    ApprovalEvent.REFUSED: ApprovalState.REFUSED,
    ApprovalEvent.TIME_UP: ApprovalState.EXPIRED,
    ApprovalEvent.ROOM_ENDED: ApprovalState.WITHDRAWN,
}


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(ApprovalState, ApprovalEvent)), ids=str
)
def test_an_open_question_ends_once_and_what_ended_it_stands(
    state: ApprovalState, event: ApprovalEvent
) -> None:
    assert set(APPROVAL_TABLE) == set(ApprovalState)
    if state is ApprovalState.OPEN:
        assert next_approval_state(state, event) is ENDS[event]
        return
    with pytest.raises(IllegalTransitionError):
        next_approval_state(state, event)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("⏱️", ApprovalEvent.ALLOWED_HOUR),
        ("⏱", ApprovalEvent.ALLOWED_HOUR),
        ("⏱\ufe0e", ApprovalEvent.ALLOWED_HOUR),
        ("🕐", ApprovalEvent.ALLOWED_HOUR),
        ("⏰", ApprovalEvent.ALLOWED_HOUR),
        ("1h", ApprovalEvent.ALLOWED_HOUR),
        ("♾️", ApprovalEvent.ALLOWED_ALWAYS),
        ("♾", ApprovalEvent.ALLOWED_ALWAYS),
        ("∞", ApprovalEvent.ALLOWED_ALWAYS),
        ("Always", ApprovalEvent.ALLOWED_ALWAYS),
        ("❌", ApprovalEvent.REFUSED),
        ("❌️", ApprovalEvent.REFUSED),
        ("✖️", ApprovalEvent.REFUSED),
        ("👎", ApprovalEvent.REFUSED),
        ("👎🏽", ApprovalEvent.REFUSED),
        ("🚫", ApprovalEvent.REFUSED),
        # What may mean "I have seen it", or anything.
        *((key, None) for key in ("👍", "👍🏿", "✅", "❤️", "👀", "🎉", "", " ", "\ufe0f", "🕑")),
        *((key, None) for key in ("yes", "⏱️♾️", "allow", "1h " * 1000, "mxc://server/media")),
    ],
)
def test_only_a_key_that_can_mean_one_thing_decides(key: str, said: ApprovalEvent | None) -> None:
    assert parse_key(key) is said


@pytest.mark.parametrize(
    ("sender", "may"),
    [
        ("@alice:test", True),
        ("@agent:test", False),
        ("@reviewer:test", False),
        ("@stranger:else", False),
        ("", False),
        ("@Alice:test", True),
    ],
)
async def test_no_agent_decides_whatever_a_pattern_covers(sender: str, *, may: bool) -> None:
    async def is_approver(_: RoomId, user_id: str) -> bool:
        return user_id.endswith(":test")

    deciders = Deciders(
        me=UserId("@agent:test"),
        agents={UserId("@reviewer:test")},
        is_approver=is_approver,
        has_any=True,
    )
    assert await deciders.may_decide(RoomId("!r:test"), sender) is may
