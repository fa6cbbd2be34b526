"""Figures and how they are printed: a value, what it is compared with, their ratio. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_HEAD = ("", "measured", "compared with", "", "ratio")
_GAP = "  "


class Unit(StrEnum):
    """What a value counts."""

    SECONDS = "s"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. `than` and `than_value` are absent where there is nothing to say."""

    name: str
    value: float
    unit: Unit = Unit.SECONDS
    than: str = ""
    than_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures under a heading."""

    title: str
    figures: tuple[Figure, ...]


def median(values: Sequence[float]) -> float:
    """The median. Raises ValueError for no values."""
    if not values:
        msg = "there is no median of nothing"
        raise ValueError(msg)
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: one of the values, so that few of them are not extrapolated."""
    if not values or not 0 < percent <= 100:
        msg = "a percentile needs values and a share above 0, up to 100"
        raise ValueError(msg)
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def render_quantity(value: float, unit: Unit) -> str:
    """Seconds with two decimals, below one second milliseconds; bytes as MiB with one decimal."""
    if unit is Unit.BYTES:
        return f"{value / (1 << 20):.1f} MiB"
    milliseconds = f"{value * 1000:.0f} ms"
    return milliseconds if abs(value) < 1 and milliseconds != "1000 ms" else f"{value:.2f} s"


def render_ratio(value: float, than: float | None) -> str:
    """How many times the other one; empty where there is no other one, or it is nothing."""
    if than is None or than <= 0:
        return ""
    ratio = value / than
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def render_table(sections: Sequence[Section]) -> list[str]:
    """The lines of the table, its columns aligned over all sections; numbers to the right."""
    cells = [_cells(figure) for section in sections for figure in section.figures]
    widths = [max(len(row[i]) for row in [_HEAD, *cells]) for i in range(len(_HEAD))]
    lines = [_line(_HEAD, widths)]
    for section in sections:
        lines += ["", section.title]
        lines += [_line(_cells(figure), widths) for figure in section.figures]
    return lines


def _cells(figure: Figure) -> tuple[str, ...]:
    than_value = figure.than_value
    return (
        f"  {figure.name}",
        render_quantity(figure.value, figure.unit),
        figure.than,
        "" if than_value is None else render_quantity(than_value, figure.unit),
        render_ratio(figure.value, than_value),
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, value, than, than_value, ratio = widths
    return _GAP.join(
        (
            cells[0].ljust(name),
            cells[1].rjust(value),
            cells[2].ljust(than),
            cells[3].rjust(than_value),
            cells[4].rjust(ratio),
        )
    ).rstrip()
