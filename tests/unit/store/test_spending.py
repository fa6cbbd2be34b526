"""What rooms have spent: by UTC day, through restarts, a full disk and an upgraded room."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.model import RoomId, RoomSlug, UserId
from orchestrator.store import spending as spending_module
from orchestrator.store.api import Replacement
from orchestrator.store.database import Database, open_database
from orchestrator.store.spending import Spending, open_spending
from orchestrator.store.spending_table import SpendingTable, Spent
from orchestrator.store.store import open_store

A, B = RoomSlug("a"), RoomSlug("b")
# 2026-11-26, 23:59:30 UTC.
LATE = 1_795_737_570.0
TODAY = "2026-11-26"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = LATE

    def __call__(self) -> float:
        return self.now


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 (nothing signals it)
            await asyncio.sleep(0.005)


def _rows(path: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT * FROM spending ORDER BY slug, day").fetchall()
    db.close()
    return found


async def test_what_was_spent_is_there_after_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "db", Clock()
    for life in range(1, 4):
        async with open_database(path) as db, open_spending(db, clock=clock) as spending:
            assert spending.spent_micro_usd(A) == 7 * (life - 1)
            spending.charge(A, 7)
            spending.charge(B, 0)
            assert spending.spent_micro_usd(A) == 7 * life
    assert _rows(path) == [("a", TODAY, 3, 21), ("b", TODAY, 3, 0)]


async def test_charges_are_written_together_and_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending_module, "WRITE_EVERY_S", 0.01)
    path = tmp_path / "db"
    async with open_database(path) as db, open_spending(db, clock=Clock()) as spending:
        for _ in range(1000):
            spending.charge(A, 1)
        await _until(lambda: not spending._unwritten)
        assert _rows(path) == [("a", TODAY, 1000, 1000)]


async def test_a_new_day_begins_at_nothing_and_the_old_one_is_kept(tmp_path: Path) -> None:
    path, clock = tmp_path / "db", Clock()
    async with open_database(path) as db, open_spending(db, clock=clock) as spending:
        spending.charge(A, 5)
        assert spending.seconds_left() == 30
        clock.now += 30
        assert spending.spent_micro_usd(A) == 0
        spending.charge(A, 6)
        clock.now -= 30
        assert spending.spent_micro_usd(A) == 5
    assert _rows(path) == [("a", TODAY, 1, 5), ("a", "2026-11-27", 1, 6)]


async def test_days_of_long_ago_are_forgotten_in_memory_and_in_the_table(tmp_path: Path) -> None:
    path, clock = tmp_path / "db", Clock()
    async with open_database(path) as db, open_spending(db, clock=clock) as spending:
        spending.charge(A, 5)
        await spending.write()
        clock.now += 401 * 86400
        spending.charge(A, 6)
        await spending.write()
        assert len(spending._totals) == 1
    assert [row[3] for row in _rows(path)] == [6]


async def test_a_room_that_is_upgraded_takes_what_it_spent_along(tmp_path: Path) -> None:
    old, new = RoomId("!old:x"), RoomId("!new:x")
    async with open_store(tmp_path) as store, open_spending(store.database, clock=Clock()) as held:
        rows = [await store.rooms.ensure(room, joined=True) for room in (old, new)]
        held.charge(rows[0].slug, 5)
        await store.rooms.note_replaced_by(old, new, now=1.0)
        await store.rooms.note_replaces(new, old)
        assert await store.move_room(Replacement(old=old, new=new), [], now=2.0)
        current = await store.rooms.get(new)
        assert current is not None
        assert held.spent_micro_usd(current.slug) == 5


async def test_a_total_is_never_replaced_by_a_smaller_one_and_a_repeat_adds_nothing(
    tmp_path: Path,
) -> None:
    async with open_database(tmp_path / "db") as db:
        table = SpendingTable(db)
        for spent in (Spent(3, 30), Spent(3, 30), Spent(1, 10)):
            await table.keep({(A, TODAY): spent}, today=TODAY)
        assert await table.load([TODAY]) == {(A, TODAY): Spent(3, 30)}
        assert await table.load(["2026-11-25"]) == {}


async def test_what_could_not_be_written_is_written_later_and_counts_meanwhile(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    async with open_database(path) as db:
        table = FailingTable(db)
        spending = Spending(table, {}, clock=Clock())
        spending.charge(A, 5)
        with pytest.raises(StoreError):
            await spending.write()
        assert spending.spent_micro_usd(A) == 5
        table.works = True
        await spending.write()
    assert _rows(path) == [("a", TODAY, 1, 5)]


async def test_what_is_charged_while_a_total_is_written_is_written_after_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    async with open_database(path) as db:
        spending = Spending(ChargingTable(db, lambda: spending.charge(A, 1)), {}, clock=Clock())
        spending.charge(A, 5)
        await spending.write()
        assert spending._unwritten
        await spending.write()
        assert not spending._unwritten
    assert _rows(path) == [("a", TODAY, 2, 6)]


async def test_a_disk_that_takes_nothing_ends_the_daemons_end_within_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending_module, "_LAST_WRITE_S", 0.05)
    monkeypatch.setattr(spending_module, "SpendingTable", StuckTable)
    async with asyncio.timeout(30), open_database(tmp_path / "db") as db:
        async with open_spending(db, clock=Clock()) as spending:
            spending.charge(A, 5)
        assert spending.spent_micro_usd(A) == 5


async def test_a_database_that_fails_ends_what_is_open_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending_module, "SpendingTable", FailingTable)
    async with open_database(tmp_path / "db") as db:

        async def spend() -> None:
            async with open_spending(db, clock=Clock()) as spending:
                spending.charge(A, 5)
                await asyncio.Event().wait()

        with pytest.raises(BaseExceptionGroup) as raised:
            await spend()
    assert raised.group_contains(StoreError)


class FailingTable(SpendingTable):
    """Writes nothing until it is told to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.works = False

    async def keep(self, *args: object, **kwargs: object) -> None:
        if not self.works:
            raise StoreError
        await super().keep(*args, **kwargs)  # type: ignore[arg-type]


class StuckTable(SpendingTable):
    """A full disk: a write waits for as long as it is let."""

    async def keep(self, *_: object, **__: object) -> None:
        await asyncio.Event().wait()


class ChargingTable(SpendingTable):
    """Something is spent while it writes, the first time."""

    def __init__(self, database: Database, charge: Callable[[], None]) -> None:
        super().__init__(database)
        self._charge: Callable[[], None] | None = charge

    async def keep(self, *args: object, **kwargs: object) -> None:
        await super().keep(*args, **kwargs)  # type: ignore[arg-type]
        if self._charge is not None:
            self._charge()
        self._charge = None


async def test_what_a_person_cost_is_summed_over_rooms_and_is_there_after_a_restart(
    tmp_path: Path,
) -> None:
    path, clock = tmp_path / "db", Clock()
    alice, bob = UserId("@alice:x"), UserId("@bob:x")
    for life in range(1, 3):
        async with open_database(path) as db, open_spending(db, clock=clock) as spending:
            spending.charge(A, 7, people=(alice, bob), model="m")
            spending.charge(B, 5, people=(alice,), model="n")
            spending.charge(B, 3)
            assert spending.person_micro_usd(alice) == 9 * life
            assert spending.person_micro_usd(bob) == 3 * life
            assert spending.spent_micro_usd(A) == 7 * life
    async with open_database(path) as db:
        table = SpendingTable(db)
        parts = await table.parts_of(B, since=TODAY)
        found = {(p.person, p.model): s.micro_usd for p, s in parts.items()}
        assert found == {(alice, "n"): 10, ("", ""): 6}
        assert (await table.total_of(B, since=TODAY)).micro_usd == 16
        assert await table.parts_of(B, since="2026-11-27") == {}


async def test_a_persons_next_day_begins_with_nothing(tmp_path: Path) -> None:
    clock, alice = Clock(), UserId("@alice:x")
    async with (
        open_database(tmp_path / "db") as db,
        open_spending(db, clock=clock) as spending,
    ):
        spending.charge(A, 7, people=(alice,))
        clock.now += 60
        assert spending.person_micro_usd(alice) == 0
