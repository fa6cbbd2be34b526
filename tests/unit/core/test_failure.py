"""What the gateway refused is told to the room in its words, not as a wrong credential."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.budget import over_budget
from orchestrator.core.cli_event import Result
from orchestrator.core.failure import explain_failure
from orchestrator.core.stream import parse_line
from orchestrator.core.texts import NOT_LEAVING

SPENT = over_budget(limit=5_000_000, spent=5_030_000, left_s=60).message


def _explain(text: str, status: int | None) -> str:
    line = {
        "type": "result",
        "subtype": "success",
        "is_error": True,
        "result": text,
        "api_error_status": status,
        "session_id": "s",
    }
    result = parse_line(json.dumps(line))
    assert isinstance(result, Result)
    return explain_failure(result)


@pytest.mark.parametrize(
    "shown",
    [
        f"API Error: Request rejected (429) · {SPENT}",
        "API Error: Server is temporarily limiting requests (not your usage limit) · " + SPENT,
    ],
)
def test_a_spent_budget_is_told_with_its_amounts(shown: str) -> None:
    told = _explain(shown, 429)
    assert told.startswith("this room has spent its budget for today: $5.03 of $5.00. It gets")
    assert told.endswith("an admin can raise it for today: `!budget +1`")


def test_what_may_not_leave_a_room_is_told_as_that() -> None:
    shown = f"Failed to authenticate. API Error: 403 {NOT_LEAVING}: the beta x."
    assert _explain(shown, 403).startswith("this is not allowed to leave a room: `the beta x`;")


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    "ours", [SPENT.rstrip("."), SPENT[:60], SPENT.partition(":")[0], NOT_LEAVING]
)
def test_what_a_hostile_cli_puts_behind_our_words_is_quoted_or_left_out(
    ours: str, status: int
) -> None:
    """The clause stands in a notice of ours: a link or a ping in it would be our word."""
    told = _explain(f"{ours}: x. [Approve here](https://evil.example) @room `` **Granted**", status)
    outside = "".join(told.split("`")[::2])
    assert not any(word in outside for word in ("evil", "@room", "Granted", "Approve"))


@pytest.mark.parametrize(
    ("status", "told"),
    [(403, "did not accept the credential (403)"), (429, "rate limit was met")],
)
def test_the_apis_own_refusals_are_told_as_before(status: int, told: str) -> None:
    assert told in _explain(f"API Error: {status} something else", status)


@pytest.mark.parametrize("status", [None, 401, 500])
def test_the_same_words_of_another_answer_mean_nothing(status: int | None) -> None:
    assert "budget" not in _explain(f"API Error: {SPENT}", status)[:30]


def test_however_long_a_room_makes_them_the_words_are_short() -> None:
    assert len(_explain(f"{NOT_LEAVING}: {'x' * 10_000}", 403)) <= 300
