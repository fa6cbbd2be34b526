"""When a host has too little memory, by its kernel's word, and when it has enough again."""

from __future__ import annotations

import pytest

from orchestrator.core.memory_pressure import (
    MemoryPressure,
    MemorySight,
    PressureLimits,
    limited_available_percent,
    parse_available_percent,
    parse_stalled_percent,
)

LIMITS = PressureLimits(stalled_percent=10, available_percent=10)
PSI = """\
some avg10=12.34 avg60=1.00 avg300=0.20 total=123456
full avg10=99.00 avg60=0.00 avg300=0.00 total=999
"""
MEMINFO = """\
MemTotal:       24684096 kB
MemFree:          115592 kB
MemAvailable:    6171024 kB
Buffers:          218352 kB
"""


def saw(stalled: float | None = None, available: float | None = None) -> MemorySight:
    return MemorySight(stalled_percent=stalled, available_percent=available)


@pytest.mark.parametrize(
    ("looks", "answers"),
    [
        # Waiting: on at the limit, over at half of it, not in between.
        ([(9.9, 90), (10, 90), (5.1, 90), (5.0, 90)], [False, True, True, False]),
        # Too little left: on below the limit, over with half as much again.
        ([(0, 10), (0, 9.9), (0, 14.9), (0, 15)], [False, True, True, False]),
        # Either is enough to begin, and both have to be over.
        ([(50, 5), (0, 5), (0, 50)], [True, True, False]),
        ([(50, 5), (50, 50), (0, 50)], [True, True, False]),
        # Between the two limits nothing begins, and nothing ends.
        ([(7, 12), (7, 12)], [False, False]),
        ([(11, 12), (7, 50), (9, 50), (7, 50)], [True, True, True, True]),
        # A kernel without PSI.
        ([(None, 50), (None, 5), (None, 12), (None, 20)], [False, True, True, False]),
        # One that says nothing: nothing is done, and what was begun ends.
        ([(None, None)], [False]),
        ([(20, None), (None, None)], [True, False]),
    ],
)
def test_pressure_begins_at_its_limit_and_ends_well_clear_of_it(
    looks: list[tuple[float | None, float | None]], answers: list[bool]
) -> None:
    pressure = MemoryPressure(LIMITS)
    assert [pressure.note(saw(*look)) for look in looks] == answers


def test_what_is_not_looked_at_is_no_pressure() -> None:
    by_waiting = MemoryPressure(PressureLimits(stalled_percent=10, available_percent=None))
    assert not by_waiting.note(saw(0, 1))
    by_rest = MemoryPressure(PressureLimits(stalled_percent=None, available_percent=10))
    assert not by_rest.note(saw(100, 50))
    assert not MemoryPressure(PressureLimits(stalled_percent=None, available_percent=None)).note(
        saw(100, 0)
    )


def test_a_high_limit_can_be_cleared_too() -> None:
    pressure = MemoryPressure(PressureLimits(stalled_percent=None, available_percent=90))
    assert pressure.note(saw(available=89))
    assert pressure.note(saw(available=94))
    assert not pressure.note(saw(available=96))


def test_the_worse_of_two_looks_counts() -> None:
    assert saw(1, 50).worse_of(saw(20, 80)) == saw(20, 50)
    assert saw(None, 50).worse_of(saw(3, None)) == saw(3, 50)
    assert saw().worse_of(saw()) == saw()


def test_the_kernels_words_are_read() -> None:
    assert parse_stalled_percent(PSI) == 12.34
    assert parse_available_percent(MEMINFO) == pytest.approx(25.0)


@pytest.mark.parametrize("text", ["", "full avg10=3.00 total=1\n", "some avg10=\n", "some avg10=x"])
def test_no_word_of_waiting_is_no_figure(text: str) -> None:
    assert parse_stalled_percent(text) is None


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 100 kB\n", "MemAvailable: 5 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB"]
)
def test_no_word_of_what_is_left_is_no_figure(text: str) -> None:
    assert parse_available_percent(text) is None


def test_what_a_limit_leaves_counts_the_files_that_nobody_used_lately() -> None:
    stat = "anon 600\nactive_file 100\ninactive_file 200\n"
    assert limited_available_percent("1000\n", "900\n", stat) == pytest.approx(30.0)
    assert limited_available_percent("1000\n", "1300\n", stat) == 0
    assert limited_available_percent("max\n", "900\n", stat) is None
    assert limited_available_percent("1000\n", "", stat) is None
    assert limited_available_percent("1000\n", "900\n", "anon 600\n") is None
