"""The gate of inbound windows, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.errors import StoreCorruptError
from orchestrator.gateway.clock import SteadyClock
from orchestrator.gateway.inbound import CLOSE_TIMEOUT_S, MAX_WINDOWS_PER_ROOM, InboundGate
from orchestrator.model import RoomId, UserId
from tests.support.virtual_time import loop_clock, run_virtual

A, B = RoomId("!a"), RoomId("!b")
ALICE, BOB = UserId("@alice:x"), UserId("@bob:x")


@dataclass(slots=True)
class Turns:
    """What was closed, and when in seconds after the start; raises what `failing` holds."""

    began: float = field(default_factory=loop_clock)
    closed: list[tuple[float, str, str, tuple[str, ...]]] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    calls: int = 0

    async def close(self, room: RoomId, sender: UserId, items: tuple[str, ...]) -> None:
        self.calls += 1
        if room in self.hanging:
            await asyncio.Event().wait()
        if room in self.failing:
            raise self.failing[room]
        self.closed.append((round(loop_clock() - self.began, 2), room, sender[1:2], items))


def make_gate(turns: Turns) -> InboundGate[str]:
    return InboundGate(turns.close, quiet_s=0.25, window_s=2.0, clock=loop_clock)


@contextlib.asynccontextmanager
async def running(gate: InboundGate[str]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(gate.run())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    run.__name__ = test.__name__
    return run


@virtual
async def test_a_burst_of_three_becomes_one_turn() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        for item in ("1", "2", "3"):
            assert gate.add(A, ALICE, item)
            await asyncio.sleep(0.1)
        await asyncio.sleep(5)
    assert turns.closed == [(0.45, A, "a", ("1", "2", "3"))]
    assert repr(gate) == "InboundGate(0 windows in 0 rooms)"


@virtual
async def test_messages_apart_become_turns_of_their_own() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        await asyncio.sleep(1)
        gate.add(A, ALICE, "2")
        await asyncio.sleep(1)
    assert [items for *_, items in turns.closed] == [("1",), ("2",)]


@virtual
async def test_rooms_and_senders_have_windows_of_their_own() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        gate.add(B, ALICE, "2")
        gate.add(A, BOB, "3")
        await asyncio.sleep(1)
    assert sorted(turns.closed) == [
        (0.25, A, "a", ("1",)),
        (0.25, A, "b", ("3",)),
        (0.25, B, "a", ("2",)),
    ]


@virtual
async def test_of_two_overlapping_windows_the_one_that_opened_first_closes_first() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        gate.typing(A, [ALICE])
        gate.add(A, ALICE, "1")
        await asyncio.sleep(0.5)
        gate.add(A, BOB, "2")
        await asyncio.sleep(1)
        gate.add(A, BOB, "3")
        await asyncio.sleep(5)
    assert turns.closed == [(2.0, A, "a", ("1",)), (2.0, A, "b", ("2", "3"))]


@virtual
async def test_typing_holds_a_window_open_until_it_ends() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        gate.typing(A, [ALICE, BOB])
        await asyncio.sleep(1)
        gate.typing(A, [BOB])
        await asyncio.sleep(5)
    assert turns.closed == [(1.25, A, "a", ("1",))]


@virtual
async def test_who_was_typing_before_the_first_message_still_is() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        gate.typing(A, [ALICE])
        gate.add(A, ALICE, "1")
        gate.add(B, ALICE, "2")
        await asyncio.sleep(5)
        gate.typing(A, [])
        gate.add(A, ALICE, "3")
        await asyncio.sleep(5)
    assert turns.closed == [
        (0.25, B, "a", ("2",)),
        (2.0, A, "a", ("1",)),
        (5.25, A, "a", ("3",)),
    ]


@virtual
async def test_a_flood_is_cut_into_full_windows_that_close_at_once_and_in_order() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        for i in range(120):
            gate.add(A, ALICE, str(i))
        await asyncio.sleep(1)
    assert [(at, len(items)) for at, _, _, items in turns.closed] == [(0, 50), (0, 50), (0.25, 20)]
    assert [i for *_, items in turns.closed for i in items] == [str(i) for i in range(120)]


@virtual
async def test_a_failing_room_is_tried_again_and_delays_no_other() -> None:
    turns = Turns(failing={A: KeyError("secret text")})
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        await asyncio.sleep(0.5)
        gate.add(A, ALICE, "2")
        gate.add(B, ALICE, "3")
        await asyncio.sleep(1)
        assert turns.closed == [(0.75, B, "a", ("3",))]
        await asyncio.sleep(600)
        assert turns.calls <= 20
        turns.failing.clear()
        await asyncio.sleep(61)
    assert [items for _, room, _, items in turns.closed if room == A] == [("1",), ("2",)]


@virtual
async def test_a_close_that_hangs_is_cut_off_and_tried_again() -> None:
    turns = Turns(hanging={A})
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        await asyncio.sleep(1)
        gate.add(B, ALICE, "2")
        await asyncio.sleep(CLOSE_TIMEOUT_S)
        assert [items for *_, items in turns.closed] == [("2",)]
        turns.hanging.clear()
        await asyncio.sleep(5)
    assert [items for *_, items in turns.closed] == [("2",), ("1",)]


@virtual
async def test_messages_that_arrive_while_their_window_is_closing_make_the_next_turn() -> None:
    turns = Turns(failing={A: RuntimeError()})
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        await asyncio.sleep(0.5)
        gate.add(A, ALICE, "2")
        gate.add(A, ALICE, "3")
        turns.failing.clear()
        await asyncio.sleep(5)
    assert [items for *_, items in turns.closed] == [("1",), ("2", "3")]


@virtual
async def test_a_damaged_database_ends_the_gate() -> None:
    turns = Turns(failing={A: StoreCorruptError()})
    gate = make_gate(turns)
    gate.add(A, ALICE, "1")
    with pytest.raises(StoreCorruptError):
        await gate.run()


@virtual
async def test_a_room_that_cannot_be_closed_takes_a_bounded_number_of_windows() -> None:
    gate = make_gate(Turns(failing={A: RuntimeError()}))
    async with running(gate):
        taken = [gate.add(A, UserId(f"@{i}:x"), "x") for i in range(MAX_WINDOWS_PER_ROOM + 3)]
        assert taken == [True] * MAX_WINDOWS_PER_ROOM + [False] * 3
        assert gate.add(B, ALICE, "y")


@virtual
async def test_a_cancelled_gate_keeps_what_it_was_closing() -> None:
    turns = Turns(hanging={A})
    gate = make_gate(turns)
    async with running(gate):
        gate.add(A, ALICE, "1")
        await asyncio.sleep(1)
    turns.hanging.clear()
    assert await gate.flush() == 0
    assert [items for *_, items in turns.closed] == [("1",)]


@virtual
async def test_a_flush_closes_every_window_at_once() -> None:
    turns = Turns()
    gate = make_gate(turns)
    async with running(gate):
        gate.typing(A, [ALICE])
        gate.add(A, ALICE, "1")
        gate.add(A, BOB, "2")
        gate.add(B, ALICE, "3")
        assert await gate.flush() == 0
        assert len(turns.closed) == 3
        await asyncio.sleep(5)
    assert turns.calls == 3


@virtual
async def test_a_flush_counts_what_it_could_not_close_and_keeps_the_order() -> None:
    turns = Turns(failing={A: RuntimeError()})
    gate = make_gate(turns)
    gate.add(A, ALICE, "1")
    gate.add(A, BOB, "2")
    gate.add(B, ALICE, "3")
    assert await gate.flush() == 2
    assert turns.calls == 2
    turns.failing.clear()
    assert await gate.flush() == 0
    assert [items for *_, items in turns.closed] == [("3",), ("1",), ("2",)]


def test_the_steady_clock_ignores_corrections_of_the_wall_clock() -> None:
    wall, monotonic = [1000.0], [5.0]
    clock = SteadyClock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    assert clock() == 1000.0
    wall[0] -= 3600
    monotonic[0] += 2
    assert clock() == 1002.0
