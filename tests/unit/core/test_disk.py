"""A room's disk in numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.disk import (
    Allowance,
    DiskUsage,
    FullDisk,
    Shortage,
    image_bytes,
    most_files,
)

EMPTY = DiskUsage(used_bytes=0, limit_bytes=1000, files=0, limit_files=100, is_enforced=False)


def used(used_bytes: int, files: int = 0, *, is_enforced: bool = False) -> DiskUsage:
    return replace(EMPTY, used_bytes=used_bytes, files=files, is_enforced=is_enforced)


@pytest.mark.parametrize(
    ("usage", "shortage"),
    [
        (used(980), None),
        (used(981), Shortage.SPACE),
        (used(0, 98), None),
        (used(0, 99), Shortage.FILES),
        (used(2000, 200), Shortage.SPACE),
    ],
)
def test_a_disk_is_full_when_less_than_a_fiftieth_is_left(
    usage: DiskUsage, shortage: Shortage | None
) -> None:
    assert usage.shortage() is shortage


def test_a_full_disk_is_told_once_and_again_only_after_a_twentieth_was_free() -> None:
    full = FullDisk()
    told = [full.note(used(n)) for n in (0, 990, 1000, 975, 990, 951, 990, 950, 960, 990, 995)]
    space = Shortage.SPACE
    assert told == [None, space, None, None, None, None, None, None, None, space, None]


def test_a_counted_room_within_its_limit_has_to_stay_there() -> None:
    allowance = Allowance()
    assert not allowance.is_exceeded(used(100))
    assert not allowance.is_exceeded(used(1000))
    assert allowance.is_exceeded(used(1001))
    assert allowance.is_exceeded(used(0, 101))


def test_a_counted_room_over_its_limit_may_clean_up_but_not_grow_by_more_than_a_tenth() -> None:
    allowance = Allowance()
    assert not allowance.is_exceeded(used(1500, 150))
    assert not allowance.is_exceeded(used(1600, 160))
    assert allowance.is_exceeded(used(1601))
    assert allowance.is_exceeded(used(0, 161))


def test_what_the_kernel_keeps_within_its_limit_is_never_stopped_by_us() -> None:
    allowance = Allowance()
    assert not allowance.is_exceeded(used(0, is_enforced=True))
    assert not allowance.is_exceeded(used(5000, is_enforced=True))
    assert not used(5000, is_enforced=True).is_hopeless


def test_no_turn_helps_a_counted_room_past_twice_its_limit() -> None:
    assert not used(2000, 200).is_hopeless
    assert used(2001).is_hopeless
    assert used(0, 201).is_hopeless
    # What still runs there is stopped, however much was there before.
    assert Allowance().is_exceeded(used(2001))
    assert Allowance().is_exceeded(used(0, 201))


@pytest.mark.parametrize("limit", [1, 1 << 20, 16 << 20, (5 << 30) + 1, 1 << 40])
def test_an_image_is_whole_blocks_no_larger_than_the_limit_but_large_enough_to_work(
    limit: int,
) -> None:
    size = image_bytes(limit)
    assert size % 4096 == 0
    assert size == 16 << 20 if limit < 16 << 20 else limit - 4096 < size <= limit
    assert most_files(limit) == max(4096, size // 16384)
