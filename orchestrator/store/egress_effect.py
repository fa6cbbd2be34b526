"""What `!egress` does to a room's questions and grants, inside the transaction that answers it.

Rule: as for every command (`command_effect`), it takes effect exactly when its inbox row is marked.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from orchestrator.core.approval import Approval, ApprovalEvent, ApprovalKind
from orchestrator.core.egress_rules import HostRule
from orchestrator.core.grant import Grant, names_same, parse_subject, rule_for
from orchestrator.model import RoomId, UserId
from orchestrator.store.approval_table import decide_open, is_new
from orchestrator.store.grant_table import NewGrant, insert_grant, live_grants, revoke_grants


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressChange:
    """What a command changed: grants that were made or ended, questions that it answered.

    `held` is what holds in the room afterwards.
    """

    grants: tuple[Grant, ...] = ()
    answered: tuple[Approval, ...] = ()
    held: tuple[Grant, ...] = ()


def allow_host(
    db: sqlite3.Connection, seq: int, room_id: RoomId, new: NewGrant, *, now: float
) -> EgressChange:
    """Grant it, and answer the open questions that it covers."""
    if not is_new(db, seq):
        return EgressChange()
    always = new.expires_at is None
    event = ApprovalEvent.ALLOWED_ALWAYS if always else ApprovalEvent.ALLOWED_HOUR

    def is_covered(approval: Approval) -> bool:
        is_host = approval.kind is ApprovalKind.EGRESS
        return is_host and new.rule.covers(parse_subject(approval.subject))

    grant = insert_grant(db, room_id, new, now=now)
    answered = decide_open(db, room_id, is_covered, event, by=new.granted_by, now=now)
    return EgressChange(
        grants=(grant,),
        answered=tuple(answered),
        held=tuple(live_grants(db, room_id, now=now)),
    )


def deny_host(
    db: sqlite3.Connection, seq: int, room_id: RoomId, named: HostRule, *, by: UserId, now: float
) -> EgressChange:
    """Refuse what is asked about the host; what was granted is another matter (`revoke_host`)."""
    if not is_new(db, seq):
        return EgressChange()

    def is_meant(approval: Approval) -> bool:
        is_host = approval.kind is ApprovalKind.EGRESS
        return is_host and names_same(named, rule_for(parse_subject(approval.subject)))

    answered = decide_open(db, room_id, is_meant, ApprovalEvent.REFUSED, by=by, now=now)
    held = live_grants(db, room_id, now=now)
    return EgressChange(answered=tuple(answered), held=tuple(held))


def revoke_host(
    db: sqlite3.Connection, seq: int, room_id: RoomId, named: HostRule, *, by: UserId, now: float
) -> EgressChange:
    """Take back what was granted of the host."""
    if not is_new(db, seq):
        return EgressChange()
    ended = revoke_grants(db, room_id, named, by=by, now=now)
    return EgressChange(grants=tuple(ended), held=tuple(live_grants(db, room_id, now=now)))
