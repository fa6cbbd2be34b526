"""How an audit says what it found."""

from __future__ import annotations

from orchestrator.core.verdict import render_report
from tests.support.evidence import ASKED, ROOM, evidence, judge


def test_the_last_line_counts_each_state() -> None:
    assert render_report(judge(evidence()))[-1] == (
        "1 messages: 1 answered, 0 failed, 0 cancelled, 0 refused, 0 in hand, "
        "0 without a final state"
    )


def test_a_finding_names_the_room_the_event_what_is_wrong_and_what_to_do() -> None:
    line = render_report(judge(evidence(turns=())))[0]
    assert line.startswith(f"{ROOM} {ASKED}: its turn is not in the database (turn t1); ask for")
