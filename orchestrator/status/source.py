"""One look at everything that the status page shows: the store, the rooms, the engine, the log."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from orchestrator.control.models import RunnerView
from orchestrator.core.approval import Approval, ApprovalKind
from orchestrator.core.budget import utc_day
from orchestrator.core.status_view import (
    SeenEnd,
    SeenExit,
    SeenQuestion,
    SeenRoom,
    SeenRunner,
    SeenTurn,
    Stage,
    StatusView,
    Subject,
)
from orchestrator.core.texts import status_page as page_texts
from orchestrator.core.thread import thread_of
from orchestrator.errors import AiAgentChatError
from orchestrator.model import RoomId, RoomSlug, TurnId, TurnState
from orchestrator.overview import Overview
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.manager import RoomManager
from orchestrator.rooms.worker import RoomWorker
from orchestrator.status.exits import read_exits
from orchestrator.store.api import RoomRow, TurnRow
from orchestrator.store.spending_table import SpendingTable, Spent

# An engine that hangs costs the page its runners, and nothing else.
_ENGINE_S = 3.0
# Many who look at once, or often, cost one look.
_FRESH_S = 1.0
_MAX_QUESTIONS = 50
_MAX_ENDS = 15
_MAX_EXITS = 15
_MONTH_S = 29 * 86400.0


class Look(Protocol):
    """Names what is not well."""

    def __call__(self, *, is_strict: bool) -> Awaitable[tuple[str, ...]]:
        """Raises for nothing that it finds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is the same for all rooms of one look."""

    now: float
    runners: Mapping[RoomSlug, RunnerView]
    turns: Mapping[RoomId, Sequence[TurnRow]]
    asking: frozenset[TurnId]
    """Turns that wait for a person."""
    month: Mapping[RoomSlug, Spent]


class StatusSource:
    """Reads only. Invariant: the last look is kept with its time, and one is under way at most."""

    def __init__(
        self,
        *,
        kit: Kit,
        manager: RoomManager,
        overview: Overview,
        look: Look,
        state_dir: Path,
    ) -> None:
        self._kit = kit
        self._manager = manager
        self._overview = overview
        self._look = look
        self._state_dir = state_dir
        self._looking = asyncio.Lock()
        self._last: tuple[float, StatusView] | None = None

    async def view(self) -> StatusView:
        """What is now, or was a second ago. Raises a StoreError when the database fails."""
        clock = asyncio.get_running_loop().time
        async with self._looking:
            if self._last is not None and clock() < self._last[0] + _FRESH_S:
                return self._last[1]
            view = await self._view()
            self._last = (clock(), view)
            return view

    async def subject(self, approval_id: str) -> Subject | None:
        """An open question with all of what it asks; None: there is none. Raises as `view`."""
        approval = await self._kit.store.approvals.get(approval_id)
        if approval is None or approval.state != "open":
            return None
        room = await self._kit.store.rooms.get(approval.room_id)
        whole = self._whole(approval)
        digest = hashlib.sha256((whole or "").encode("utf-8", "surrogatepass")).hexdigest()
        question = self._question(approval, room)
        return Subject(question=question, whole=whole, digest=digest)

    def _whole(self, approval: Approval) -> str | None:
        """As the room was shown it; a turn's, as long as the turn waits for it here."""
        if approval.kind is ApprovalKind.EGRESS:
            return page_texts.host(approval.subject, approval.wanted_by)
        worker = self._manager.workers.get(approval.room_id)
        for driver in () if worker is None else worker.drivers.values():
            if (shown := driver.asked(approval.approval_id)) is not None:
                return shown.markdown
        return None

    async def _view(self) -> StatusView:
        store, now = self._kit.store, self._kit.wall_clock()
        runners = await self._runners()
        questions = await store.approvals.open_ones(limit=_MAX_QUESTIONS)
        rooms = {room.room_id: room for room in await store.rooms.all()}
        turns: dict[RoomId, list[TurnRow]] = defaultdict(list)
        for turn in await store.turns.open_turns():
            turns[turn.room_id].append(turn)
        since = utc_day(now - _MONTH_S)
        facts = _Facts(
            now=now,
            runners={view.slug: view for view in runners or ()},
            turns=turns,
            asking=frozenset(
                q.turn_id
                for q in questions
                if q.turn_id is not None and q.kind is not ApprovalKind.EGRESS
            ),
            month=await SpendingTable(store.database).totals(since=since),
        )
        return StatusView(
            at=now,
            version=self._kit.version,
            started_at=self._overview.started_at,
            user_id=self._kit.config.matrix.user_id,
            problems=await self._look(is_strict=True),
            waiting_to_be_sent=await store.outbox.waiting(),
            has_engine=runners is not None,
            rooms=tuple(self._room(room, facts) for room in rooms.values() if room.joined),
            questions=tuple(self._question(q, rooms.get(q.room_id)) for q in questions),
            ends=tuple(
                _end(turn, rooms.get(turn.room_id))
                for turn in await store.turns.latest(limit=_MAX_ENDS)
            ),
            exits=await self._exits(rooms.values()),
        )

    async def _exits(self, rooms: Iterable[RoomRow]) -> tuple[SeenExit, ...]:
        """The log has a room's name on this host; people know it by another."""
        names: dict[str, str] = {room.slug: _name(room) for room in rooms}
        exits = await asyncio.to_thread(read_exits, self._state_dir, limit=_MAX_EXITS)
        return tuple(replace(one, room=names.get(one.room, one.room)) for one in exits)

    async def _runners(self) -> Sequence[RunnerView] | None:
        try:
            async with asyncio.timeout(_ENGINE_S):
                return await self._overview.runners()
        except (TimeoutError, AiAgentChatError):
            return None

    def _room(self, room: RoomRow, facts: _Facts) -> SeenRoom:
        worker = self._manager.workers.get(room.room_id)
        runner = facts.runners.get(room.slug)
        profile = self._kit.config.profile(room.room_id, room.alias, room.former)
        today = self._kit.spent_micro_usd(room.slug)
        month = facts.month.get(room.slug, Spent()).micro_usd
        return SeenRoom(
            room_id=room.room_id,
            slug=room.slug,
            name=_name(room),
            encrypted=room.encrypted,
            members=room.joined_members,
            runner=None if runner is None else _runner(runner),
            turns=tuple(_turn(t, worker, facts) for t in facts.turns.get(room.room_id, ())),
            today_micro_usd=today,
            month_micro_usd=max(today, month),  # today's are stored with a delay
            usd_per_day=profile.budget.usd_per_day,
        )

    def _question(self, approval: Approval, room: RoomRow | None) -> SeenQuestion:
        access, agents = self._kit.config.access, self._kit.config.agent_accounts
        asker = () if approval.asker is None else (approval.asker,)
        named = (*asker, *access.approvers, *access.admins)
        what = approval.details.what if approval.details else approval.subject
        return SeenQuestion(
            approval_id=approval.approval_id,
            room=_name(room),
            room_id=approval.room_id,
            kind=approval.kind,
            what=what,
            deciders=tuple(one for one in named if one not in agents),
            asked_at=approval.asked_at,
            expires_at=approval.expires_at,
        )


def _name(room: RoomRow | None) -> str:
    return "?" if room is None else room.name or room.alias or room.slug


def _runner(view: RunnerView) -> SeenRunner:
    return SeenRunner(
        state=view.state,
        session=view.session,
        cli_runs=view.cli_running,
        up_s=view.uptime_s,
        memory_bytes=view.memory_bytes,
        memory_limit_bytes=view.memory_limit_bytes,
        processes=view.pids,
    )


def _turn(turn: TurnRow, worker: RoomWorker | None, facts: _Facts) -> SeenTurn:
    driver = None if worker is None else worker.drivers.get(turn.turn_id)
    return SeenTurn(
        turn_id=turn.turn_id,
        stage=_stage(turn, facts, is_taken=driver is not None),
        age_s=max(0.0, facts.now - (turn.started_at or turn.created_at)),
        sender=turn.sender,
        tools=() if driver is None else driver.running_tools,
        in_thread=thread_of(turn.session) is not None,
    )


def _stage(turn: TurnRow, facts: _Facts, *, is_taken: bool) -> Stage:
    if turn.cancelled_by is not None:
        return Stage.STOPS
    if turn.turn_id in facts.asking:
        return Stage.ASKS
    match turn.state:
        case TurnState.RUNNING:
            return Stage.WORKS
        case TurnState.DELIVERING:
            return Stage.OFFERED
        case _ if is_taken:
            return Stage.STARTS
        case _:
            return Stage.DEFERRED if turn.not_before > facts.now else Stage.WAITS


def _end(turn: TurnRow, room: RoomRow | None) -> SeenEnd:
    if turn.outcome is None or turn.ended_at is None:
        msg = f"turn {turn.turn_id} has ended without an outcome"
        raise ValueError(msg)
    return SeenEnd(
        room=_name(room),
        sender=turn.sender,
        outcome=turn.outcome,
        ended_at=turn.ended_at,
        took_s=max(0.0, turn.ended_at - (turn.started_at or turn.created_at)),
    )
