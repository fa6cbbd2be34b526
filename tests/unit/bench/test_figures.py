"""Figures are what they say they are, and the table can be read."""

from __future__ import annotations

import pytest

from bench.support.figures import (
    Figure,
    Section,
    Unit,
    median,
    percentile,
    render_quantity,
    render_ratio,
    render_table,
)


def test_the_median_is_the_middle_one_or_between_the_two_in_the_middle() -> None:
    assert median([9.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 9.0]) == 3.0


def test_the_p95_of_twenty_is_the_nineteenth_whatever_their_order() -> None:
    assert percentile([float(n) for n in range(20, 0, -1)], 95) == 19.0


@pytest.mark.parametrize(("percent", "value"), [(0.1, 1.0), (34.0, 2.0), (100.0, 3.0)])
def test_a_percentile_is_always_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([3.0, 1.0, 2.0], percent) == value


def test_nothing_has_no_median_and_no_percentile() -> None:
    with pytest.raises(ValueError, match="no median"):
        median([])
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 95)


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1])
def test_a_share_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile([1.0], percent)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0004, Unit.SECONDS, "0 ms"),
        (0.0626, Unit.SECONDS, "63 ms"),
        (-0.0126, Unit.SECONDS, "-13 ms"),
        (0.9996, Unit.SECONDS, "1.00 s"),
        (2.345, Unit.SECONDS, "2.35 s"),
        (3 << 19, Unit.BYTES, "1.5 MiB"),
    ],
)
def test_a_quantity_is_printed_with_its_unit(value: float, unit: Unit, text: str) -> None:
    assert render_quantity(value, unit) == text


def test_a_ratio_has_two_digits_and_is_left_out_without_something_to_divide_by() -> None:
    assert render_ratio(3.0, 2.0) == "1.5"
    assert render_ratio(1.0, 8.0) == "0.12"
    assert render_ratio(1.0, None) == ""
    assert render_ratio(1.0, 0.0) == ""


def test_the_table_keeps_its_columns_over_all_sections() -> None:
    lines = render_table(
        [
            Section(
                title="Turns",
                figures=(
                    Figure(name="a turn", value=0.5, than="another", than_value=0.25),
                    Figure(name="a stage", value=12.0),
                ),
            ),
            Section(
                title="Memory",
                figures=(
                    Figure(
                        name="a much longer name",
                        value=1 << 30,
                        unit=Unit.BYTES,
                        than="a process",
                        than_value=1 << 31,
                    ),
                ),
            ),
        ]
    )
    assert lines == [
        "                        measured  compared with              ratio",
        "",
        "Turns",
        "  a turn                  500 ms  another            250 ms    2.0",
        "  a stage                12.00 s",
        "",
        "Memory",
        "  a much longer name  1024.0 MiB  a process      2048.0 MiB   0.50",
    ]
