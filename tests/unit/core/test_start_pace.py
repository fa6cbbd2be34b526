"""A program that ends by itself is started again, later and later."""

from __future__ import annotations

from orchestrator.core.lifecycle import MAX_RESTART_DELAY_S
from orchestrator.core.start_pace import StartPace


def test_the_wait_grows_with_each_failure_and_ends_with_a_success() -> None:
    pace = StartPace()
    assert pace.ready_at < 0
    for wait_s in (1, 2, 4, 8):
        pace.failed(100.0)
        assert pace.ready_at == 100.0 + wait_s
    for _ in range(100):
        pace.failed(100.0)
    assert pace.ready_at == 100.0 + MAX_RESTART_DELAY_S
    assert repr(pace) == "<StartPace failures=104>"
    pace.worked()
    assert pace.ready_at <= 100.0
