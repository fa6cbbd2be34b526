"""What is taken up again by itself, what the model is told then, and how a message is quoted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.going_on import (
    MAX_RESUMES,
    MAX_WAIT_S,
    WAIT_MARGIN_S,
    GoOn,
    build_prompt_again,
    decide_going_on,
)
from orchestrator.core.quoting import quote
from orchestrator.model import TurnOutcome

NOW = 1_800_000_000.0


def decide(outcome: TurnOutcome, **changes: object) -> GoOn | None:
    usual: dict[str, object] = {
        "resumes": 0,
        "resumes_interrupted": True,
        "waits_for_limit": True,
        "limit_resets_at": None,
        "now": NOW,
    }
    return decide_going_on(outcome, **{**usual, **changes})  # type: ignore[arg-type] # changes of any type


@pytest.mark.parametrize("outcome", list(TurnOutcome))
def test_only_the_loss_of_the_runner_is_resumed(outcome: TurnOutcome) -> None:
    is_lost = outcome is TurnOutcome.INTERRUPTED
    assert decide(outcome) == (GoOn(resumes=1) if is_lost else None)
    assert decide(outcome, resumes_interrupted=False) is None


def test_after_three_resumes_in_a_row_nothing_goes_on_by_itself() -> None:
    assert decide(TurnOutcome.INTERRUPTED, resumes=MAX_RESUMES - 1) == GoOn(resumes=MAX_RESUMES)
    assert decide(TurnOutcome.INTERRUPTED, resumes=MAX_RESUMES) is None
    assert decide(TurnOutcome.FAILED, resumes=MAX_RESUMES, limit_resets_at=NOW) is None


@pytest.mark.parametrize(
    ("resets_at", "not_before"),
    [
        (NOW + 3600, NOW + 3600 + WAIT_MARGIN_S),
        (NOW - 3600, NOW + WAIT_MARGIN_S),
        (-math.inf, NOW + WAIT_MARGIN_S),
        (NOW + MAX_WAIT_S, NOW + MAX_WAIT_S + WAIT_MARGIN_S),
        (NOW + MAX_WAIT_S + 1, None),
        (math.inf, None),
        (math.nan, None),
        (None, None),
    ],
)
def test_a_usage_limit_is_waited_for_a_week_at_most(
    resets_at: float | None, not_before: float | None
) -> None:
    found = decide(TurnOutcome.FAILED, limit_resets_at=resets_at)
    assert (found.not_before if found else None) == not_before
    assert decide(TurnOutcome.FAILED, limit_resets_at=resets_at, waits_for_limit=False) is None


def test_the_model_is_told_before_the_message_that_part_of_it_may_be_done() -> None:
    prompt = build_prompt_again("/rm everything")
    note, _, message = prompt.partition("\n\n")
    assert message == "/rm everything"
    assert "may be done already" in note


@given(st.text(max_size=2000))
def test_a_quote_is_one_short_line_of_code_whatever_was_written(text: str) -> None:
    quoted = quote(text)
    assert len(quoted) <= 82
    assert quoted[0] == quoted[-1] == "`"
    assert not set(quoted[1:-1]) & set("`\n\r\x1b\u202e\x00")


def test_a_long_message_is_quoted_by_its_beginning() -> None:
    assert quote("fix `this`\n\nplease") == "`fix 'this' please`"
    assert quote("x" * 500) == "`" + "x" * 79 + "…`"
    assert quote(" \n ") == "`…`"
