"""A control source with fixed answers, and pathological ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchestrator.control.models import (
    RoomView,
    RunnerView,
    SessionState,
    Status,
    SyncState,
    SyncView,
    TurnView,
)
from orchestrator.model import InstallationId, RoomId, RoomSlug, RunnerState, TurnId, UserId


def make_status(sync: SyncView | None = None) -> Status:
    return Status(
        version="0.1.0",
        installation=InstallationId("0123456789abcdef"),
        pid=42,
        started_at=1000.0,
        user_id=UserId("@claude:localhost"),
        homeserver="http://127.0.0.1:8008",
        sync=sync or SyncView(state=SyncState.CONNECTED, since=1001.0),
        runners=1,
        turns_running=1,
        turns_queued=2,
        outbox_waiting=3,
        send_rate_per_s=0.2,
    )


def make_runner(slug: str = "demo---0123456789abcdef") -> RunnerView:
    return RunnerView(
        room_id=RoomId("!demo:localhost"),
        name="demo",
        alias="#demo:localhost",
        slug=RoomSlug(slug),
        container=f"aiagentchat-01234567-{slug}",
        container_id="0123456789ab",
        state=RunnerState.RUNNING,
        generation=2,
        session=SessionState.RESUMABLE,
        cli_running=True,
        turn=TurnView(turn_id=TurnId("t1"), age_s=12.5),
        queued=2,
        memory_bytes=135 << 20,
        memory_limit_bytes=2 << 30,
        cpu_total_s=3.25,
        pids=7,
        uptime_s=4000.0,
        disk_used_bytes=80 << 20,
        disk_limit_bytes=5 << 30,
    )


def make_room(room_id: str = "!demo:localhost", name: str | None = "demo") -> RoomView:
    return RoomView(
        room_id=RoomId(room_id),
        name=name,
        alias="#demo:localhost",
        slug=RoomSlug("demo---0123456789abcdef"),
        joined=True,
        encrypted=False,
        members=2,
        queued=0,
    )


@dataclass
class MemorySource:
    """Answers at once, or raises what it is told to raise."""

    sync: SyncView | None = None
    error: BaseException | None = None
    runner_views: tuple[RunnerView, ...] = field(default_factory=lambda: (make_runner(),))
    room_views: tuple[RoomView, ...] = field(default_factory=lambda: (make_room(),))

    async def status(self) -> Status:
        self._raise()
        return make_status(self.sync)

    async def runners(self) -> tuple[RunnerView, ...]:
        self._raise()
        return self.runner_views

    async def rooms(self) -> tuple[RoomView, ...]:
        self._raise()
        return self.room_views

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


class StuckSource(MemorySource):
    """Never answers; says when it was asked, and whether it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.cancelled = False

    async def status(self) -> Status:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError
