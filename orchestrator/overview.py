"""What the control socket shows: gathered from the store, the rooms, the engine and the sender."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from orchestrator.control.models import (
    RoomView,
    RunnerView,
    SessionState,
    Status,
    StoreState,
    StoreView,
    SyncState,
    SyncView,
    TurnView,
)
from orchestrator.core.disk import DiskUsage
from orchestrator.core.thread import MAIN
from orchestrator.errors import EngineUnavailableError, RunnerError
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.matrix.sync import SyncStatus
from orchestrator.model import RoomId, RunnerState, TurnState, UserId
from orchestrator.ports import RunnerInfo, RunnerStats
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.manager import RoomManager
from orchestrator.store.api import NO_ROOM, RoomRow
from orchestrator.store.failure import StoreTrouble

_SHORT_ID_CHARS = 12


class Overview:
    """Reads only; keeps nothing but how the connection to the homeserver is."""

    def __init__(
        self, kit: Kit, manager: RoomManager, sender: OutboxSender, *, me: UserId, started_at: float
    ) -> None:
        self._kit = kit
        self._manager = manager
        self._sender = sender
        self._me = me
        self._started_at = started_at
        self._sync = SyncView(state=SyncState.RETRYING, since=started_at, reason="starting")

    def note_sync(self, status: SyncStatus) -> None:
        """How the connection to the homeserver is now."""
        state = SyncState.CONNECTED if status.connected else SyncState.RETRYING
        since = status.at if state is not self._sync.state else self._sync.since
        self._sync = SyncView(state=state, since=since, reason=status.reason)

    @property
    def sync(self) -> SyncView:
        """How the connection to the homeserver is, and since when."""
        return self._sync

    @property
    def started_at(self) -> float:
        """When the daemon began, in Unix time."""
        return self._started_at

    async def containers(self) -> Sequence[RunnerInfo]:
        """What the engine has of this installation's. Raises as the engine's port does."""
        return await self._kit.backend.list()

    async def status(self) -> Status:
        """The daemon now."""
        turns = await self._kit.store.turns.open_turns()
        infos = await self._kit.backend.list()
        running = {info.slug for info in infos if info.state is RunnerState.RUNNING}
        spares = {row.slug for row in await self._kit.store.spares.all()}
        queued = sum(turn.state is TurnState.QUEUED for turn in turns)
        return Status(
            version=self._kit.version,
            installation=self._kit.backend.installation,
            pid=os.getpid(),
            started_at=self._started_at,
            user_id=self._me,
            homeserver=self._kit.config.matrix.homeserver,
            sync=self._sync,
            runners=len(running - spares),
            spares=len(running & spares),
            turns_running=len(turns) - queued,
            turns_queued=queued,
            outbox_waiting=await self._kit.store.outbox.waiting(),
            send_rate_per_s=self._sender.budget.rate_per_s(),
            store=_store_view(self._kit.store.database.trouble),
        )

    async def runners(self) -> tuple[RunnerView, ...]:
        """All runners of this installation, with a sample of what each uses."""
        spares = await self._kit.store.spares.all()
        rooms = {row.slug: row.as_room for row in spares}
        rooms |= {room.slug: room for room in await self._kit.store.rooms.all()}
        infos = [info for info in await self._kit.backend.list() if info.slug in rooms]
        async with asyncio.TaskGroup() as group:
            samples = [group.create_task(self._stats(info), name="stats") for info in infos]
        queued = await self._queued()
        disks = await self._kit.housing.known_disks([rooms[info.slug] for info in infos])
        return tuple(
            [
                await self._runner(
                    rooms[info.slug], info, sample.result(), queued, disks.get(info.slug)
                )
                for info, sample in zip(infos, samples, strict=True)
            ]
        )

    async def rooms(self) -> tuple[RoomView, ...]:
        """All rooms that the agent is or was in."""
        queued, rooms = await self._queued(), await self._kit.store.rooms.all()
        disks = await self._kit.housing.known_disks(rooms)
        return tuple(
            RoomView(
                room_id=room.room_id,
                name=room.name,
                alias=room.alias,
                slug=room.slug,
                joined=room.joined,
                encrypted=room.encrypted,
                members=room.joined_members,
                queued=queued[room.room_id],
                disk_used_bytes=disk.used_bytes if (disk := disks.get(room.slug)) else None,
                disk_limit_bytes=disk.limit_bytes if disk else None,
            )
            for room in rooms
        )

    async def _queued(self) -> Counter[RoomId]:
        turns = await self._kit.store.turns.open_turns()
        return Counter(turn.room_id for turn in turns if turn.state is TurnState.QUEUED)

    async def _stats(self, info: RunnerInfo) -> RunnerStats | None:
        """One sample, or None: a runner that ends meanwhile is no reason to show none of them."""
        if info.state is not RunnerState.RUNNING:
            return None
        try:
            return await self._kit.backend.stats(info.name)
        except (RunnerError, EngineUnavailableError):
            return None

    async def _runner(
        self,
        room: RoomRow,
        info: RunnerInfo,
        sample: RunnerStats | None,
        queued: Counter[RoomId],
        disk: DiskUsage | None,
    ) -> RunnerView:
        worker = self._manager.workers.get(room.room_id)
        session = await self._kit.store.sessions.get(room.room_id, MAIN)
        current = worker.current if worker else None
        now = self._kit.wall_clock()
        return RunnerView(
            room_id=room.room_id,
            is_spare=room.room_id == NO_ROOM,
            name=room.name,
            alias=room.alias,
            slug=room.slug,
            container=info.name,
            container_id=info.container_id[:_SHORT_ID_CHARS],
            state=info.state,
            generation=info.generation,
            session=_session_state(resumable=session.resumable if session else None),
            cli_running=worker is not None and worker.has_live_session,
            turn=TurnView(
                turn_id=current.turn_id, age_s=max(0.0, now - (current.started_at or now))
            )
            if current
            else None,
            queued=queued[room.room_id],
            memory_bytes=sample.memory_bytes if sample else None,
            memory_limit_bytes=sample.memory_limit_bytes if sample else None,
            cpu_total_s=sample.cpu_total_s if sample else None,
            pids=sample.pids if sample else None,
            uptime_s=_uptime_s(info, now) if sample else None,
            disk_used_bytes=disk.used_bytes if disk else None,
            disk_limit_bytes=disk.limit_bytes if disk else None,
        )


def _store_view(trouble: StoreTrouble | None) -> StoreView:
    if trouble is None:
        return StoreView()
    return StoreView(
        state=StoreState.DISK_FULL if trouble.is_full else StoreState.DISK_FAILING,
        since=trouble.since,
        reason=trouble.reason,
        free_bytes=trouble.free_bytes,
    )


def _session_state(*, resumable: bool | None) -> SessionState:
    if resumable is None:
        return SessionState.NONE
    return SessionState.RESUMABLE if resumable else SessionState.NEW


def _uptime_s(info: RunnerInfo, now: float) -> float | None:
    """Seconds since its start, if the engine names one: RFC 3339 in UTC, read to the second."""
    try:
        started = datetime.fromisoformat((info.started_at or "")[:19] + "+00:00")
    except ValueError:
        return None
    return max(0.0, now - started.timestamp())
