"""Questions as they stand in the table `approvals`, whose writer is `store.approval_table`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.core.approval import Approval, ApprovalKind, ApprovalState, ToolDetails, Vote
from orchestrator.core.naming import approval_id, txn_id
from orchestrator.model import EventId, RoomId, TurnId, TxnId, UserId

_COLUMNS = (
    "approvals.approval_id, approvals.room_id, kind, subject, wanted_by, turn_id, "
    "approvals.txn_id, approvals.state, asked_at, expires_at, decided_by, decided_at, "
    "outbox.event_id, asker, details, approvals.reason, picks, "
    # How many the room was asked up to it: no row is deleted, so that no number changes or returns.
    "CASE kind WHEN 'egress' THEN 0 ELSE (SELECT count(*) FROM approvals AS earlier "
    "WHERE earlier.room_id = approvals.room_id AND earlier.kind <> 'egress' "
    "AND earlier.rowid <= approvals.rowid) END"
)
_FROM = f"SELECT {_COLUMNS} FROM approvals LEFT JOIN outbox ON outbox.txn_id = approvals.txn_id"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApproval:
    """A question that may be asked."""

    room_id: RoomId
    kind: ApprovalKind
    subject: str
    wanted_by: str | None
    turn_id: TurnId | None
    expires_at: float
    asker: UserId | None = None
    details: ToolDetails | None = None


def insert_approval(
    db: sqlite3.Connection, new: NewApproval, *, number: int, now: float
) -> Approval:
    """Store a question, the `number`-th about its subject, within the caller's transaction."""
    own_id = approval_id(new.room_id, new.kind, new.subject, number)
    db.execute(
        "INSERT INTO approvals (approval_id, room_id, kind, subject, wanted_by, turn_id, txn_id, "
        "state, asked_at, expires_at, asker, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            own_id,
            new.room_id,
            new.kind,
            new.subject,
            new.wanted_by,
            new.turn_id,
            txn_id(f"{own_id}:asked", 0),
            ApprovalState.OPEN,
            now,
            new.expires_at,
            new.asker,
            None if new.details is None else json.dumps(asdict(new.details)),
        ),
    )
    return select_approvals(db, "WHERE approval_id = ?", own_id)[0]


def open_approvals(db: sqlite3.Connection, room_id: RoomId) -> list[Approval]:
    """A room's open questions, the oldest first."""
    where = "WHERE approvals.room_id = ? AND approvals.state = 'open' ORDER BY asked_at"
    return select_approvals(db, where, room_id)


def ended_since(db: sqlite3.Connection, room_id: RoomId, since: float) -> list[Approval]:
    """A room's questions that ended after a time, in whatever way."""
    where = "WHERE approvals.room_id = ? AND approvals.state <> 'open' AND decided_at > ?"
    return select_approvals(db, where, room_id, since)


def select_approvals(db: sqlite3.Connection, where: str, *values: object) -> list[Approval]:
    """Questions by a condition."""
    return [_approval(*row) for row in db.execute(f"{_FROM} {where}", values).fetchall()]


def _approval(
    own_id: str,
    room_id: str,
    kind: str,
    subject: str,
    wanted_by: str | None,
    turn_id: str | None,
    txn: str,
    state: str,
    asked_at: float,
    expires_at: float,
    decided_by: str | None,
    decided_at: float | None,
    event_id: str | None,
    asker: str | None,
    details: str | None,
    reason: str | None,
    choices: str,
    number: int,
) -> Approval:
    picks, votes = _choices(choices)
    return Approval(
        approval_id=own_id,
        room_id=RoomId(room_id),
        kind=ApprovalKind(kind),
        subject=subject,
        wanted_by=wanted_by,
        turn_id=TurnId(turn_id) if turn_id else None,
        txn_id=TxnId(txn),
        state=ApprovalState(state),
        asked_at=asked_at,
        expires_at=expires_at,
        decided_by=UserId(decided_by) if decided_by else None,
        decided_at=decided_at,
        event_id=EventId(event_id) if event_id else None,
        asker=UserId(asker) if asker else None,
        details=_details(details),
        reason=reason,
        picks=picks,
        votes=votes,
        number=number,
    )


def encode_choices(picks: Sequence[int], votes: Sequence[Vote] = ()) -> str:
    """What is chosen, as it stands in `picks`: a list of options, or an object with the votes."""
    if not votes:
        return json.dumps(picks)
    voted = [[vote.by, vote.event_id, vote.picks] for vote in votes]
    return json.dumps({"picks": picks, "votes": voted})


def _choices(text: str) -> tuple[tuple[int, ...], tuple[Vote, ...]]:
    """As `encode_choices` wrote them."""
    held = json.loads(text)
    if isinstance(held, list):
        return tuple(held), ()
    votes = (
        Vote(by=UserId(by), event_id=EventId(event_id), picks=tuple(picks))
        for by, event_id, picks in held["votes"]
    )
    return tuple(held["picks"]), tuple(votes)


def _details(text: str | None) -> ToolDetails | None:
    """As `insert_approval` wrote them."""
    if text is None:
        return None
    held = json.loads(text)
    return ToolDetails(
        what=held["what"],
        rule=held["rule"],
        options=tuple(held["options"]),
        is_multiple=held["is_multiple"],
    )
