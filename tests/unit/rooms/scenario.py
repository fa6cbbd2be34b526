"""What the tests of the rooms share: how a scenario runs, and what a turn can do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.accounting import account
from orchestrator.core.evidence import SeenEvent
from orchestrator.core.verdict import Finding
from orchestrator.model import EventId, TurnState
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.snapshot import read_snapshot
from tests.support.memory_claude import Turn
from tests.support.room_rig import Life, Rig, open_rig, run_rooms

Test = Callable[[Rig], Coroutine[Any, Any, None]]


def run(folder: Path, test: Test, **sections: Any) -> None:
    async def main() -> None:
        async with open_rig(folder, **sections) as rig:
            await test(rig)

    run_rooms(main())


async def hang(turn: Turn) -> None:
    turn.text("working")
    await asyncio.Event().wait()


async def hang_for_ever(turn: Turn) -> None:
    turn.ignores_interrupt = True
    turn.process.is_deaf = True
    await hang(turn)


def works_for(seconds: float) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    async def script(turn: Turn) -> None:
        turn.text("begun")
        await asyncio.sleep(seconds)
        turn.text("finished")
        turn.result("finished")

    return script


def works_in_steps(steps: int, seconds: float) -> Callable[[Turn], Coroutine[Any, Any, None]]:
    async def script(turn: Turn) -> None:
        turn.text("begun")
        for number in range(steps):
            await asyncio.sleep(seconds)
            turn.text(f"step {number}")
        turn.text("finished")
        turn.result("finished")

    return script


def audit(folder: Path, events: Sequence[SeenEvent] = ()) -> tuple[Finding, ...]:
    """What an audit finds of messages without an end, or with two; `events` of the homeserver."""
    evidence = replace(read_snapshot(folder / DATABASE_NAME).evidence, events=events)
    return account(evidence, now=evidence.inbox[0].received_at).findings


async def tell(rig: Rig, life: Life, text: str, *, thread: str | None = None) -> EventId:
    """Somebody says it in the room, or in one of its threads."""
    event_id = await rig.receive(text, thread=thread)
    life.notify()
    return event_id


async def running(rig: Rig) -> int:
    """How many turns the runner works on."""
    return sum(turn.state is TurnState.RUNNING for turn in await rig.turns())


async def wait_running(rig: Rig, count: int = 1) -> None:
    async def are() -> bool:
        return await running(rig) == count

    await rig.wait(are)


async def crash_or_end(rig: Rig, life: Life, *, ends: int) -> int:
    """Until the life ends at its step, or the room has read so many ends; the steps it passed."""

    async def is_over() -> bool:
        return life.points.crashed.is_set() or len(await rig.outcomes()) == ends

    await rig.wait(is_over)
    return life.points.count
