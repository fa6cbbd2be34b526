"""Questions and grants as rows: once, never deleted, and an hour whatever the clock says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from orchestrator.core.approval import Answer, Approval, ApprovalEvent, ApprovalKind, ApprovalState
from orchestrator.core.egress_rules import parse_rule
from orchestrator.core.grant import SEEN_EVERY_S
from orchestrator.model import EventId, Priority, RoomId, TxnId, UserId
from orchestrator.store.api import InboxKind, InboxState, NewInboxRow, NewOutboxRow
from orchestrator.store.approval_row import NewApproval
from orchestrator.store.approval_table import MAX_OPEN, Asked, Decision, withdraw_all
from orchestrator.store.egress_effect import allow_host, deny_host, revoke_host
from orchestrator.store.grant_table import NewGrant, revoke_all_grants
from orchestrator.store.store import Store, open_store

ROOM = RoomId("!room:test")
CAROL = UserId("@carol:test")
HOUR = Answer(event=ApprovalEvent.ALLOWED_HOUR)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        yield opened


def row(approval: Approval) -> Sequence[NewOutboxRow]:
    """A message that asks."""
    return [
        NewOutboxRow(
            room_id=approval.room_id,
            txn_id=approval.txn_id,
            event_type="m.room.message",
            content={"body": approval.subject},
            priority=Priority.NOTICE,
        )
    ]


def answer(decision: Decision) -> Sequence[NewOutboxRow]:
    """A message that tells a decision."""
    txn = TxnId(f"{decision.approval.approval_id}:{decision.is_first}")
    (asked,) = row(decision.approval)
    return [
        NewOutboxRow(
            room_id=asked.room_id,
            txn_id=txn,
            event_type=asked.event_type,
            content=asked.content,
            priority=asked.priority,
        )
    ]


async def ask(store: Store, host: str = "example.org", *, now: float = 0.0) -> Asked:
    new = NewApproval(
        room_id=ROOM,
        kind=ApprovalKind.EGRESS,
        subject=f"https {host}:443",
        wanted_by=None,
        turn_id=None,
        expires_at=now + 600,
    )
    asked, _ = await store.approvals.ask(new, row, lambda _: (), now=now)
    return asked


async def receive(store: Store, event_id: str) -> int:
    """An inbox row; its number."""
    new = NewInboxRow(kind=InboxKind.TIMELINE, room_id=ROOM, event_id=EventId(event_id), raw="{}")
    await store.inbox.commit_sync([new], event_id, now=0.0)
    return (await store.inbox.new_seqs(after=0, limit=1000))[-1][0]


async def count(store: Store, table: str) -> int:
    query = f"SELECT count(*) FROM {table}"
    return int(await store.database.run(lambda db: db.execute(query).fetchone()[0]))


async def test_a_row_that_is_handled_twice_decides_once(store: Store) -> None:
    assert await ask(store) is Asked.NOW
    (approval,) = await store.approvals.open_in(ROOM)
    seq = await receive(store, "$r")
    decide = partial(store.approvals.decide, seq, approval, HOUR, answer, by=CAROL)
    first, again = await decide(now=1.0), await decide(now=2.0)
    assert first is not None
    assert first.is_first
    assert first.grant is not None
    assert first.grant.expires_at == 3601.0
    assert again is None
    assert (await count(store, "grants"), await count(store, "outbox")) == (1, 2)
    assert await store.inbox.still_new([seq]) == []


async def test_a_decision_that_can_not_be_told_is_none(store: Store) -> None:
    await ask(store)
    (approval,) = await store.approvals.open_in(ROOM)
    seq = await receive(store, "$r")

    def fail(decision: Decision) -> Sequence[NewOutboxRow]:
        raise LookupError

    with pytest.raises(LookupError):
        await store.approvals.decide(seq, approval, HOUR, fail, by=CAROL, now=1.0)
    assert await count(store, "grants") == 0
    assert len(await store.approvals.open_in(ROOM)) == 1
    assert [r.state for r in await store.inbox.still_new([seq])] == [InboxState.NEW]


async def test_a_question_whose_time_is_up_can_not_be_granted(store: Store) -> None:
    await ask(store)
    (approval,) = await store.approvals.open_in(ROOM)
    seq = await receive(store, "$r")
    decision = await store.approvals.decide(seq, approval, HOUR, answer, by=CAROL, now=600.0)
    assert decision is not None
    assert decision.approval.state is ApprovalState.EXPIRED
    assert await count(store, "grants") == 0


async def test_a_room_has_a_bounded_number_of_open_questions(store: Store) -> None:
    asked = [await ask(store, f"h{i}.example.org", now=float(i)) for i in range(MAX_OPEN + 2)]
    assert asked == [Asked.NOW] * MAX_OPEN + [Asked.FULL] * 2
    assert await ask(store, "h0.example.org", now=100.0) is Asked.OPEN


async def test_what_was_asked_in_the_future_of_a_clock_is_over(store: Store) -> None:
    await ask(store, now=10_000.0)
    ended, next_at = await store.approvals.expire_due(lambda _: (), now=500.0)
    assert [a.state for a in ended] == [ApprovalState.EXPIRED]
    assert next_at is None
    # And the no of that clock keeps nothing from being asked now.
    assert await ask(store, now=4101.0) is Asked.NOW


async def grant_hour(store: Store, *, now: float) -> None:
    seq = await receive(store, f"$g{now}")
    new = NewGrant(rule=parse_rule("example.org"), granted_by=CAROL, expires_at=now + 3600)
    await store.database.run(lambda db: allow_host(db, seq, ROOM, new, now=now))


async def test_a_clock_that_is_set_back_gives_a_grant_no_more_than_its_hour(store: Store) -> None:
    await grant_hour(store, now=100_000.0)
    await store.grants.note_seen(now=102_000.0)
    # A day earlier by the new clock; 1,600 s of the hour are left.
    now = 15_600.0
    assert await store.grants.begin_life(now=now) == [ROOM]
    assert len(await store.grants.live(ROOM, now=now + 1599)) == 1
    assert await store.grants.live(ROOM, now=now + 1600) == []
    await store.grants.note_seen(now=now + 1000)
    await store.grants.begin_life(now=now + 500)
    assert await store.grants.live(ROOM, now=now + 500 + 600) == []
    assert SEEN_EVERY_S <= 60


async def test_a_clock_that_is_set_ahead_ends_a_grant(store: Store) -> None:
    await grant_hour(store, now=1000.0)
    assert await store.grants.begin_life(now=1e9) == []


async def test_after_a_restore_nothing_is_granted_and_nothing_is_asked(store: Store) -> None:
    await grant_hour(store, now=0.0)
    await ask(store, "b.example.org")

    def mark(db: object) -> None:
        withdraw_all(db, now=1.0)  # type: ignore[arg-type]
        revoke_all_grants(db, now=1.0)  # type: ignore[arg-type]

    await store.database.run(mark)
    assert await store.grants.live(ROOM, now=1.0) == []
    assert await store.approvals.open_in(ROOM) == []
    assert (await count(store, "grants"), await count(store, "approvals")) == (1, 1)


async def test_nothing_that_ends_a_grant_or_a_question_deletes_its_row(store: Store) -> None:
    await grant_hour(store, now=0.0)
    await ask(store, "b.example.org")
    named = parse_rule("example.org"), parse_rule("b.example.org")
    seqs = [await receive(store, f"$x{i}") for i in range(2)]
    await store.database.run(lambda db: revoke_host(db, seqs[0], ROOM, named[0], by=CAROL, now=1.0))
    await store.database.run(lambda db: deny_host(db, seqs[1], ROOM, named[1], by=CAROL, now=1.0))
    await store.approvals.end_room(ROOM, now=2.0)
    assert (await count(store, "grants"), await count(store, "approvals")) == (1, 1)


async def test_a_command_whose_row_was_handled_changes_nothing(store: Store) -> None:
    seq = await receive(store, "$c")
    await store.inbox.mark(seq, InboxState.USED)
    new = NewGrant(rule=parse_rule("example.org"), granted_by=CAROL, expires_at=None)
    for effect in (
        lambda db: allow_host(db, seq, ROOM, new, now=0.0),
        lambda db: deny_host(db, seq, ROOM, new.rule, by=CAROL, now=0.0),
        lambda db: revoke_host(db, seq, ROOM, new.rule, by=CAROL, now=0.0),
    ):
        change = await store.database.run(effect)
        assert (change.grants, change.answered) == ((), ())
    assert await count(store, "grants") == 0
