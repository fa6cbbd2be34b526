"""The store's transactions, on a real SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.going_on import GoOn
from orchestrator.core.lifecycle import TurnEvent
from orchestrator.core.thread import MAIN
from orchestrator.errors import (
    IllegalTransitionError,
    PreconditionError,
    StoreCorruptError,
    StoreError,
    StoreTooNewError,
)
from orchestrator.model import (
    Epoch,
    EventId,
    Priority,
    RoomId,
    Seq,
    SessionId,
    TurnId,
    TurnOutcome,
    TurnState,
    TxnId,
    UserId,
)
from orchestrator.store.api import (
    InboxKind,
    InboxState,
    NewInboxRow,
    NewOutboxRow,
    SessionRow,
    TurnRow,
)
from orchestrator.store.database import hold_state_dir
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.store import Once, Store, open_store
from orchestrator.store.turn_table import Acked, NewTurn
from tests.support.inbox import new_rows

ROOM = RoomId("!room:example.org")
OTHER = RoomId("!other:example.org")
ALICE = UserId("@alice:example.org")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        yield store


def event(name: str, *, room: RoomId = ROOM, history: bool = False) -> NewInboxRow:
    return NewInboxRow(
        kind=InboxKind.TIMELINE,
        room_id=room,
        event_id=EventId(f"${name}"),
        raw=f'{{"body": "{name}"}}',
        history=history,
    )


def message(name: str, *, room: RoomId = ROOM, priority: Priority = Priority.TEXT) -> NewOutboxRow:
    return NewOutboxRow(
        room_id=room,
        txn_id=TxnId(name),
        event_type="m.room.message",
        content={"body": name},
        priority=priority,
    )


async def admit(store: Store, name: str, *, max_queued: int = 20, now: float = 1.0) -> TurnRow:
    await store.inbox.commit_sync([event(name)], f"after-{name}", now=now)
    rows = await new_rows(store)
    seq = next(row.seq for row in rows if row.event_id == f"${name}")
    turn = NewTurn(
        turn_id=TurnId(f"t-{name}"),
        room_id=ROOM,
        session="main",
        prompt=name,
        sender=ALICE,
        asked=(EventId(f"${name}"),),
        inbox=(seq,),
    )
    return await store.turns.admit(
        turn,
        max_queued=max_queued,
        notices=lambda row, ahead: [message(f"{row.turn_id}-{row.state}-{ahead}")],
        now=now,
    )


async def test_events_and_token_are_stored_together_and_an_answer_may_come_twice(
    store: Store,
) -> None:
    assert await store.inbox.sync_token() is None
    rows = [event("a"), event("b"), event("old", history=True)]
    assert await store.inbox.commit_sync(rows, "s1", now=1.0) == 3
    assert await store.inbox.commit_sync(rows, "s1", now=2.0) == 0
    assert await store.inbox.sync_token() == "s1"
    new = await new_rows(store)
    assert [row.event_id for row in new] == ["$a", "$b"]
    assert [row.event_id for row in await new_rows(store, after=new[0].seq)] == ["$b"]


async def test_a_handled_event_keeps_its_id_and_a_handled_key_is_gone(store: Store) -> None:
    key = NewInboxRow(kind=InboxKind.TO_DEVICE, room_id=None, event_id=None, raw="{}")
    await store.inbox.commit_sync([event("a"), key], "s1", now=1.0)
    for row in await new_rows(store):
        await store.inbox.mark(row.seq, InboxState.IGNORED, reason="test")
    assert await new_rows(store) == []
    assert await store.inbox.commit_sync([event("a"), key], "s2", now=2.0) == 1


async def test_an_event_that_waits_for_its_key_is_found_again(store: Store) -> None:
    await store.inbox.commit_sync([event("a")], "s1", now=1.0)
    (row,) = await new_rows(store)
    await store.inbox.mark(row.seq, InboxState.PENDING_KEYS, reason="no key")
    assert await new_rows(store) == []
    assert [pending.event_id for pending in await store.inbox.pending_keys()] == ["$a"]


async def test_a_turn_uses_up_its_messages_and_is_admitted_once(store: Store) -> None:
    first = await admit(store, "a")
    assert first.state is TurnState.QUEUED
    assert await new_rows(store) == []
    again = await store.turns.admit(
        NewTurn(
            turn_id=first.turn_id,
            room_id=ROOM,
            session="main",
            prompt="something else",
            sender=ALICE,
            asked=first.asked,
            inbox=(1,),
        ),
        max_queued=20,
        notices=lambda *_: [],
        now=2.0,
    )
    assert again == first


async def test_a_full_queue_refuses_a_turn_and_says_so_in_the_same_transaction(
    store: Store,
) -> None:
    rows = [await admit(store, name, max_queued=2) for name in "abcd"]
    assert [row.state for row in rows] == ["queued", "queued", "queued", "ended"]
    assert rows[3].outcome is TurnOutcome.REFUSED
    (head,) = await store.outbox.outbox_heads(now=10.0, limit=10)
    assert head.txn_id == "t-a-queued-0"
    assert await store.outbox.waiting() == 4
    assert await new_rows(store) == []


async def test_turns_are_taken_in_the_order_of_their_first_message(store: Store) -> None:
    for name in "abc":
        await admit(store, name)
    assert [turn.prompt for turn in await store.turns.open_turns(ROOM)] == ["a", "b", "c"]
    assert await store.turns.open_turns(OTHER) == []


async def test_a_move_and_what_comes_with_it_are_one_transaction(store: Store) -> None:
    turn = await admit(store, "a")
    await store.turns.new_generation(ROOM)
    await store.turns.advance(turn.turn_id, TurnEvent.OFFERED, epoch=Epoch("e1"), now=2.0)
    await store.turns.advance(turn.turn_id, TurnEvent.APPLIED, now=2.5)
    acked = Acked(room_id=ROOM, epoch=Epoch("e1"), seq=Seq(7))
    row = await store.turns.advance(
        turn.turn_id, None, rows=[message("m1"), message("m2")], acked=acked, now=3.0
    )
    assert (row.state, row.epoch, row.parts, row.started_at) == ("running", "e1", 2, 2.0)
    assert (await store.turns.runner(ROOM)).acked == 7

    with pytest.raises(IllegalTransitionError):
        await store.turns.advance(
            turn.turn_id, TurnEvent.OFFERED, rows=[message("m3")], now=4.0, epoch=Epoch("e2")
        )
    unchanged = await store.turns.get(turn.turn_id)
    assert unchanged == row
    assert await store.outbox.waiting() == 3


async def test_an_end_needs_an_outcome_and_an_outcome_needs_an_end(store: Store) -> None:
    turn = await admit(store, "a")
    with pytest.raises(StoreError):
        await store.turns.advance(turn.turn_id, TurnEvent.ENDED, now=2.0)
    with pytest.raises(StoreError):
        await store.turns.advance(
            turn.turn_id, TurnEvent.OFFERED, outcome=TurnOutcome.DONE, now=2.0
        )
    ended = await store.turns.advance(
        turn.turn_id, TurnEvent.ENDED, outcome=TurnOutcome.DONE, now=2.0
    )
    assert (ended.state, ended.outcome, ended.ended_at) == ("ended", "done", 2.0)
    assert await store.turns.open_turns() == []


async def test_acknowledgements_never_go_back_within_an_epoch(store: Store) -> None:
    await store.turns.new_generation(ROOM)
    for seq in (5, 3):
        await store.turns.store_acked(Acked(room_id=ROOM, epoch=Epoch("e1"), seq=Seq(seq)))
    assert (await store.turns.runner(ROOM)).acked == 5
    await store.turns.store_acked(Acked(room_id=ROOM, epoch=Epoch("e2"), seq=Seq(1)))
    runner = await store.turns.runner(ROOM)
    assert (runner.epoch, runner.acked) == ("e2", 1)
    assert await store.turns.new_generation(ROOM) == 2
    assert (await store.turns.runner(ROOM)).epoch is None


async def test_a_session_dropped_in_mid_turn_is_not_brought_back_by_the_turns_end(
    store: Store,
) -> None:
    turn = await admit(store, "a")
    session = SessionRow(room_id=ROOM, session="main", session_id=SessionId("s-1"), resumable=False)
    await store.sessions.put(session)
    await store.begin_anew(1, ROOM, "main", [], now=1.0)
    await store.turns.advance(
        turn.turn_id,
        TurnEvent.ENDED,
        outcome=TurnOutcome.DONE,
        seen_by=session.session_id,
        now=2.0,
    )
    assert await store.sessions.get(ROOM, "main") is None


async def test_a_session_is_resumable_once_it_has_seen_a_message(store: Store) -> None:
    turn = await admit(store, "a")
    session = SessionRow(room_id=ROOM, session="main", session_id=SessionId("s-1"), resumable=False)
    await store.sessions.put(session)
    await store.turns.advance(
        turn.turn_id,
        TurnEvent.ENDED,
        outcome=TurnOutcome.DONE,
        seen_by=session.session_id,
        now=2.0,
    )
    stored = await store.sessions.get(ROOM, "main")
    assert stored is not None
    assert stored.resumable


async def test_only_the_first_unsent_message_of_a_room_is_offered(store: Store) -> None:
    await store.outbox.add([message("a1"), message("a2", priority=Priority.FINAL)], now=1.0)
    await store.outbox.add([message("b1", room=OTHER, priority=Priority.FINAL)], now=2.0)
    heads = await store.outbox.outbox_heads(now=5.0, limit=10)
    assert [head.txn_id for head in heads] == ["a1", "b1"]

    await store.outbox.mark_attempt(heads[0].seq, heads[0].room_id, now=5.0)
    await store.outbox.mark_retry(heads[0].seq, not_before=9.0)
    assert [h.txn_id for h in await store.outbox.outbox_heads(now=5.0, limit=10)] == ["b1"]
    await store.outbox.mark_sent(heads[1].seq, EventId("$sent"), now=6.0)
    assert await store.outbox.next_outbox_at() == 9.0
    (again,) = await store.outbox.outbox_heads(now=9.0, limit=10)
    assert (again.txn_id, again.attempts) == ("a1", 1)
    await store.outbox.mark_refused(again.seq, reason="M_FORBIDDEN", now=9.0)
    assert [h.txn_id for h in await store.outbox.outbox_heads(now=9.0, limit=10)] == ["a2"]


async def test_the_same_transaction_id_is_stored_once(store: Store) -> None:
    await store.outbox.add([message("a1")], now=1.0)
    await store.outbox.add([message("a1")], now=2.0)
    assert await store.outbox.waiting() == 1


async def test_rooms_are_numbered_once_and_remember_what_they_are_told(store: Store) -> None:
    first = await store.rooms.ensure(ROOM, joined=True)
    second = await store.rooms.ensure(OTHER, joined=True)
    assert (first.index, second.index) == (0, 1)
    await store.rooms.update(ROOM, encrypted=True, name="Ops", joined_members=3)
    await store.rooms.update(ROOM, encrypted=False, alias="#ops:example.org")
    again = await store.rooms.ensure(ROOM, joined=False)
    assert (again.index, again.encrypted, again.name, again.joined_members, again.joined) == (
        0,
        True,
        "Ops",
        3,
        False,
    )
    assert await store.inbox.known_rooms() == {ROOM: False, OTHER: True}


async def test_something_is_told_once_to_somebody_in_a_room(store: Store) -> None:
    waiting = []
    for number, room_id in enumerate([ROOM, ROOM, OTHER]):
        told, once = (
            message(f"x{number}", room=room_id),
            Once(room_id=room_id, user_id=ALICE, what="denied"),
        )
        await store.answer(number, [told], reason="denied", now=1, once=once)
        waiting.append(await store.outbox.waiting())
    assert waiting == [1, 1, 2]


async def test_an_installation_keeps_its_identity(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = await store.rooms.installation()
    async with open_store(tmp_path) as store:
        assert await store.rooms.installation() == first


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNewError, match="newer version"):
        async with open_store(tmp_path):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no database", "flipped page"])
async def test_a_damaged_database_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.sqlite3"
    if damage == "no database":
        path.write_bytes(b"this is no database, by any means" * 100)
    else:
        async with open_store(tmp_path) as store:
            await store.inbox.commit_sync([event(f"e{i}") for i in range(500)], "s1", now=1.0)
        data = bytearray(path.read_bytes())
        for start in range(8192, len(data), 4096):
            data[start : start + 64] = b"\xff" * 64
        path.write_bytes(data)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError):
        async with open_store(tmp_path):
            pass
    assert path.read_bytes() == before


def test_a_state_directory_is_used_by_one_orchestrator_at_a_time(tmp_path: Path) -> None:
    with (
        hold_state_dir(tmp_path / "state"),
        pytest.raises(PreconditionError, match="another orchestrator"),
        hold_state_dir(tmp_path / "state"),
    ):
        pass
    with hold_state_dir(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


async def test_an_answer_behind_progress_takes_its_room_to_the_front(store: Store) -> None:
    await store.outbox.add([message("a1")], now=1.0)
    await store.outbox.add([message("b1", room=OTHER)], now=2.0)
    await store.outbox.add([message("b2", room=OTHER, priority=Priority.FINAL)], now=3.0)
    heads = await store.outbox.outbox_heads(now=5.0, limit=10)
    assert [head.txn_id for head in heads] == ["b1", "a1"]


async def test_answers_leave_in_the_order_in_which_their_turns_ended_and_before_all_else(
    store: Store,
) -> None:
    rooms = {name: RoomId(f"!{name}:x") for name in "abcde"}
    text, notice, final = Priority.TEXT, Priority.NOTICE, Priority.FINAL
    said = [text, text, notice, notice, final, final, final, text]
    for at, (name, priority) in enumerate(zip("abcddbea", said, strict=True)):
        row = message(f"{name}{at}", room=rooms[name], priority=priority)
        await store.outbox.add([row], now=10.0 + at)
    left = []
    while heads := await store.outbox.outbox_heads(now=20.0, limit=10):
        left.append(heads[0].txn_id)
        await store.outbox.mark_sent(heads[0].seq, EventId("$e"), now=20.0)
    assert left == ["d3", "d4", "b1", "b5", "e6", "c2", "a0", "a7"]


async def test_what_has_waited_for_a_minute_goes_before_newer_answers(store: Store) -> None:
    await store.outbox.add([message("old")], now=10.0)
    await store.outbox.add([message("new", room=OTHER, priority=Priority.FINAL)], now=60.0)
    first = [h.txn_id for h in await store.outbox.outbox_heads(now=69.0, limit=1)]
    later = [h.txn_id for h in await store.outbox.outbox_heads(now=71.0, limit=1)]
    assert (first, later) == (["new"], ["old"])


async def test_what_waits_to_be_sent_is_counted_without_rooms_that_cannot_be_sent_to(
    store: Store,
) -> None:
    third = RoomId("!third:x")
    await store.outbox.add([message("a1"), message("a2")], now=1.0)
    await store.outbox.add([message("b1", room=OTHER), message("b2", room=OTHER)], now=1.0)
    assert await store.outbox.waiting_now(third, now=2.0) == 4
    (head, _) = await store.outbox.outbox_heads(now=2.0, limit=2)
    await store.outbox.mark_retry(head.seq, not_before=50.0)
    assert await store.outbox.waiting_now(third, now=2.0) == 2
    assert await store.outbox.waiting_now(head.room_id, now=2.0) == 4
    assert await store.outbox.waiting_now(third, now=50.0) == 4


async def test_a_file_is_kept_until_its_payload_names_it(store: Store) -> None:
    await store.outbox.add([replace(message("f"), file=b"data"), message("g")], now=1.0)
    (head,) = await store.outbox.outbox_heads(now=2.0, limit=9)
    assert head.has_file
    assert await store.outbox.file(head.seq) == b"data"
    await store.outbox.store_uploaded(head.seq, {"url": "mxc://x/y"})
    (head,) = await store.outbox.outbox_heads(now=2.0, limit=9)
    assert (head.has_file, head.content) == (False, {"url": "mxc://x/y"})
    assert await store.outbox.file(head.seq) is None


async def test_a_refused_or_dropped_file_is_forgotten(store: Store) -> None:
    rows = [replace(message(f"f{i}"), file=b"data") for i in range(2)]
    await store.outbox.add(rows, now=1.0)
    (head,) = await store.outbox.outbox_heads(now=2.0, limit=9)
    await store.outbox.mark_refused(head.seq, reason="M_TOO_LARGE", now=2.0)
    await store.outbox.drop_room(ROOM, reason="left", now=2.0)
    left = await store.database.run(
        lambda db: db.execute("SELECT count(file) FROM outbox").fetchone()[0]
    )
    assert left == 0


async def test_kept_text_grows_by_paragraphs_and_is_gone_when_rows_have_it(store: Store) -> None:
    turn = await admit(store, "a")
    for text in ("one", "two"):
        turn = await store.turns.advance(turn.turn_id, None, keep=text, now=2.0)
    assert turn.draft_chars == len("one\n\ntwo")
    assert await store.turns.draft(turn.turn_id) == "one\n\ntwo"
    rows = [message("one two")]
    turn = await store.turns.advance(turn.turn_id, None, rows=rows, drop_draft=True, now=3.0)
    assert (turn.draft_chars, turn.parts) == (0, 1)
    assert await store.turns.draft(turn.turn_id) == ""
    assert await store.turns.draft(TurnId("unknown")) == ""


async def test_of_a_handled_event_only_the_id_is_kept(store: Store, tmp_path: Path) -> None:
    await admit(store, "canary-in-a-turn")
    await store.inbox.commit_sync([event("b"), event("c")], "s2", now=1.0)
    ignored, failed = await new_rows(store)
    await store.inbox.mark(ignored.seq, InboxState.IGNORED, reason="test")
    await store.inbox.mark(failed.seq, InboxState.FAILED, reason="test")
    with sqlite3.connect(tmp_path / "state.sqlite3") as connection:
        rows = connection.execute("SELECT raw <> '' FROM inbox ORDER BY seq").fetchall()
    connection.close()
    assert rows == [(0,), (0,), (1,)]


async def test_a_device_is_known_since_it_was_first_used(store: Store) -> None:
    assert await store.meta.device_since("ONE", now=5.0) == 5.0
    assert await store.meta.device_since("ONE", now=6.0) == 5.0
    assert await store.meta.device_since("TWO", now=7.0) == 7.0
    assert await store.meta.device_since("TWO", now=8.0) == 7.0


async def test_a_cancel_that_came_just_before_an_interruption_is_the_next_turns_too(
    store: Store,
) -> None:
    turn = await admit(store, "a")
    await store.cancel(100, ROOM, MAIN, EventId("$cancel"), lambda _: [], now=2.0)
    await store.turns.advance(
        turn.turn_id,
        TurnEvent.ENDED,
        outcome=TurnOutcome.INTERRUPTED,
        go_on=GoOn(resumes=1),
        now=3.0,
    )
    (continued,) = await store.turns.open_turns(ROOM)
    assert (continued.continues, continued.cancelled_by) == (turn.turn_id, "$cancel")
