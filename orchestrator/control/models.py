"""What the control socket answers, version 1: the values that the daemon shows.

Rules: nothing secret and no message text stands in any of them; a client ignores fields that it
does not know, so that an older `cchat` reads a newer daemon. Times are Unix times in seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.model import (
    InstallationId,
    RoomId,
    RoomSlug,
    RunnerState,
    TurnId,
    UserId,
)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class SyncState(StrEnum):
    """Whether the homeserver answers the sync loop."""

    CONNECTED = "connected"
    RETRYING = "retrying"


class SyncView(_View):
    """The sync loop. `since` is when it got into this state; `reason` says why it retries."""

    state: SyncState
    since: float
    reason: str | None = None


class StoreState(StrEnum):
    """Whether the database can be written."""

    OK = "ok"
    DISK_FULL = "disk_full"
    DISK_FAILING = "disk_failing"


class StoreView(_View):
    """The database. While it can't be written everything waits; `reason` says why, in words."""

    state: StoreState = StoreState.OK
    since: float | None = None
    reason: str | None = None
    free_bytes: int | None = None


class Status(_View):
    """The daemon as a whole."""

    version: str
    installation: InstallationId
    pid: int
    started_at: float
    user_id: UserId
    homeserver: str
    sync: SyncView
    runners: int = Field(ge=0)
    """Rooms' containers that run."""
    spares: int = Field(default=0, ge=0)
    """Containers that run and were made for rooms to come."""
    turns_running: int = Field(ge=0)
    turns_queued: int = Field(ge=0)
    outbox_waiting: int = Field(ge=0)
    """Messages committed and not yet accepted by the homeserver."""
    send_rate_per_s: float | None = None
    """What the account may send, as far as 429s have taught it; None: no limit met yet."""
    store: StoreView = StoreView()


class SessionState(StrEnum):
    """What the next turn of the room's main session starts from."""

    NONE = "none"
    """No session yet."""
    NEW = "new"
    """A session that has not finished a turn: it can't be resumed."""
    RESUMABLE = "resumable"


class TurnView(_View):
    """The turn that runs now."""

    turn_id: TurnId
    age_s: float = Field(ge=0)


class RunnerView(_View):
    """One room's runner. The figures are None where the container does not run."""

    room_id: RoomId
    is_spare: bool = False
    """Made ahead, for a room to come; `room_id` is no room's, then."""
    name: str | None = None
    alias: str | None = None
    slug: RoomSlug
    container: str
    container_id: str
    """The engine's short form, 12 characters."""
    state: RunnerState
    generation: int
    session: SessionState = SessionState.NONE
    cli_running: bool = False
    turn: TurnView | None = None
    queued: int = Field(default=0, ge=0)
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cpu_total_s: float | None = None
    """Processor time since the container started."""
    pids: int | None = None
    uptime_s: float | None = None
    disk_used_bytes: int | None = None
    """Workspace and home, whether the container runs or not; None where it is not known."""
    disk_limit_bytes: int | None = None


class RoomView(_View):
    """A room that the agent is or was in."""

    room_id: RoomId
    name: str | None = None
    alias: str | None = None
    slug: RoomSlug
    joined: bool
    encrypted: bool
    members: int | None = None
    """Joined members; None where the homeserver has not said."""
    queued: int = Field(default=0, ge=0)
    disk_used_bytes: int | None = None
    """Workspace and home, whether the container runs or not; None where it is not known."""
    disk_limit_bytes: int | None = None


class RunnersAnswer(_View):
    """`GET /v1/runners`."""

    runners: tuple[RunnerView, ...]


class RoomsAnswer(_View):
    """`GET /v1/rooms`."""

    rooms: tuple[RoomView, ...]


class HealthAnswer(_View):
    """`GET /v1/health`: status 200 when `ok`, 503 otherwise, with the reason in words."""

    ok: bool
    reason: str | None = None


class ErrorBody(_View):
    """What went wrong: a code for programs, a sentence for people."""

    code: str
    message: str


class ErrorAnswer(_View):
    """Every answer with a status of 400 or more, `/v1/health` excepted."""

    error: ErrorBody


class ControlSource(Protocol):
    """Where the answers come from; the daemon implements it.

    Each method may be cancelled and may raise errors of `orchestrator.errors`; the server bounds
    the time that it waits for one.
    """

    async def status(self) -> Status:
        """The daemon now."""
        ...

    async def runners(self) -> tuple[RunnerView, ...]:
        """All runners of this installation, whatever their state."""
        ...

    async def rooms(self) -> tuple[RoomView, ...]:
        """All rooms that the agent is or was in."""
        ...
