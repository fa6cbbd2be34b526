"""Refused turns: told, or collected until one mark names them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.core.naming import turn_id
from orchestrator.model import EventId, RoomId, TurnOutcome, TurnState, UserId
from orchestrator.store.api import TurnRow
from orchestrator.store.store import Store, open_store
from orchestrator.store.turn_table import NewTurn, Refusal
from tests.support.inbox import new_rows
from tests.unit.store.test_store import OTHER, ROOM, event, message


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        yield store


async def new_turn(store: Store, name: str, *, room: RoomId = ROOM) -> NewTurn:
    await store.inbox.commit_sync([event(name, room=room)], f"after-{name}", now=1.0)
    (seq,) = [r.seq for r in await new_rows(store) if r.event_id == f"${name}"]
    return NewTurn(
        turn_id=turn_id(room, EventId(f"${name}")),
        room_id=room,
        session="main",
        prompt=name,
        sender=UserId("@alice:example.org"),
        asked=(EventId(f"${name}"),),
        inbox=(seq,),
    )


def told(text: str) -> Refusal:
    return Refusal(reason="too fast", notices=lambda _: [message(text)])


def collected(reason: str = "too fast", *, max_asked_chars: int = 1000) -> Refusal:
    return Refusal(reason=reason, notices=None, max_asked_chars=max_asked_chars)


async def collect(store: Store, *names: str, room: RoomId = ROOM, now: float = 1.0) -> TurnRow:
    for name in names:
        turn = await new_turn(store, name, room=room)
        row = await store.turns.refuse(turn, collected(), now=now)
        assert await store.turns.refuse(turn, collected(), now=now + 1) == row
    return row


async def test_what_is_refused_with_words_is_an_end_of_its_own(store: Store) -> None:
    row = await store.turns.refuse(await new_turn(store, "a"), told("no"), now=1.0)
    assert (row.state, row.outcome, row.reason) == (
        TurnState.ENDED,
        TurnOutcome.REFUSED,
        "too fast",
    )
    assert await store.turns.unmarked(until=9.0) == []
    assert await store.outbox.waiting() == 1
    assert await new_rows(store) == []


async def test_what_is_refused_silently_is_one_turn_that_names_all_and_repeats_add_nothing(
    store: Store,
) -> None:
    row = await collect(store, "a", "b", "c")
    assert row.asked == ("$a", "$b", "$c")
    assert [t.asked for t in await store.turns.unmarked(until=9.0)] == [row.asked]
    assert await store.turns.unmarked(until=0.5) == []
    assert store.turns.ended == {TurnOutcome.REFUSED: 1}
    assert await new_rows(store) == []


async def test_a_mark_ends_the_collecting_and_the_next_one_begins_another(store: Store) -> None:
    row = await collect(store, "a", "b")
    await store.turns.advance(row.turn_id, None, rows=[message("mark")], now=2.0)
    assert await store.turns.unmarked(until=9.0) == []
    again = await collect(store, "c")
    assert (again.asked, again.turn_id == row.turn_id) == (("$c",), False)


async def test_a_mark_waits_while_its_room_has_something_to_be_sent(store: Store) -> None:
    await collect(store, "a")
    row = await collect(store, "b", room=OTHER)
    await store.outbox.add([message("answer")], now=1.0)
    assert [t.turn_id for t in await store.turns.unmarked(until=9.0)] == [row.turn_id]


async def test_a_turn_that_names_as_many_as_fit_takes_no_more(store: Store) -> None:
    for i in range(100):
        turn = await new_turn(store, f"event-{i:03}")
        await store.turns.refuse(turn, collected(max_asked_chars=200), now=1.0)
    named: list[str] = []
    while unmarked := await store.turns.unmarked(until=9.0):
        (row,) = unmarked
        assert len(row.asked) < 20
        named += row.asked
        await store.turns.advance(row.turn_id, None, rows=[message(row.turn_id)], now=2.0)
        (head,) = await store.outbox.outbox_heads(now=9.0, limit=1)
        await store.outbox.mark_sent(head.seq, EventId("$x"), now=3.0)
    assert named == [f"$event-{i:03}" for i in range(100)]


async def test_a_turn_that_collects_takes_in_what_is_refused_for_its_own_reason_alone(
    store: Store,
) -> None:
    await collect(store, "a")
    row = await store.turns.refuse(await new_turn(store, "b"), collected("queue"), now=1.0)
    assert row.asked == ("$b",)
