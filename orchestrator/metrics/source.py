"""Where the figures come from: the store, the sender, the engine, the sync, this host's disk."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.models import RunnerView, SyncState
from orchestrator.errors import AiAgentChatError
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.metrics.figures import Figures, RoomDisk, RoomUse
from orchestrator.model import RunnerState, TurnState
from orchestrator.overview import Overview
from orchestrator.rooms.places import RunnerPlaces
from orchestrator.rooms.starts import RunnerStarts
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.store import Store

# An engine that hangs costs a scrape its figures on runners, and not the others.
_ENGINE_S = 2.0
_DATABASE_S = 5.0
# Of all rooms; a thread that waits for a broken disk costs a scrape these figures alone.
_DISKS_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSource:
    """Reads only."""

    store: Store
    sender: OutboxSender
    overview: Overview
    places: RunnerPlaces
    starts: RunnerStarts
    state_dir: Path
    by_room: bool = False
    clock: Callable[[], float]
    """Unix time, as the store's rows have it."""

    async def read(self) -> Figures:
        """One look. Raises a StoreError when the database fails."""
        oldest_at = await self.store.outbox.oldest_waiting_at()
        turns = await self.store.turns.open_turns()
        queued = sum(turn.state is TurnState.QUEUED for turn in turns)
        sync, now = self.overview.sync, self.clock()
        runners = await self._runners()
        return Figures(
            send_rate_per_s=self.sender.budget.rate_per_s(),
            limited=self.sender.limited,
            outbox_waiting=await self.store.outbox.waiting(),
            outbox_oldest_s=0.0 if oldest_at is None else max(0.0, now - oldest_at),
            inbox_waiting=await self.store.inbox.new_count(),
            turns=dict(self.store.turns.ended),
            turns_running=len(turns) - queued,
            turns_queued=queued,
            approvals_waiting=await self.store.approvals.open_count(),
            rooms=sum(room.joined for room in await self.store.rooms.all()),
            runners=runners,
            places_waiting=self.places.waiting,
            starts_waiting=self.starts.waiting,
            sync_connected=sync.state is SyncState.CONNECTED,
            sync_since_s=max(0.0, now - sync.since),
            database_bytes=_size(self.state_dir),
            disk_free_bytes=shutil.disk_usage(self.state_dir).free,
            by_room=await self._by_room() if self.by_room and runners is not None else (),
            disks=await self._disks() if self.by_room else (),
        )

    async def problems(self, *, is_strict: bool) -> tuple[str, ...]:
        """Why a message that is sent now is not answered; raises for nothing that it finds.

        Not strict: only what a restart may help; the engine is not asked.
        """
        try:
            async with asyncio.timeout(_DATABASE_S):
                await self.store.outbox.waiting()
        except (AiAgentChatError, TimeoutError) as e:
            return (f"database: {type(e).__name__}",)
        if not is_strict:
            return ()
        problems: list[str] = []
        if (trouble := self.store.database.trouble) is not None:
            problems.append(f"disk: {trouble.reason}")
        sync = self.overview.sync
        if sync.state is not SyncState.CONNECTED:
            problems.append(f"homeserver: {sync.reason or 'no answer'}")
        if await self._runners() is None:
            problems.append("engine: no answer")
        return tuple(problems)

    async def _runners(self) -> Mapping[RunnerState, int] | None:
        try:
            async with asyncio.timeout(_ENGINE_S):
                return Counter(info.state for info in await self.overview.containers())
        except (AiAgentChatError, TimeoutError):
            return None

    async def _by_room(self) -> tuple[RoomUse, ...]:
        try:
            async with asyncio.timeout(_ENGINE_S):
                found = await self.overview.runners()
        except (AiAgentChatError, TimeoutError):
            return ()
        rooms = (one for one in found if not one.is_spare)
        return tuple(use for one in rooms if (use := _use(one)) is not None)

    async def _disks(self) -> tuple[RoomDisk, ...]:
        try:
            async with asyncio.timeout(_DISKS_S):
                rooms = await self.overview.rooms()
        except TimeoutError:
            return ()
        return tuple(
            RoomDisk(room=room.slug, used_bytes=used, limit_bytes=limit)
            for room in rooms
            if (used := room.disk_used_bytes) is not None
            and (limit := room.disk_limit_bytes) is not None
        )


def _use(runner: RunnerView) -> RoomUse | None:
    if runner.memory_bytes is None or runner.cpu_total_s is None or runner.pids is None:
        return None
    return RoomUse(
        room=runner.slug,
        memory_bytes=runner.memory_bytes,
        cpu_total_s=runner.cpu_total_s,
        processes=runner.pids,
    )


def _size(state_dir: Path) -> int:
    paths = [state_dir / f"{DATABASE_NAME}{ending}" for ending in ("", "-wal")]
    return sum(path.stat().st_size for path in paths if path.exists())
