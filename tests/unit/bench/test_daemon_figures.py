"""What a restart's figure is read from."""

from __future__ import annotations

from bench.support.daemon_figures import find_resumed
from orchestrator.model import TurnId

LOG = """\
Ready. What runs here:
{"time": "2026-01-02T03:04:05.000+00:00", "action": "turn.admitted", "turn": "t1"}
{"time": "2026-01-02T03:04:06.250+00:00", "action": "turn.resume", "turn": "t2"}
{"time": "2026-01-02T03:04:07.500+00:00", "action": "turn.resume", "turn": "t1", "level": "INFO"}
"""


def test_a_turn_is_taken_up_again_when_the_log_says_so_of_this_very_turn() -> None:
    resumed_at = find_resumed(LOG, TurnId("t1"))
    assert resumed_at is not None
    assert resumed_at % 60 == 7.5
    assert find_resumed(LOG, TurnId("t3")) is None
    assert find_resumed("", TurnId("t1")) is None
