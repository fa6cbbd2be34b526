"""What the status page shows, as values: one look at the rooms and at the daemon. Pure.

Rule: no message's text is among it. What an agent asks to be allowed is, for whoever decides must
have seen it; who may see the page may see that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.approval import ApprovalKind
from orchestrator.model import RoomId, RoomSlug, TurnId, TurnOutcome


class Stage(StrEnum):
    """Where a turn is that has not ended."""

    WAITS = "waits"
    """In its room's queue."""
    DEFERRED = "waits for a usage limit"
    STARTS = "starts"
    """Taken; its runner is brought up."""
    OFFERED = "offered"
    """It may have reached the runner."""
    WORKS = "at work"
    ASKS = "waits for a person"
    STOPS = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTurn:
    """A turn that has not ended; `age_s` counts from its start, or from its message."""

    turn_id: TurnId
    stage: Stage
    age_s: float
    sender: str
    tools: tuple[str, ...] = ()
    """What the CLI runs now, in the room's own words."""
    in_thread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRunner:
    """A room's container. Figures are None where it does not run, or the engine has not said."""

    state: str
    session: str
    cli_runs: bool
    up_s: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRoom:
    """A room that the agent is in. `runner` is None where there is none."""

    room_id: RoomId
    slug: RoomSlug
    name: str
    encrypted: bool
    members: int | None
    runner: SeenRunner | None
    turns: tuple[SeenTurn, ...]
    """Those that have begun, then those that wait."""
    today_micro_usd: int
    month_micro_usd: int
    """Of 30 days, today's included."""
    usd_per_day: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEnd:
    """A turn that has ended."""

    room: str
    sender: str
    outcome: TurnOutcome
    ended_at: float
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenQuestion:
    """A question to a room's people that is open."""

    approval_id: str
    room: str
    room_id: RoomId
    kind: ApprovalKind
    what: str
    """In one line, cut where it is long."""
    deciders: tuple[str, ...]
    """Patterns of accounts, and whoever asked for the turn where that is enough."""
    asked_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A question with all of what it asks; `whole` is None where that can't be shown from here."""

    question: SeenQuestion
    whole: str | None
    digest: str
    """Of `whole`: a decision names what was shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenExit:
    """A connection out of a room: a line of the audit log."""

    at: str
    """As the log has it."""
    room: str
    target: str
    is_allowed: bool
    note: str
    """How many bytes, or why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """One look. A part that could not be had is None, and `problems` says why."""

    at: float
    version: str
    started_at: float
    user_id: str
    problems: tuple[str, ...]
    waiting_to_be_sent: int
    has_engine: bool
    rooms: tuple[SeenRoom, ...]
    questions: tuple[SeenQuestion, ...]
    ends: tuple[SeenEnd, ...]
    exits: tuple[SeenExit, ...]

    @property
    def runners_by_state(self) -> Mapping[str, int]:
        """How many containers there are, by their state."""
        found: dict[str, int] = {}
        for room in self.rooms:
            if room.runner is not None:
                found[room.runner.state] = found.get(room.runner.state, 0) + 1
        return found
