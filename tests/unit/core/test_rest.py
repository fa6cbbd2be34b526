"""When an idle runner is put to rest."""

from __future__ import annotations

import pytest

from orchestrator.core.rest import (
    LEAST_IDLE_S,
    IdleRunner,
    Rest,
    choose_early_rest,
    due_rest,
    next_rest_s,
)
from orchestrator.model import RoomId


@pytest.mark.parametrize(
    ("idle_s", "stop", "hibernate", "due", "left"),
    [
        (0.0, 10.0, 100.0, Rest.NONE, 10.0),
        (9.9, 10.0, 100.0, Rest.NONE, pytest.approx(0.1)),
        (10.0, 10.0, 100.0, Rest.STOP_CLI, 90.0),
        (99.0, 10.0, 100.0, Rest.STOP_CLI, 1.0),
        (100.0, 10.0, 100.0, Rest.HIBERNATE, None),
        (50.0, None, 100.0, Rest.NONE, 50.0),
        (500.0, 10.0, None, Rest.STOP_CLI, None),
        (500.0, None, None, Rest.NONE, None),
        # The container stops before its CLI would: that ends both.
        (20.0, 30.0, 20.0, Rest.HIBERNATE, 10.0),
    ],
)
def test_what_is_due_and_what_comes_next(
    idle_s: float, stop: float | None, hibernate: float | None, due: Rest, left: float | None
) -> None:
    assert due_rest(idle_s, stop_after_s=stop, hibernate_after_s=hibernate) is due
    assert next_rest_s(idle_s, stop_after_s=stop, hibernate_after_s=hibernate) == left


def idle(name: str, idle_s: float, *, has_cli: bool) -> IdleRunner:
    return IdleRunner(room_id=RoomId(name), idle_s=idle_s, has_cli=has_cli)


@pytest.mark.parametrize(
    ("rooms", "chosen"),
    [
        ([], None),
        # Just used: between two messages of a conversation.
        ([("a", LEAST_IDLE_S - 0.1, True), ("b", 0, False)], None),
        ([("a", LEAST_IDLE_S, True)], ("a", Rest.STOP_CLI)),
        ([("a", 50, True), ("b", 90, True), ("c", 70, True)], ("b", Rest.STOP_CLI)),
        # A CLI goes before any container, however long that is idle.
        ([("a", 50, True), ("b", 900, False)], ("a", Rest.STOP_CLI)),
        ([("a", 10, True), ("b", 900, False), ("c", 950, False)], ("c", Rest.HIBERNATE)),
    ],
)
def test_where_memory_is_short_the_longest_idle_rests_and_clis_before_containers(
    rooms: list[tuple[str, float, bool]], chosen: tuple[str, Rest] | None
) -> None:
    found = [idle(name, idle_s, has_cli=has_cli) for name, idle_s, has_cli in rooms]
    assert choose_early_rest(found) == chosen
    assert choose_early_rest(reversed(found)) == chosen
