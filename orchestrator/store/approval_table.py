"""The table `approvals`: what rooms were asked to allow, and how each question ended.

Rules:
- a question and the message that asks it are one transaction; so are a decision, what it does (a
  grant), the message that tells it, and the mark on the event that decided;
- of a room, a kind and a subject at most one question is open; the first decision stands;
- a row is never deleted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from orchestrator.core.approval import (
    Answer,
    Approval,
    ApprovalEvent,
    ApprovalKind,
    ApprovalState,
    next_approval_state,
)
from orchestrator.core.grant import HOUR_S, Grant, parse_subject, rule_for
from orchestrator.core.naming import is_text_of_question
from orchestrator.model import EventId, RoomId, TurnId, TxnId, UserId
from orchestrator.store.api import InboxState, NewOutboxRow
from orchestrator.store.approval_row import (
    NewApproval,
    encode_choices,
    insert_approval,
    open_approvals,
    select_approvals,
)
from orchestrator.store.database import Database
from orchestrator.store.grant_table import (
    BY_SYSTEM,
    NewGrant,
    insert_grant,
    last_revoked_at,
    revoke_grants,
)
from orchestrator.store.outbox_table import insert_outbox, take_back_outbox
from orchestrator.store.poll import (
    close_poll,
    find_asking_txn,
    take_back_poll,
    txns_of_question,
)

MAX_OPEN = 8
"""Open questions in a room. More would stand above what anybody scrolls back to."""
ASK_AGAIN_S = 3600.0
"""After a no (a question was refused, nobody answered it, what was granted was taken back) the same
is not asked again for so long."""
# A question whose time is up, and which nobody has ended yet.
_LOOK_AGAIN_S = 1.0
_EGRESS = ApprovalKind.EGRESS
REACTION = "reaction"
"""Why the inbox has no more to do with an event that answered a question."""
# Why a question was withdrawn that its room could not read, or can't any more.
_UNSHOWN = "unshown"
BuildRows = Callable[[Approval], Sequence[NewOutboxRow]]


class Asked(Enum):
    """What came of the wish to ask."""

    NOW = "now"
    OPEN = "open"
    """It is asked already."""
    ENDED = "ended"
    """It was refused, or nobody answered it, not long ago."""
    FULL = "full"
    """The room has as many open questions as it can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an answer did. `is_first` where it decided; else the question had ended before."""

    approval: Approval
    is_first: bool
    grant: Grant | None = None


class ApprovalTable:
    """Questions to rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(
        self, new: NewApproval, rows: BuildRows, more: BuildRows, *, now: float
    ) -> tuple[Asked, float]:
        """Ask, unless that would be too much; and when to come back with the same.

        `rows` asks it; `more` says, once for the questions that are open, that there is more.
        """

        def work(db: sqlite3.Connection) -> tuple[Asked, float]:
            same = "WHERE approvals.room_id = ? AND kind = ? AND subject = ? ORDER BY asked_at"
            earlier = select_approvals(db, same, new.room_id, new.kind, new.subject)
            last = earlier[-1] if earlier else None
            if (again_at := _may_ask_at(db, new, last, now=now)) > now:
                is_open = last is not None and last.state is ApprovalState.OPEN
                return (Asked.OPEN if is_open else Asked.ENDED), again_at
            others = [a for a in open_approvals(db, new.room_id) if a.kind is new.kind]
            if len(others) >= MAX_OPEN:
                insert_outbox(db, more(others[-1]), now=now)
                return Asked.FULL, others[0].expires_at
            approval = insert_approval(db, new, number=len(earlier), now=now)
            insert_outbox(db, rows(approval), now=now)
            return Asked.NOW, new.expires_at

        return await self._database.run(work)

    async def ask_once(
        self, new: NewApproval, rows: BuildRows, *, most_open: int, now: float
    ) -> Approval | None:
        """The question about a turn's request, asked now unless it was before. Idempotent.

        One that was withdrawn is asked again, unless the room could not read it any more. None: as
        many are open in the room as may be.
        """

        def work(db: sqlite3.Connection) -> Approval | None:
            same = "WHERE approvals.room_id = ? AND kind = ? AND subject = ? ORDER BY asked_at"
            earlier = select_approvals(db, same, new.room_id, new.kind, new.subject)
            if earlier and not _is_asked_again(earlier[-1]):
                return earlier[-1]
            others = [a for a in open_approvals(db, new.room_id) if a.kind is not _EGRESS]
            if len(others) >= most_open:
                return None
            approval = insert_approval(db, new, number=len(earlier), now=now)
            insert_outbox(db, rows(approval), now=now)
            return approval

        return await self._database.run(work)

    async def get(self, approval_id: str) -> Approval | None:
        """A question by its id."""

        def work(db: sqlite3.Connection) -> Approval | None:
            found = select_approvals(db, "WHERE approval_id = ?", approval_id)
            return found[0] if found else None

        return await self._database.run(work)

    async def waited_s(self, turn_id: TurnId, *, now: float) -> float:
        """For how many seconds in all a turn's questions were open; side by side they add up."""

        def work(db: sqlite3.Connection) -> float:
            held = select_approvals(db, "WHERE turn_id = ? AND kind <> ?", turn_id, _EGRESS)
            return sum(max(0.0, (one.decided_at or now) - one.asked_at) for one in held)

        return await self._database.run(work)

    async def withdraw(self, approval_id: str, *, now: float) -> None:
        """The agent took its request back. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            for approval in select_approvals(
                db, "WHERE approval_id = ? AND approvals.state = 'open'", approval_id
            ):
                _withdraw(db, approval, now=now)

        await self._database.run(work)

    async def withdraw_unshown(self, txn_id: TxnId, *, now: float) -> Approval | None:
        """The room does not have the message that asks (any more): what a turn asks so is over.

        So it is without the file of a long one, or a part of its text. None: the message is no such
        question's. Idempotent.
        """

        def work(db: sqlite3.Connection) -> Approval | None:
            where = "WHERE approvals.state = 'open' AND kind <> ?"
            for held in select_approvals(db, where, _EGRESS):
                if held.txn_id == txn_id or is_text_of_question(txn_id, held.approval_id):
                    event = ApprovalEvent.TURN_ENDED
                    return end_approval(db, held, event, by=None, now=now, reason=_UNSHOWN)
            return None

        return await self._database.run(work)

    async def open_in(self, room_id: RoomId) -> Sequence[Approval]:
        """The room's open questions, the oldest first."""
        return await self._database.run(lambda db: open_approvals(db, room_id))

    async def open_ones(self, *, limit: int) -> Sequence[Approval]:
        """What waits for a decision in all rooms, the oldest first."""
        where = f"WHERE approvals.state = 'open' ORDER BY asked_at LIMIT {limit:d}"
        return await self._database.run(lambda db: select_approvals(db, where))

    async def open_count(self) -> int:
        """How many wait for a decision, in all rooms."""

        def work(db: sqlite3.Connection) -> int:
            query = "SELECT count(*) FROM approvals WHERE state = 'open'"
            count: int = db.execute(query).fetchone()[0]
            return count

        return await self._database.run(work)

    async def find(self, room_id: RoomId, event_id: EventId) -> Approval | None:
        """The question that this message of ours asked in this room, if it is one."""
        return await self._find(room_id, event_id, only_poll=False)

    async def find_txn(self, room_id: RoomId, event_id: EventId) -> TxnId | None:
        """The transaction id of a message of ours in this room; of a poll, its question's."""
        return await self._database.run(
            lambda db: find_asking_txn(db, room_id, event_id, only_poll=False)
        )

    async def find_by_poll(self, room_id: RoomId, event_id: EventId) -> Approval | None:
        """The question whose poll this is, if it is one of ours in this room."""
        return await self._find(room_id, event_id, only_poll=True)

    async def _find(
        self, room_id: RoomId, event_id: EventId, *, only_poll: bool
    ) -> Approval | None:
        def work(db: sqlite3.Connection) -> Approval | None:
            txn = find_asking_txn(db, room_id, event_id, only_poll=only_poll)
            where = "WHERE approvals.txn_id = ? AND approvals.room_id = ?"
            found = select_approvals(db, where, txn, room_id) if txn is not None else []
            return found[0] if found else None

        return await self._database.run(work)

    async def is_sending(self, room_id: RoomId) -> bool:
        """Whether the homeserver may have an open question whose event we don't know yet."""

        def work(db: sqlite3.Connection) -> bool:
            txns = [txn for one in open_approvals(db, room_id) for txn in txns_of_question(one)]
            query = (
                "SELECT EXISTS (SELECT 1 FROM outbox WHERE state = 'queued' AND attempts > 0 "
                "AND txn_id IN (SELECT value FROM json_each(?)))"
            )
            return bool(db.execute(query, (json.dumps(txns),)).fetchone()[0])

        return await self._database.run(work)

    async def decide(
        self,
        seq: int,
        approval: Approval,
        answer: Answer,
        rows: Callable[[Decision], Sequence[NewOutboxRow]],
        *,
        by: UserId,
        now: float,
    ) -> Decision | None:
        """A person's answer to a question; `seq` is the inbox row that gave it.

        A row that was handled before does nothing, and gives None; so does an option that was
        chosen among several. A question whose time is up counts as expired, whether or not that
        was stored before.
        """

        def work(db: sqlite3.Connection) -> Decision | None:
            if not is_new(db, seq):
                return None
            held = select_approvals(db, "WHERE approval_id = ?", approval.approval_id)[0]
            decision = decide_approval(db, held, answer, by=by, now=now)
            if decision is not None:
                insert_outbox(db, rows(decision), now=now)
            db.execute(
                "UPDATE inbox SET state = ?, reason = ?, raw = '' WHERE seq = ?",
                (InboxState.IGNORED, REACTION, seq),
            )
            return decision

        return await self._database.run(work)

    async def expire_due(
        self, rows: BuildRows, *, now: float
    ) -> tuple[Sequence[Approval], float | None]:
        """End the questions whose time is up, each with what its room is told.

        Returns them, and when the next one is due. What was asked in the future, by a clock that
        was set back since, is over.
        """

        def work(db: sqlite3.Connection) -> tuple[list[Approval], float | None]:
            is_due = "(expires_at <= ?1 OR asked_at > ?1)"
            due = select_approvals(db, f"WHERE approvals.state = 'open' AND {is_due}", now)
            ended = [end_approval(db, a, ApprovalEvent.TIME_UP, by=None, now=now) for a in due]
            for approval in ended:
                insert_outbox(db, rows(approval), now=now)
            query = "SELECT min(expires_at) FROM approvals WHERE state = 'open'"
            return ended, db.execute(query).fetchone()[0]

        return await self._database.run(work)

    async def end_room(self, room_id: RoomId, *, now: float) -> None:
        """The agent left the room: nothing that was asked or allowed there holds any more."""
        await self._database.run(lambda db: end_room(db, room_id, now=now))


def withdraw_of_turn(db: sqlite3.Connection, turn_id: TurnId, *, now: float) -> None:
    """A turn has ended: nobody waits for what it asked, within the caller's transaction.

    A host that it wanted is another matter: who grants it does so for the room.
    """
    where = "WHERE turn_id = ? AND approvals.state = 'open' AND kind <> ?"
    for approval in select_approvals(db, where, turn_id, _EGRESS):
        _withdraw(db, approval, now=now)


def drop_vote(db: sqlite3.Connection, room_id: RoomId, event_id: EventId) -> None:
    """A response to a poll was taken back: its sender has chosen nothing there."""
    for approval in open_approvals(db, room_id):
        kept = tuple(vote for vote in approval.votes if vote.event_id != event_id)
        if kept != approval.votes:
            _store_choices(db, replace(approval, votes=kept))


def _is_asked_again(last: Approval) -> bool:
    """Whether a request that comes again, after a crash say, makes another question."""
    return last.state is ApprovalState.WITHDRAWN and last.reason != _UNSHOWN


def _withdraw(db: sqlite3.Connection, approval: Approval, *, now: float) -> None:
    end_approval(db, approval, ApprovalEvent.TURN_ENDED, by=None, now=now)
    take_back_outbox(db, approval.txn_id)


def is_new(db: sqlite3.Connection, seq: int) -> bool:
    """Whether nothing came of an inbox row yet: what changes what is allowed happens once."""
    row = db.execute("SELECT state FROM inbox WHERE seq = ?", (seq,)).fetchone()
    return row is not None and row[0] in (InboxState.NEW, InboxState.PENDING_KEYS)


def end_room(db: sqlite3.Connection, room_id: RoomId, *, now: float) -> None:
    """Withdraw what is asked in a room and take back what was allowed there."""
    for approval in open_approvals(db, room_id):
        end_approval(db, approval, ApprovalEvent.ROOM_ENDED, by=None, now=now)
        # Else it would move to the room that replaces this one, and decide nothing there.
        take_back_outbox(db, approval.txn_id)
        take_back_poll(db, approval)
    revoke_grants(db, room_id, None, by=BY_SYSTEM, now=now)


def decide_open(
    db: sqlite3.Connection,
    room_id: RoomId,
    is_meant: Callable[[Approval], bool],
    event: ApprovalEvent,
    *,
    by: UserId,
    now: float,
) -> list[Approval]:
    """End those open questions of a room that a command means; what it does is the command's."""
    meant = [a for a in open_approvals(db, room_id) if is_meant(a)]
    return [end_approval(db, approval, event, by=by, now=now) for approval in meant]


def withdraw_all(db: sqlite3.Connection, *, now: float) -> None:
    """After a restore: how the questions of the copy ended is not known."""
    for approval in select_approvals(db, "WHERE approvals.state = 'open'"):
        end_approval(db, approval, ApprovalEvent.ROOM_ENDED, by=None, now=now)
        close_poll(db, approval, now=now)


def _may_ask_at(
    db: sqlite3.Connection, new: NewApproval, last: Approval | None, *, now: float
) -> float:
    """When a subject may be asked about (again): never while it is asked.

    A time in the future is a clock's that was set back since, and says nothing.
    """
    if last is not None and last.state is ApprovalState.OPEN:
        return max(last.expires_at, now + _LOOK_AGAIN_S)
    noes = [_revoked_at(db, new, now=now)]
    if last is not None and last.state in (ApprovalState.REFUSED, ApprovalState.EXPIRED):
        noes.append(last.decided_at)
    return max((at + ASK_AGAIN_S for at in noes if at is not None and at <= now), default=now)


def _revoked_at(db: sqlite3.Connection, new: NewApproval, *, now: float) -> float | None:
    """When somebody last took back what would be asked for, not longer ago than counts."""
    match new.kind:
        case ApprovalKind.EGRESS:
            target = parse_subject(new.subject)
            return last_revoked_at(db, new.room_id, target, since=now - ASK_AGAIN_S)
        case _:
            return None


def decide_approval(
    db: sqlite3.Connection, held: Approval, answer: Answer, *, by: UserId, now: float
) -> Decision | None:
    """What an answer does, within the caller's transaction; None: it decided nothing yet."""
    if held.state is not ApprovalState.OPEN:
        return Decision(approval=held, is_first=False)
    if held.expires_at <= now:
        ended = end_approval(db, held, ApprovalEvent.TIME_UP, by=None, now=now)
        return Decision(approval=ended, is_first=True)
    if answer.vote is not None:
        others = tuple(vote for vote in held.votes if vote.by != answer.vote.by)
        votes = (*others, answer.vote) if answer.vote.picks else others
        _store_choices(db, replace(held, votes=votes))
        return None
    chosen = {*held.picks, *answer.voted, *([] if answer.pick is None else [answer.pick])}
    picks = tuple(sorted(chosen))
    if answer.event is None:
        _store_choices(db, replace(held, picks=picks))
        return None
    ended = end_approval(db, held, answer.event, by=by, now=now, reason=answer.words, picks=picks)
    return Decision(approval=ended, is_first=True, grant=_take_effect(db, ended, by=by, now=now))


def _store_choices(db: sqlite3.Connection, approval: Approval) -> None:
    db.execute(
        "UPDATE approvals SET picks = ? WHERE approval_id = ? AND state = 'open'",
        (encode_choices(approval.picks, approval.votes), approval.approval_id),
    )


def _take_effect(
    db: sqlite3.Connection, approval: Approval, *, by: UserId, now: float
) -> Grant | None:
    """What a decision does, by the kind of what was asked."""
    ends = {
        ApprovalState.GRANTED_HOUR: now + HOUR_S,
        ApprovalState.GRANTED_ALWAYS: None,
    }
    if approval.state not in ends:
        return None
    match approval.kind:
        case ApprovalKind.EGRESS:
            new = NewGrant(
                rule=rule_for(parse_subject(approval.subject)),
                granted_by=by,
                expires_at=ends[approval.state],
                approval_id=approval.approval_id,
            )
            return insert_grant(db, approval.room_id, new, now=now)
        case _:
            return None


def end_approval(
    db: sqlite3.Connection,
    approval: Approval,
    event: ApprovalEvent,
    *,
    by: UserId | None,
    now: float,
    reason: str | None = None,
    picks: tuple[int, ...] = (),
) -> Approval:
    """End an open question, within the caller's transaction; returns it as it is then.

    Its poll is closed with it, unless the room has ended, too.
    """
    state = next_approval_state(approval.state, event)
    db.execute(
        "UPDATE approvals SET state = ?, decision = ?, decided_by = ?, decided_at = ?, "
        "reason = ?, picks = ? WHERE approval_id = ? AND state = 'open'",
        (state, event, by, now, reason, encode_choices(picks), approval.approval_id),
    )
    if event is not ApprovalEvent.ROOM_ENDED:
        close_poll(db, approval, now=now)
    ended = replace(approval, state=state, decided_by=by, decided_at=now, reason=reason)
    return replace(ended, picks=picks, votes=())
