"""A poll's rows: found as its question's, taken back, closed, and never moved to another room."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.approval import Answer, Approval, ApprovalEvent, ApprovalKind, ToolDetails
from orchestrator.core.naming import sibling_txn_id
from orchestrator.core.poll import POLL_END, POLL_PART, POLL_START, build_poll
from orchestrator.model import EventId, JsonObject, Priority, RoomId, TurnId, UserId
from orchestrator.store.api import InboxKind, NewInboxRow, NewOutboxRow, OutboxRow, Replacement
from orchestrator.store.approval_row import NewApproval
from orchestrator.store.approval_table import withdraw_all
from orchestrator.store.store import Store, open_store

ROOM, NEW = RoomId("!room:test"), RoomId("!new:test")
ALICE = UserId("@alice:test")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        await opened.rooms.ensure(ROOM, joined=True)
        yield opened


def asking_rows(approval: Approval) -> Sequence[NewOutboxRow]:
    question = NewOutboxRow(
        room_id=ROOM,
        txn_id=approval.txn_id,
        event_type="m.room.message",
        content={"body": "which?"},
        priority=Priority.FINAL,
    )
    poll = replace(
        question,
        txn_id=sibling_txn_id(approval.txn_id, POLL_PART),
        event_type=POLL_START,
        content=build_poll(approval) or {},
    )
    return [question, poll]


async def ask(store: Store, subject: str = "t1:x:0") -> Approval:
    new = NewApproval(
        room_id=ROOM,
        kind=ApprovalKind.QUESTION,
        subject=subject,
        wanted_by="which?",
        turn_id=TurnId("t1"),
        expires_at=600.0,
        details=ToolDetails(what="which?", options=("a", "b")),
    )
    approval = await store.approvals.ask_once(new, asking_rows, most_open=8, now=0.0)
    assert approval is not None
    return approval


async def attempt(store: Store) -> OutboxRow:
    """The room's next row is on its way."""
    (row,) = await store.outbox.outbox_heads(now=math.inf, limit=1)
    assert await store.outbox.mark_attempt(row.seq, row.room_id, now=1.0)
    return row


async def send(store: Store, event_id: str) -> JsonObject:
    """The room's next row is sent; its content."""
    row = await attempt(store)
    await store.outbox.mark_sent(row.seq, EventId(event_id), now=1.0)
    return row.content


async def refuse(store: Store, approval: Approval, event_id: str = "$no") -> None:
    """Somebody answers with a no."""
    row = NewInboxRow(kind=InboxKind.TIMELINE, room_id=ROOM, event_id=EventId(event_id), raw="{}")
    await store.inbox.commit_sync([row], event_id, now=1.0)
    seq = (await store.inbox.new_seqs(after=0, limit=1000))[-1][0]
    answer = Answer(event=ApprovalEvent.REFUSED)
    assert await store.approvals.decide(seq, approval, answer, lambda _: [], by=ALICE, now=2.0)


async def waiting(store: Store) -> list[tuple[str, RoomId, str | None]]:
    """Type, room and named poll of all that waits, in order."""

    def work(db: object) -> list[tuple[str, RoomId, str | None]]:
        query = (
            "SELECT event_type, room_id, json_extract(content, '$.\"m.relates_to\".event_id') "
            "FROM outbox WHERE state = 'queued' ORDER BY seq"
        )
        return list(db.execute(query))  # type: ignore[attr-defined]

    return await store.database.run(work)


async def test_question_and_poll_are_found_by_their_events_and_only_the_poll_as_one(
    store: Store,
) -> None:
    approval = await ask(store)
    await send(store, "$question")
    await send(store, "$poll")
    for event_id in ("$question", "$poll"):
        found = await store.approvals.find(ROOM, EventId(event_id))
        assert found is not None
        assert (found.approval_id, found.event_id) == (approval.approval_id, "$question")
    assert await store.approvals.find_by_poll(ROOM, EventId("$poll")) is not None
    assert await store.approvals.find_by_poll(ROOM, EventId("$question")) is None
    assert await store.approvals.find_by_poll(NEW, EventId("$poll")) is None


async def test_a_poll_on_its_way_may_have_an_event_that_is_not_known(store: Store) -> None:
    await ask(store)
    assert not await store.approvals.is_sending(ROOM)
    await send(store, "$question")
    assert not await store.approvals.is_sending(ROOM)
    row = await attempt(store)
    assert await store.approvals.is_sending(ROOM)
    await store.outbox.mark_sent(row.seq, EventId("$poll"), now=1.0)
    assert not await store.approvals.is_sending(ROOM)


async def test_the_end_names_a_poll_that_is_sent_at_once(store: Store) -> None:
    approval = await ask(store)
    await send(store, "$question")
    await send(store, "$poll")
    await refuse(store, approval)
    assert await waiting(store) == [(POLL_END, ROOM, "$poll")]
    assert POLL_END in await send(store, "$end")


async def test_the_end_of_a_poll_on_its_way_names_it_then_or_is_forgotten_with_it(
    store: Store,
) -> None:
    for number, is_refused in enumerate((False, True)):
        approval = await ask(store, f"t1:x:{number}")
        await send(store, f"$question{number}")
        row = await attempt(store)
        await refuse(store, approval, f"$no{number}")
        assert await waiting(store) == [(POLL_START, ROOM, None), (POLL_END, ROOM, None)]
        if is_refused:
            await store.outbox.mark_refused(row.seq, reason="M_BAD_JSON", now=2.0)
            assert await waiting(store) == []
        else:
            await store.outbox.mark_sent(row.seq, EventId("$poll"), now=2.0)
            assert await waiting(store) == [(POLL_END, ROOM, "$poll")]
            await send(store, "$end")


async def test_a_poll_that_has_not_left_is_taken_back(store: Store) -> None:
    approval = await ask(store)
    await send(store, "$question")
    await refuse(store, approval)
    assert await waiting(store) == []


async def test_a_restore_closes_a_poll_and_a_room_that_is_left_gets_no_more_of_it(
    store: Store,
) -> None:
    await ask(store)
    await send(store, "$question")
    await send(store, "$poll")
    await store.database.run(lambda db: withdraw_all(db, now=1.0))
    assert await waiting(store) == [(POLL_END, ROOM, "$poll")]
    await send(store, "$end")
    await ask(store, "t1:x:1")
    await send(store, "$question1")
    await store.approvals.end_room(ROOM, now=2.0)
    assert await waiting(store) == []


async def test_what_closes_a_poll_stays_in_the_room_that_is_replaced(store: Store) -> None:
    approval = await ask(store)
    await send(store, "$question")
    await send(store, "$poll")
    await refuse(store, approval)
    await ask(store, "t1:x:1")
    await store.rooms.ensure(NEW, joined=True)
    await store.rooms.note_replaced_by(ROOM, NEW, now=1000.0)
    await store.rooms.note_replaces(NEW, ROOM)
    assert await store.move_room(Replacement(old=ROOM, new=NEW), [], now=1001.0)
    assert await waiting(store) == [(POLL_END, ROOM, "$poll")]
    row = await attempt(store)
    await store.outbox.mark_refused(row.seq, reason="M_FORBIDDEN", now=1002.0)
    assert await waiting(store) == []
