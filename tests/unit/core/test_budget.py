"""When a room may spend more, when it waits, and what it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import texts
from orchestrator.core.api_policy import ApiPolicy, build_policy, decode_policy, encode_policy
from orchestrator.core.budget import (
    Verdict,
    days_around,
    decide,
    micro_usd,
    not_now,
    over_budget,
    seconds_left,
    utc_day,
)
from orchestrator.core.egress_http import MAX_BODY_BYTES

# 2026-11-26, 23:59:30 UTC.
LATE = 1_795_737_570.0


@pytest.mark.parametrize(
    ("limit", "spent", "held_back", "verdict"),
    [
        (None, 10**12, 10**12, Verdict.ADMIT),
        (100, 0, 0, Verdict.ADMIT),
        (100, 99, 0, Verdict.ADMIT),
        (100, 50, 49, Verdict.ADMIT),
        (100, 50, 50, Verdict.WAIT),
        (100, 0, 500, Verdict.WAIT),
        (100, 100, 0, Verdict.REFUSE),
        (100, 101, 500, Verdict.REFUSE),
    ],
)
def test_what_is_spent_and_held_back_decides(
    limit: int | None, spent: int, held_back: int, verdict: Verdict
) -> None:
    assert decide(limit=limit, spent=spent, held_back=held_back) is verdict


@given(st.integers(1, 10**9), st.lists(st.integers(1, 10**9), max_size=30))
def test_at_its_worst_the_last_request_that_was_let_through_ends_above_the_limit(
    limit: int, costs: list[int]
) -> None:
    spent = 0
    for cost in costs:
        if decide(limit=limit, spent=spent, held_back=0) is Verdict.ADMIT:
            assert spent < limit
            spent += cost
    assert spent < limit + max(costs, default=0)


def test_a_day_is_utcs_and_ends_at_midnight() -> None:
    assert utc_day(LATE) == "2026-11-26"
    assert seconds_left(LATE) == 30
    assert utc_day(LATE + 30) == "2026-11-27"
    assert seconds_left(LATE + 30) == 86400
    assert days_around(LATE) == ("2026-11-25", "2026-11-26", "2026-11-27")


def test_an_amount_is_never_rounded_to_nothing() -> None:
    assert micro_usd(5.0) == 5_000_000
    assert micro_usd(0.1) == 100_000
    assert micro_usd(1e-9) == 1


def test_the_refusal_names_the_amounts_and_when_it_ends() -> None:
    denial = over_budget(limit=5_000_000, spent=5_031_234, left_s=3 * 3600 + 61)
    assert denial.message == (
        "This room has spent its budget for today: $5.03 of $5.00. It gets no more answers of the "
        "model until 00:00 UTC, in 3 h 2 min; an admin can raise it for today: `!budget +1`."
    )
    assert (denial.status, denial.may_retry) == (429, False)
    assert not_now().may_retry


def test_that_sentence_is_found_in_what_the_cli_shows_and_nothing_else_is() -> None:
    denial = over_budget(limit=1, spent=2, left_s=1)
    shown = f"API Error: Request rejected (429) · {denial.message}"
    assert texts.find_gateway_refusal(shown) == "t" + denial.message[1:].rstrip(".")
    assert texts.find_gateway_refusal("API Error: 429 slow down") is None
    refused = texts.find_gateway_refusal(f"API Error: 403 {texts.NOT_LEAVING}: the beta x.")
    assert refused is not None
    assert refused.startswith("this is not allowed to leave a room: `the beta x`; the operator")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (9_990, "$0.00999"),
        (10_000, "$0.01"),
        (1_234_560_000, "$1,234.56"),
    ],
)
def test_amounts_are_shown_in_dollars(amount: int, shown: str) -> None:
    assert texts.usd(amount) == shown


def test_a_status_line_has_what_was_spent_and_the_limit_if_there_is_one() -> None:
    assert texts.spent_today(1_230_000, 5.0) == "$1.23 of $5.00 spent today (UTC)"
    assert texts.spent_today(0, None) == "$0.00 spent today (UTC)"


def test_a_policy_is_the_same_after_it_was_written_and_read() -> None:
    policy = build_policy(
        server_tools=["mcp", "urls"], betas=["b-1"], fields=["f"], max_body_bytes=9
    )
    for held in (policy, ApiPolicy()):
        assert decode_policy(encode_policy(held)) == held


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b'[["x"],[],[],1]', b"[[],[],[],0]", b"[1,2,3,4]"]
)
def test_a_damaged_policy_is_an_error_and_not_an_open_one(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_policy(raw)


@pytest.mark.parametrize("size", [0, -1, MAX_BODY_BYTES + 1])
def test_a_size_is_within_what_the_gateway_holds(size: int) -> None:
    with pytest.raises(ValueError, match="max_body_bytes"):
        ApiPolicy(max_body_bytes=size)
