"""The state machines of turns and runners, as tables; `docs/states.md` is generated from them.

Rules:
- a missing cell of the turn's table is a bug of the caller: IllegalTransitionError, no change;
- a turn never goes back from RUNNING: what may have been executed is never executed again in
  silence (what goes on with its message is another turn: `core.going_on`);
- the runner's table is complete, and gives one step at a time: after it, look again;
- a dead runner is replaced, not revived. Nothing is lost by that: its working directory and its
  home are on the host, all else in it is temporary anyway; and a fresh one needs 0.3 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from orchestrator.errors import IllegalTransitionError
from orchestrator.model import RunnerState, TurnState

# One second after the first failure, doubled with each further one, five minutes at most.
FIRST_RESTART_DELAY_S = 1.0
MAX_RESTART_DELAY_S = 300.0


class TurnEvent(StrEnum):
    """What happens to a turn."""

    OFFERED = "offered"
    """It is about to be written to the runner; recorded before the first byte leaves. Again, with
    the same id, after a new attach to the same epoch."""
    APPLIED = "applied"
    """The shim said that it took it. Said again after each new attach."""
    RETURNED = "returned"
    """Proven not to have been applied: nothing was written, or the shim of the recorded epoch said
    that it does not know the id."""
    WITHDRAWN = "withdrawn"
    """Cancelled by a user before anything of it left."""
    ENDED = "ended"
    """It has an outcome."""


TURN_TABLE: Mapping[TurnState, Mapping[TurnEvent, TurnState]] = MappingProxyType(
    {
        TurnState.QUEUED: MappingProxyType(
            {
                TurnEvent.OFFERED: TurnState.DELIVERING,
                TurnEvent.WITHDRAWN: TurnState.ENDED,
                TurnEvent.ENDED: TurnState.ENDED,
            }
        ),
        TurnState.DELIVERING: MappingProxyType(
            {
                TurnEvent.OFFERED: TurnState.DELIVERING,
                TurnEvent.APPLIED: TurnState.RUNNING,
                TurnEvent.RETURNED: TurnState.QUEUED,
                TurnEvent.ENDED: TurnState.ENDED,
            }
        ),
        TurnState.RUNNING: MappingProxyType(
            {
                TurnEvent.APPLIED: TurnState.RUNNING,
                TurnEvent.ENDED: TurnState.ENDED,
            }
        ),
        TurnState.ENDED: MappingProxyType({}),
    }
)


def next_turn_state(state: TurnState, event: TurnEvent) -> TurnState:
    """Where the event takes the turn.

    Raises:
        IllegalTransitionError: the table has no such cell.
    """
    target = TURN_TABLE[state].get(event)
    if target is None:
        raise IllegalTransitionError(state=state, event=event)
    return target


class RunnerGoal(StrEnum):
    """What the room's worker wants of its runner."""

    UP = "up"
    """There is a turn for it, or it shall be ready."""
    IDLE_OK = "idle_ok"
    """Nothing is needed; what runs may go on, what is outdated or dead is cleared away."""
    DOWN = "down"
    """It shall not run: hibernated, or the room was left."""


class RunnerSight(StrEnum):
    """What the engine shows, as far as the next step depends on it."""

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    """Frozen by hand, and without work. It can't answer, and the engine refuses to start it."""
    PAUSED_BUSY = "paused_busy"
    """Frozen by hand with a turn in it. It may be thawed by the same hand; else the turn's own
    limits end it."""
    EXITED = "exited"
    OUTDATED = "outdated"
    """Made from another specification, and without work."""
    OUTDATED_BUSY = "outdated_busy"
    """Made from another specification, running, and with a turn in it."""


class RunnerAction(StrEnum):
    """The one step to take next."""

    NONE = "none"
    CREATE = "create"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"
    """Remove it; where a runner is wanted, the next look says CREATE, with a new generation."""


RUNNER_TABLE: Mapping[RunnerGoal, Mapping[RunnerSight, RunnerAction]] = MappingProxyType(
    {
        RunnerGoal.UP: MappingProxyType(
            {
                RunnerSight.ABSENT: RunnerAction.CREATE,
                RunnerSight.CREATED: RunnerAction.START,
                RunnerSight.RUNNING: RunnerAction.NONE,
                RunnerSight.PAUSED: RunnerAction.REMOVE,
                RunnerSight.PAUSED_BUSY: RunnerAction.NONE,
                RunnerSight.EXITED: RunnerAction.REMOVE,
                RunnerSight.OUTDATED: RunnerAction.REMOVE,
                RunnerSight.OUTDATED_BUSY: RunnerAction.NONE,
            }
        ),
        RunnerGoal.IDLE_OK: MappingProxyType(
            {
                RunnerSight.ABSENT: RunnerAction.NONE,
                RunnerSight.CREATED: RunnerAction.NONE,
                RunnerSight.RUNNING: RunnerAction.NONE,
                RunnerSight.PAUSED: RunnerAction.NONE,
                RunnerSight.PAUSED_BUSY: RunnerAction.NONE,
                RunnerSight.EXITED: RunnerAction.REMOVE,
                RunnerSight.OUTDATED: RunnerAction.REMOVE,
                RunnerSight.OUTDATED_BUSY: RunnerAction.NONE,
            }
        ),
        RunnerGoal.DOWN: MappingProxyType(
            {
                RunnerSight.ABSENT: RunnerAction.NONE,
                RunnerSight.CREATED: RunnerAction.REMOVE,
                RunnerSight.RUNNING: RunnerAction.STOP,
                RunnerSight.PAUSED: RunnerAction.REMOVE,
                RunnerSight.PAUSED_BUSY: RunnerAction.REMOVE,
                RunnerSight.EXITED: RunnerAction.REMOVE,
                RunnerSight.OUTDATED: RunnerAction.REMOVE,
                RunnerSight.OUTDATED_BUSY: RunnerAction.STOP,
            }
        ),
    }
)


def runner_sight(state: RunnerState | None, *, is_current: bool, has_work: bool) -> RunnerSight:
    """What is seen of a runner.

    Args:
        state: what the engine says; None where there is no such container.
        is_current: whether it was made from the specification that is valid now.
        has_work: whether a turn may be running in it.
    """
    if state is None:
        return RunnerSight.ABSENT
    if state is RunnerState.PAUSED and has_work:
        return RunnerSight.PAUSED_BUSY
    if is_current:
        return RunnerSight(state.value)
    if state is RunnerState.RUNNING and has_work:
        return RunnerSight.OUTDATED_BUSY
    return RunnerSight.OUTDATED


def next_action(goal: RunnerGoal, sight: RunnerSight) -> RunnerAction:
    """The one step that brings what is seen closer to what is wanted."""
    return RUNNER_TABLE[goal][sight]


def restart_delay_s(failures: int) -> float:
    """How long to wait before the next start after so many failed ones in a row; 0 after none."""
    if failures <= 0:
        return 0.0
    # 512 s is past the maximum: no large powers for large counts.
    return min(FIRST_RESTART_DELAY_S * float(1 << min(failures - 1, 9)), MAX_RESTART_DELAY_S)
