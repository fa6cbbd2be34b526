"""When an idle runner is put to rest: first its CLI ends, later its container. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.model import RoomId

# Who writes within this time is in a conversation: its CLI is not stopped between two messages.
LEAST_IDLE_S: Final = 30.0


class Rest(StrEnum):
    """What is due."""

    NONE = "none"
    STOP_CLI = "stop_cli"
    """The CLI ends; the session is kept, and resumed by the next turn."""
    HIBERNATE = "hibernate"
    """The container stops; the next turn gets a new one."""


def due_rest(idle_s: float, *, stop_after_s: float | None, hibernate_after_s: float | None) -> Rest:
    """What is due after so long (seconds) without a turn; a limit that is None is never met."""
    if hibernate_after_s is not None and idle_s >= hibernate_after_s:
        return Rest.HIBERNATE
    if stop_after_s is not None and idle_s >= stop_after_s:
        return Rest.STOP_CLI
    return Rest.NONE


def next_rest_s(
    idle_s: float, *, stop_after_s: float | None, hibernate_after_s: float | None
) -> float | None:
    """In how many seconds something more is due; None: nothing will be."""
    ahead = [
        after - idle_s
        for after in (stop_after_s, hibernate_after_s)
        if after is not None and after > idle_s
    ]
    return min(ahead, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRunner:
    """A runner that runs, and nothing works in it."""

    room_id: RoomId
    idle_s: float
    has_cli: bool
    """Whether a program of ours runs in it, which holds most of its memory."""


def choose_early_rest(idle: Iterable[IdleRunner]) -> tuple[RoomId, Rest] | None:
    """What rests next where memory is short: the CLI of the longest idle, then its container.

    No container stops while another has a CLI to end: that gives more back, and takes less.
    """
    quiet = [one for one in idle if one.idle_s >= LEAST_IDLE_S]
    if not quiet:
        return None
    first = max(quiet, key=lambda one: (one.has_cli, one.idle_s))
    return first.room_id, Rest.STOP_CLI if first.has_cli else Rest.HIBERNATE
