"""Turns whose time has come: each once, in the name of whoever made the schedule.

Rules:
- a schedule becomes a turn in the transaction that puts it off to its next time;
- what was missed by more than some minutes is told once, and not made up for: after a night without
  power nobody wants forty answers;
- whoever has left the room, or may not run turns any more, has none run for them: the room is told
  once; a schedule for one time is removed, one with a pattern waits for that to change;
- it runs where it was made: what is said of a thread's schedule is said in the thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from loguru import logger

from orchestrator.core.naming import turn_id
from orchestrator.core.schedule import GRACE_S, next_due
from orchestrator.core.texts import schedule as texts
from orchestrator.core.thread import put_in_thread, thread_of
from orchestrator.model import EventId, RoomId
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.people import People
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.schedule_table import ScheduleRow
from orchestrator.store.turn_table import NewTurn

# However the clock is set, and for schedules that were made meanwhile.
_LOOK_EVERY_S = 15.0


class Schedules:
    """Stateless: all of it is in the table."""

    def __init__(self, kit: Kit, on_queued: Callable[[TurnRow], Awaitable[None]]) -> None:
        self._kit = kit
        self._people = People.build(kit.config, kit.store)
        self._on_queued = on_queued

    def __repr__(self) -> str:
        return "<Schedules>"

    async def run(self) -> NoReturn:
        """Look at them until cancelled. Only the store's errors come out."""
        table = self._kit.store.schedules
        while True:
            for schedule in await table.due(now=self._kit.wall_clock()):
                await self._take(schedule)
            following, now = await table.next_due_at(), self._kit.wall_clock()
            wait_s = _LOOK_EVERY_S if following is None else max(0.5, following - now)
            await asyncio.sleep(min(_LOOK_EVERY_S, wait_s))

    async def _take(self, schedule: ScheduleRow) -> None:
        now = self._kit.wall_clock()
        following = next_due(schedule.cron, after=now) if schedule.cron is not None else None
        room = await self._kit.store.rooms.get(schedule.room_id)
        if room is None or not room.joined:
            # Whoever invites the agent again has the list as it was, but for what is over.
            await self._kit.store.schedules.skip(schedule, following=following, rows=(), now=now)
        elif (why := await self._people.find_hindrance(room.room_id, schedule.made_by)) is not None:
            is_kept = following is not None
            text = texts.not_run(schedule.text, schedule.made_by, why, is_kept=is_kept)
            await self._skip(schedule, text, following, pauses=True)
        elif now - schedule.due_at > GRACE_S or _is_overtaken(schedule, now):
            text = texts.missed(schedule.text, schedule.due_at, following)
            await self._skip(schedule, text, following)
        else:
            await self._queue(schedule, following, now)

    async def _skip(
        self, schedule: ScheduleRow, text: str, following: float | None, *, pauses: bool = False
    ) -> None:
        logger.bind(
            action="schedule.skip", room=schedule.room_id, schedule=schedule.schedule_id
        ).info("a scheduled turn is not run")
        await self._kit.store.schedules.skip(
            schedule,
            following=following,
            rows=self._rows(schedule, text),
            pauses=pauses,
            now=self._kit.wall_clock(),
        )
        self._kit.notify_outbox()

    async def _queue(self, schedule: ScheduleRow, following: float | None, now: float) -> None:
        new = NewTurn(
            turn_id=turn_id(schedule.room_id, EventId(_source(schedule))),
            room_id=schedule.room_id,
            session=schedule.session,
            prompt=schedule.text,
            sender=schedule.made_by,
            asked=(),
            inbox=(),
        )
        begins = self._rows(schedule, texts.begins(schedule.text, schedule.made_by))
        turn = await self._kit.store.schedules.run(
            schedule,
            new,
            following=following,
            max_queued=self._kit.config.gateway.max_queued_turns,
            rows=lambda _: begins,
            full=self._rows(schedule, texts.queue_full(schedule.text, following)),
            now=now,
        )
        self._kit.notify_outbox()
        if turn is not None:
            logger.bind(
                action="schedule.run", room=turn.room_id, turn=turn.turn_id, by=turn.sender
            ).info("a scheduled turn is queued")
            await self._on_queued(turn)

    def _rows(self, schedule: ScheduleRow, text: str) -> Sequence[NewOutboxRow]:
        limit = self._kit.config.gateway.max_event_bytes
        source = _source(schedule)
        rows = build_notice_rows(RoomId(schedule.room_id), source, text, max_event_bytes=limit)
        thread = thread_of(schedule.session)
        if thread is None:
            return rows
        return [replace(row, content=put_in_thread(row.content, thread)) for row in rows]


def _is_overtaken(schedule: ScheduleRow, now: float) -> bool:
    """Whether another time of it has come since: what is made up for then would hide the other."""
    after = None if schedule.cron is None else next_due(schedule.cron, after=schedule.due_at)
    return after is not None and after <= now


def _source(schedule: ScheduleRow) -> str:
    """Of one time of one schedule; no event has such an id."""
    return f"schedule:{schedule.schedule_id}:{schedule.due_at}"
