"""What may be used in a day: limits, what raises them, what is met, what a command says."""

from __future__ import annotations

import pytest

from orchestrator.core.allowance import (
    Allowance,
    LimitName,
    Limits,
    Order,
    TooMuchError,
    Used,
    add_extra,
    build_allowance,
    find_met,
    find_nearly_met,
    parse_order,
)

USD, TURNS = LimitName.USD, LimitName.TURNS
TODAY, TOMORROW = "2026-11-26", "2026-11-27"


def test_what_is_added_for_a_day_counts_on_that_day_alone_and_adds_up() -> None:
    settings: dict[str, str] = {}
    for more in (5, 2):
        allowance = build_allowance({USD: 10, TURNS: 3}, settings)
        settings.update([add_extra(allowance, TODAY, USD, more)])
    allowance = build_allowance({USD: 10, TURNS: 3}, settings)
    assert allowance.on(TODAY).amounts == {USD: 17, TURNS: 3}
    assert allowance.on(TOMORROW).amounts == {USD: 10, TURNS: 3}
    assert add_extra(allowance, TOMORROW, USD, 1)[1].count(TODAY) == 0


def test_a_setting_stands_over_the_configuration_and_an_unreadable_one_is_none() -> None:
    configured = {USD: 10}
    assert build_allowance(configured, {"budget.usd": "20"}).base == {USD: 20}
    assert build_allowance(configured, {"budget.usd": "off"}).base == {}
    for text in ("", "-5", "x", "1.5"):
        assert build_allowance(configured, {"budget.usd": text}).base == configured
    for text in ("", "[]", "{", '{"amounts": 1}', '{"day": 1, "amounts": {"x": 1}}'):
        assert build_allowance(configured, {"budget.extra": text}).on(TODAY).amounts == configured


@pytest.mark.parametrize(
    ("used", "is_met", "is_near"),
    [
        (0, False, False),
        (79, False, False),
        (80, False, True),
        (99, False, True),
        (100, True, False),
    ],
)
def test_a_limit_is_nearly_met_from_80_percent_and_met_at_100(
    used: int, *, is_met: bool, is_near: bool
) -> None:
    limits, have = Limits(amounts={USD: 100}), Used(amounts={USD: used, TURNS: 10**9})
    assert (find_met(limits, have) is USD) is is_met
    assert (find_nearly_met(limits, have) == [USD]) is is_near


def test_without_limits_nothing_is_ever_met() -> None:
    assert find_met(Allowance().on(TODAY), Used(amounts={USD: 10**12})) is None


@pytest.mark.parametrize(
    ("argument", "order"),
    [
        ("+5", Order(name=USD, amount=5_000_000, is_extra=True)),
        ("+$0.25", Order(name=USD, amount=250_000, is_extra=True)),
        ("+5 turns", Order(name=TURNS, amount=5, is_extra=True)),
        ("usd 20", Order(name=USD, amount=20_000_000)),
        ("turns off", Order(name=TURNS, amount=None)),
        ("person-usd default", Order(name=LimitName.PERSON_USD, amount=None, is_default=True)),
        ("person_turns 7", Order(name=LimitName.PERSON_TURNS, amount=7)),
        *[
            (bad, None)
            for bad in (
                "5",
                "+",
                "+x",
                "usd",
                "usd -5",
                "usd 0",
                "turns 1.5",
                "cats 5",
                "+1 2 3",
                "usd nan",
                "usd 1e3",
                "+5 cats",
                "usd 20 now",
                "٣ usd",
                "usd ٣.٣",
            )
        ],
    ],
)
def test_a_command_is_read_or_is_none(argument: str, order: Order | None) -> None:
    assert parse_order(argument) == order


@pytest.mark.parametrize("argument", ["+1000001", "usd 999999999", "turns 2000000"])
def test_a_number_past_any_budget_is_refused(argument: str) -> None:
    with pytest.raises(TooMuchError):
        parse_order(argument)
