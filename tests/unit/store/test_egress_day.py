"""The bytes of a room's day, kept by slug."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.egress.day_budget import DayBook, MemoryDayBook
from orchestrator.model import RoomSlug
from orchestrator.store.database import open_database
from orchestrator.store.egress_day_table import EgressDayTable

A, B = RoomSlug("a"), RoomSlug("b")


async def _contract(book: DayBook) -> None:
    assert await book.add(A, "2026-11-26", 10) == 10
    assert await book.add(A, "2026-11-26", 5) == 15
    assert await book.add(A, "2026-11-26", -7) == 8
    assert await book.add(B, "2026-11-26", 1) == 1
    assert await book.add(A, "2026-11-27", 2) == 2
    assert await book.add(A, "2026-11-27", -9) == 0


async def test_memory_and_database_keep_the_same_book(tmp_path: Path) -> None:
    await _contract(MemoryDayBook())
    async with open_database(tmp_path / "s") as database:
        await _contract(EgressDayTable(database))


async def test_what_was_used_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_database(tmp_path / "s") as database:
        await EgressDayTable(database).add(A, "2026-11-26", 10)
    async with open_database(tmp_path / "s") as database:
        assert await EgressDayTable(database).add(A, "2026-11-26", 1) == 11


async def test_a_month_of_days_is_kept_and_an_older_one_counts_as_spent(tmp_path: Path) -> None:
    async with open_database(tmp_path / "s") as database:
        book = EgressDayTable(database)
        for day in range(1, 32):
            await book.add(A, f"2026-10-{day:02}", day)
        assert await book.add(A, "2026-11-01", 1) == 1
        assert await book.add(A, "2026-10-02", 0) == 2
        assert await book.add(A, "2026-10-01", 0) > 1 << 60


@pytest.mark.parametrize("size", [-1, 0])
async def test_a_new_day_never_begins_below_zero(tmp_path: Path, size: int) -> None:
    async with open_database(tmp_path / "s") as database:
        assert await EgressDayTable(database).add(A, "2026-11-26", size) == 0
