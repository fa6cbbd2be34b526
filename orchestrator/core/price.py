"""What a request costs, by the API's public list prices: integers, rounded up, in micro-dollars.

The prices are those of https://platform.claude.com/docs/en/about-claude/pricing and of the models'
own pages there, read between 2026-10-24 and 2026-11-12. A price that changes is changed here, with
its date. An account with other terms (a discount, a subscription) is charged less than this says:
a budget is kept by the list.

A model that is not in the list costs the most of each kind that anything in it costs. So a name
that somebody made up is never cheap, and a new model is counted too high until it is added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.ask import Ask
from orchestrator.core.usage import Usage

# "$10 per 1,000 searches"; a fetch costs its tokens alone. Code that runs at the API is billed by
# the hour, beyond 1,550 free ones a month, and no answer says how much it was: it is not counted.
SEARCH_MICRO_USD = 10_000
# `inference_geo: us` costs 1.1 times as much, in tenths.
_US_TENTHS = 11
_NANO_PER_MICRO = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Nano-dollars for each token, which is a thousandth of the list's dollars per million."""

    input: int
    write_5m: int
    write_1h: int
    read: int
    output: int
    fast: int = 6
    """How many times as much fast mode costs: 6 at most, for models that were the first with it."""
    long_from: int | None = None
    """A prompt of more tokens than this has the price `long` in all its parts."""
    long: Price | None = None


def _price(input_usd: float, read_usd: float, output_usd: float, *, fast: int = 6) -> Price:
    """Writing to the cache costs 1.25 times the input for five minutes, twice for an hour."""
    nano = round(input_usd * 1000)
    return Price(
        input=nano,
        write_5m=nano * 5 // 4,
        write_1h=nano * 2,
        read=round(read_usd * 1000),
        output=round(output_usd * 1000),
        fast=fast,
    )


def _with_long(price: Price, *, above: int, long: Price) -> Price:
    return Price(
        input=price.input,
        write_5m=price.write_5m,
        write_1h=price.write_1h,
        read=price.read,
        output=price.output,
        fast=price.fast,
        long_from=above,
        long=long,
    )


_OPUS_3 = _price(15, 1.5, 75)
_OPUS_4_5 = _price(5, 0.5, 25)
_SONNET_4 = _with_long(_price(3, 0.3, 15), above=200_000, long=_price(6, 0.6, 22.5))
_FABLE_5 = _price(10, 1, 50)
_FABLE_5_1 = _price(10, 0.25, 50)
_FABLE_5_2 = _price(8, 0.2, 40, fast=2)

_PRICES: dict[str, Price] = {
    "claude-fable-5-2": _FABLE_5_2,
    "claude-mythos-5-2": _FABLE_5_2,
    "claude-fable-5-1": _FABLE_5_1,
    "claude-mythos-5-1": _FABLE_5_1,
    "claude-fable-5": _FABLE_5,
    "claude-mythos-5": _FABLE_5,
    "claude-opus-5-5": _price(4, 0.2, 20, fast=2),
    "claude-opus-5": _price(5, 0.5, 25, fast=2),
    "claude-opus-4-8": _OPUS_4_5,
    "claude-opus-4-7": _OPUS_4_5,
    # Its fast mode cost 12 times as much for prompts of more than 200,000 tokens.
    "claude-opus-4-6": _price(5, 0.5, 25, fast=12),
    "claude-opus-4-5": _OPUS_4_5,
    "claude-opus-4-1": _OPUS_3,
    "claude-opus-4": _OPUS_3,
    "claude-3-opus": _OPUS_3,
    "claude-sonnet-5-5": _price(2, 0.1, 10),
    "claude-sonnet-5": _price(2, 0.2, 10),
    "claude-sonnet-4-6": _price(3, 0.3, 15),
    "claude-sonnet-4-5": _SONNET_4,
    "claude-sonnet-4": _SONNET_4,
    "claude-3-7-sonnet": _price(3, 0.3, 15),
    "claude-3-5-sonnet": _price(3, 0.3, 15),
    "claude-haiku-5-5": _with_long(
        _price(0.1, 0.01, 0.5), above=100_000, long=_price(0.5, 0.05, 2.5)
    ),
    "claude-haiku-4-5": _price(1, 0.1, 5),
    "claude-3-5-haiku": _price(0.8, 0.08, 4),
    # The list has $0.03 for reading and $0.30 for writing, which is 1.2 times the input.
    "claude-3-haiku": _price(0.25, 0.03, 1.25),
}
_ALL = [p for price in _PRICES.values() for p in (price, price.long) if p is not None]
HIGHEST = Price(
    input=max(p.input for p in _ALL),
    write_5m=max(p.write_5m for p in _ALL),
    write_1h=max(p.write_1h for p in _ALL),
    read=max(p.read for p in _ALL),
    output=max(p.output for p in _ALL),
    fast=max(p.fast for p in _ALL),
)
"""What a model costs that is not in the list."""

# A snapshot's date, or that it is the newest one; the client's own mark for a long context.
_ENDING = re.compile(r"(-\d{8}|-latest|-0)?(\[1m\])?")


def find_price(model: str) -> Price:
    """The price of a model by its name, with or without a date; HIGHEST for one not in the list."""
    for name, price in _PRICES.items():
        if model.startswith(name) and _ENDING.fullmatch(model, len(name)):
            return price
    return HIGHEST


def find_listed(model: str) -> str:
    """The name under which the list has a model; `other` for one that it does not have."""
    for name in _PRICES:
        if model.startswith(name) and _ENDING.fullmatch(model, len(name)):
            return name
    return "other"


def dearest(models: Iterable[str]) -> Price:
    """The price that costs the most for what is written; HIGHEST where there is no model."""
    prices = [find_price(model) for model in models]
    return max(prices, key=lambda p: (p.output, p.input), default=HIGHEST)


def cost_micro_usd(usage: Usage, price: Price) -> int:
    """What one answer costs."""
    if price.long is not None and usage.prompt_tokens > (price.long_from or 0):
        return cost_micro_usd(usage, price.long)
    nano = (
        usage.input_tokens * price.input
        + usage.write_5m_tokens * price.write_5m
        + usage.write_1h_tokens * price.write_1h
        + usage.read_tokens * price.read
        + usage.output_tokens * price.output
    )
    if usage.is_fast:
        nano *= price.fast
    if usage.is_us:
        nano = -(-nano * _US_TENTHS // 10)
    return -(-nano // _NANO_PER_MICRO) + usage.searches * SEARCH_MICRO_USD


def floor_micro_usd(ask: Ask, *, output_tokens: int) -> int:
    """What is charged for a request whose answer never said what it used."""
    usage = Usage(
        write_5m_tokens=ask.input_tokens, output_tokens=output_tokens, is_fast=ask.is_fast
    )
    return cost_micro_usd(usage, dearest(ask.models))


def most_micro_usd(ask: Ask) -> int:
    """What is held back for a request while it runs: all of its input and all that it may write."""
    usage = Usage(
        write_1h_tokens=ask.input_tokens, output_tokens=ask.max_tokens, is_fast=ask.is_fast
    )
    return cost_micro_usd(usage, dearest(ask.models))
