"""Prices: by the public list, in whole numbers, and never cheap for a name that nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.ask import MAX_INPUT_TOKENS, Ask, read_ask
from orchestrator.core.price import (
    HIGHEST,
    SEARCH_MICRO_USD,
    cost_micro_usd,
    dearest,
    find_price,
    floor_micro_usd,
    most_micro_usd,
)
from orchestrator.core.usage import Usage
from orchestrator.model import JsonValue

MILLION = 1_000_000


def _usd(model: str, **counts: int) -> float:
    return cost_micro_usd(Usage(**counts), find_price(model)) / MILLION  # type: ignore[arg-type]


# The list of November 2026: dollars for a million tokens of input, of writing to the cache for five
# minutes and for an hour, of reading from it, of output.
@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("claude-fable-5-2", (8, 10, 16, 0.20, 40)),
        ("claude-fable-5-1", (10, 12.50, 20, 0.25, 50)),
        ("claude-mythos-5", (10, 12.50, 20, 1, 50)),
        ("claude-opus-5-5", (4, 5, 8, 0.20, 20)),
        ("claude-opus-5", (5, 6.25, 10, 0.50, 25)),
        ("claude-opus-4-5-20251101", (5, 6.25, 10, 0.50, 25)),
        ("claude-opus-4-1-20250805", (15, 18.75, 30, 1.50, 75)),
        ("claude-opus-4-0", (15, 18.75, 30, 1.50, 75)),
        ("claude-sonnet-5-5", (2, 2.50, 4, 0.10, 10)),
        ("claude-sonnet-5[1m]", (2, 2.50, 4, 0.20, 10)),
        ("claude-sonnet-4-6", (3, 3.75, 6, 0.30, 15)),
        ("claude-haiku-4-5-20251001", (1, 1.25, 2, 0.10, 5)),
        ("claude-3-5-haiku-latest", (0.80, 1, 1.60, 0.08, 4)),
    ],
)
def test_a_million_tokens_of_each_kind_cost_what_the_list_says(
    model: str, prices: tuple[float, ...]
) -> None:
    kinds = ("input_tokens", "write_5m_tokens", "write_1h_tokens", "read_tokens", "output_tokens")
    assert tuple(_usd(model, **{kind: MILLION}) for kind in kinds) == prices


def test_a_long_prompt_has_the_prices_of_a_long_prompt() -> None:
    assert _usd("claude-haiku-5-5", input_tokens=100_000, output_tokens=10_000) == 0.015
    assert _usd("claude-haiku-5-5", input_tokens=100_001, output_tokens=10_000) == 0.075001
    assert _usd("claude-sonnet-4-5", read_tokens=200_001) == pytest.approx(0.120001)


def test_fast_mode_a_region_and_searches_cost_more() -> None:
    assert _usd("claude-opus-5-5", output_tokens=1000, is_fast=True) == 0.04
    assert _usd("claude-opus-5-5", output_tokens=1000, is_us=True) == 0.022
    assert _usd("claude-opus-5-5", searches=3) == 3 * SEARCH_MICRO_USD / MILLION == 0.03


@pytest.mark.parametrize(
    "name",
    ["", "claude", "haiku", "claude-opus-6", "claude-haiku-5-5-free", "gpt-4", "claude-3-haiku\n"],
)
def test_a_name_that_is_not_in_the_list_costs_the_most(name: str) -> None:
    assert find_price(name) is HIGHEST
    assert dearest([name, "claude-haiku-5-5"]) is HIGHEST
    assert dearest([]) is HIGHEST


@given(st.text(max_size=40), st.integers(0, 10**9), st.integers(0, 10**9))
def test_no_model_is_free_and_none_is_dearer_than_the_dearest(
    name: str, read: int, written: int
) -> None:
    usage = Usage(input_tokens=read, output_tokens=written)
    cost = cost_micro_usd(usage, find_price(name))
    assert (cost > 0) == bool(read or written)
    assert cost <= cost_micro_usd(usage, HIGHEST)


@given(st.integers(0, MAX_INPUT_TOKENS), st.integers(0, 128_000), st.integers(0, 128_000))
def test_what_is_held_back_covers_whatever_an_answer_within_it_costs(
    given_tokens: int, most: int, written: int
) -> None:
    ask = Ask(models=("claude-opus-5-5",), max_tokens=most, input_tokens=given_tokens)
    usage = Usage(input_tokens=given_tokens, output_tokens=min(written, most))
    assert cost_micro_usd(usage, find_price("claude-opus-5-5")) <= most_micro_usd(ask)
    assert floor_micro_usd(ask, output_tokens=min(written, most)) <= most_micro_usd(ask)


def _ask(size: int = 1000, attachments: int = 0, attached: int = 0, **body: JsonValue) -> Ask:
    return read_ask(body, size=size, attachments=attachments, attached_bytes=attached)


def test_every_model_that_a_request_names_counts_with_the_dearest_price() -> None:
    ask = _ask(
        model="claude-haiku-5-5",
        fallbacks=[{"model": "claude-sonnet-5"}],
        tools=[{"type": "advisor_20260301", "model": "claude-opus-4-1"}, {"name": "x"}],
        max_tokens=10,
    )
    assert ask.models == ("claude-haiku-5-5", "claude-sonnet-5", "claude-opus-4-1")
    assert dearest(ask.models) == find_price("claude-opus-4-1")


@pytest.mark.parametrize("given_limit", [None, "9", -1, True, 10**30, 1.5])
def test_a_limit_that_is_none_counts_as_the_largest_answer(given_limit: JsonValue) -> None:
    assert _ask(max_tokens=given_limit).max_tokens == 128_000


def test_text_is_estimated_by_its_size_and_an_image_is_not() -> None:
    assert _ask(size=1000).input_tokens == 500
    assert _ask(size=1_001_000, attachments=1, attached=1_000_000).input_tokens == 125_500
    assert _ask(size=1_100, attachments=1, attached=100).input_tokens == 5_500
    assert _ask(size=32 << 20).input_tokens == MAX_INPUT_TOKENS


def test_an_ask_is_the_same_after_it_was_written_and_read() -> None:
    ask = _ask(model="m", speed="fast", max_tokens=7)
    assert ask.is_fast
    assert Ask.decode(ask.encode()) == ask
    for damaged in ([], [[], "7", 1, False], ["m", 7, 1, False], [[], 7, None, False]):
        with pytest.raises((TypeError, ValueError)):
            Ask.decode(damaged)  # type: ignore[arg-type]
