"""Every cell of the tables of turns and runners, present or missing."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.core.lifecycle import (
    RUNNER_TABLE,
    TURN_TABLE,
    RunnerAction,
    RunnerGoal,
    RunnerSight,
    TurnEvent,
    next_action,
    next_turn_state,
    restart_delay_s,
    runner_sight,
)
from orchestrator.errors import IllegalTransitionError
from orchestrator.model import RunnerState, TurnState
from scripts.state_diagrams import PAGE, render

Q, D, R, E = TurnState.QUEUED, TurnState.DELIVERING, TurnState.RUNNING, TurnState.ENDED

# Written out by hand, apart from the table: None is an illegal transition.
TURN_CELLS = {
    (Q, TurnEvent.OFFERED): D,
    (Q, TurnEvent.APPLIED): None,
    (Q, TurnEvent.RETURNED): None,
    (Q, TurnEvent.WITHDRAWN): E,
    (Q, TurnEvent.ENDED): E,
    (D, TurnEvent.OFFERED): D,
    (D, TurnEvent.APPLIED): R,
    (D, TurnEvent.RETURNED): Q,
    (D, TurnEvent.WITHDRAWN): None,
    (D, TurnEvent.ENDED): E,
    (R, TurnEvent.OFFERED): None,
    (R, TurnEvent.APPLIED): R,
    (R, TurnEvent.RETURNED): None,
    (R, TurnEvent.WITHDRAWN): None,
    (R, TurnEvent.ENDED): E,
    (E, TurnEvent.OFFERED): None,
    (E, TurnEvent.APPLIED): None,
    (E, TurnEvent.RETURNED): None,
    (E, TurnEvent.WITHDRAWN): None,
    (E, TurnEvent.ENDED): None,
}

C, S, X, T, N = (
    RunnerAction.CREATE,
    RunnerAction.START,
    RunnerAction.REMOVE,
    RunnerAction.STOP,
    RunnerAction.NONE,
)
RUNNER_ROWS = {  # up, idle_ok, down
    RunnerSight.ABSENT: (C, N, N),
    RunnerSight.CREATED: (S, N, X),
    RunnerSight.RUNNING: (N, N, T),
    RunnerSight.PAUSED: (X, N, X),
    RunnerSight.PAUSED_BUSY: (N, N, X),
    RunnerSight.EXITED: (X, X, X),
    RunnerSight.OUTDATED: (X, X, X),
    RunnerSight.OUTDATED_BUSY: (N, N, T),
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TurnState, TurnEvent)))
def test_a_turn_moves_only_as_the_table_says(state: TurnState, event: TurnEvent) -> None:
    target = TURN_CELLS[state, event]
    if target is not None:
        assert next_turn_state(state, event) is target
        return
    with pytest.raises(IllegalTransitionError) as caught:
        next_turn_state(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)


def test_no_path_leads_from_running_or_ended_back_to_delivery() -> None:
    reachable, queue = set[TurnState](), [R, E]
    while queue:
        state = queue.pop()
        reachable.add(state)
        queue += [t for t in TURN_TABLE[state].values() if t not in reachable]
    assert reachable == {R, E}


@pytest.mark.parametrize(("goal", "sight"), list(itertools.product(RunnerGoal, RunnerSight)))
def test_each_sight_of_a_runner_gives_one_step(goal: RunnerGoal, sight: RunnerSight) -> None:
    assert next_action(goal, sight) is RUNNER_ROWS[sight][list(RunnerGoal).index(goal)]


def test_the_runner_table_is_complete() -> None:
    assert set(RUNNER_TABLE) == set(RunnerGoal)
    assert all(set(cells) == set(RunnerSight) for cells in RUNNER_TABLE.values())


@pytest.mark.parametrize(
    ("state", "is_current", "has_work"),
    list(itertools.product([None, *RunnerState], [True, False], [True, False])),
)
def test_steps_taken_one_by_one_bring_a_runner_up_and_then_stop(
    state: RunnerState | None, is_current: bool, has_work: bool
) -> None:
    """Unless it runs, or may run again, with a turn in it: that is left alone."""
    steps = []
    while True:
        sight = runner_sight(state, is_current=is_current, has_work=has_work)
        step = next_action(RunnerGoal.UP, sight)
        if step is RunnerAction.NONE:
            break
        steps.append(step)
        state, is_current, has_work = {
            RunnerAction.CREATE: (RunnerState.CREATED, True, False),
            RunnerAction.START: (RunnerState.RUNNING, is_current, False),
            RunnerAction.REMOVE: (None, False, False),
        }[step]
    assert len(steps) <= 3
    assert state is RunnerState.RUNNING or sight is RunnerSight.PAUSED_BUSY
    assert is_current or sight in {RunnerSight.OUTDATED_BUSY, RunnerSight.PAUSED_BUSY}


def test_a_running_turn_is_never_interrupted_by_a_new_specification() -> None:
    sight = runner_sight(RunnerState.RUNNING, is_current=False, has_work=True)
    for goal in (RunnerGoal.UP, RunnerGoal.IDLE_OK):
        assert next_action(goal, sight) is RunnerAction.NONE


def test_a_dead_runner_is_replaced_and_not_revived() -> None:
    sight = runner_sight(RunnerState.EXITED, is_current=True, has_work=True)
    assert next_action(RunnerGoal.UP, sight) is RunnerAction.REMOVE


def test_restarts_wait_longer_each_time_and_five_minutes_at_most() -> None:
    delays = [restart_delay_s(n) for n in range(13)]
    assert delays == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert restart_delay_s(10**9) == 300


def test_the_page_of_states_shows_the_tables_as_they_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m scripts.state_diagrams"
