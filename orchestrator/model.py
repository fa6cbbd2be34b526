"""The words of the system as types: ids, and the small values that several packages share.

No behaviour beyond validation, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

RoomId = NewType("RoomId", str)
"""A Matrix room id, `!opaque:server`."""
RoomSlug = NewType("RoomSlug", str)
"""A room's name on this host: [a-z0-9-], at most 40 characters, no collisions (core.naming)."""
UserId = NewType("UserId", str)
"""A Matrix user id, `@local:server`."""
EventId = NewType("EventId", str)
TxnId = NewType("TxnId", str)
"""A client transaction id: the homeserver executes it once per device (Synapse remembers 24 h)."""
TurnId = NewType("TurnId", str)
"""Derived from the batch's first event (core.naming.turn_id); the runner applies one once, ever."""
SessionId = NewType("SessionId", str)
"""The CLI's session, a UUID."""
InstallationId = NewType("InstallationId", str)
"""16 hexadecimal digits, made at first start; labels everything of ours in the engine."""
Epoch = NewType("Epoch", str)
"""One life of one shim: random, new at each start of the container."""
Seq = NewType("Seq", int)
"""Number of a frame from the shim: 1, 2, 3, … within an epoch."""

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]


class TurnState(StrEnum):
    """Where a turn is; `core.lifecycle` has the table of moves."""

    QUEUED = "queued"
    """Stored; nothing of it has left this process."""
    DELIVERING = "delivering"
    """It may have reached the runner of the recorded epoch; the same id is offered there again."""
    RUNNING = "running"
    """The shim said that it applied it."""
    ENDED = "ended"
    """It has an outcome."""


class TurnOutcome(StrEnum):
    """How a turn ended. What users cause is a value, not an exception."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"


class Permissions(StrEnum):
    """What the CLI may do without being asked for each tool call."""

    ASK = "ask"
    ACCEPT_EDITS = "accept_edits"
    PLAN = "plan"
    BYPASS = "bypass"


class RunnerState(StrEnum):
    """What the engine says of a runner, in neutral words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


class Priority(StrEnum):
    """What goes first when the account's rate does not allow everything; in this order."""

    FINAL = "final"
    NOTICE = "notice"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one runner may use. Zero or negative values are refused."""

    memory_bytes: int
    cpus: float
    pids: int
    tmp_bytes: int
    disk_bytes: int
    output_bytes: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                msg = f"{name} must be more than zero"
                raise ValueError(msg)
