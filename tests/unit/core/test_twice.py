"""What is there twice is found, and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.verdict import FinalState, Problem, Report
from orchestrator.model import TurnOutcome, TxnId
from tests.support.evidence import ASKED, ME, evidence, judge, mark, problems, row, seen, turn


def assert_doubled(report: Report, event_id: str) -> None:
    assert [(f.problem, f.event_id) for f in report.findings] == [(Problem.DOUBLED, event_id)]
    assert report.doubled == 1
    assert report.counts[FinalState.MISSING] == 0
    assert not report.is_clean(settled=False)


@pytest.mark.parametrize(
    "twin",
    [
        {"txn_id": TxnId("x1")},
        {"digest": "digest of x1"},
        {"digest": "changed", "mark": mark()},
        {"txn_id": TxnId("x1"), "event_type": "m.room.encrypted", "digest": "sealed anew"},
        {"digest": "digest of x1", "is_new": True},
    ],
)
def test_an_event_that_is_there_twice_is_found(twin: dict[str, Any]) -> None:
    events = (*evidence().events, seen("$twin", ME, **twin))
    assert_doubled(judge(evidence(events=events)), "$twin")


def test_a_turn_with_two_ends_is_found() -> None:
    rows = (row(mark=mark()), row("$again", "x2", mark=mark()))
    events = (*evidence().events, seen("$again", ME))
    assert_doubled(judge(evidence(outbox=rows, events=events)), "$again")


def test_a_message_in_two_turns_is_found_unless_one_goes_on_with_the_other() -> None:
    rows = (row(mark=mark()), row("$again", "x2", mark=mark("t2")))
    found = evidence(
        turns=(turn(), turn("t2", created_at=901.0)),
        outbox=rows,
        events=(*evidence().events, seen("$again", ME)),
    )
    assert_doubled(judge(found), ASKED)
    tried_again = (turn(outcome=TurnOutcome.INTERRUPTED), turn("t2", created_at=901.0))
    assert problems(judge(replace(found, turns=tried_again))) == []
