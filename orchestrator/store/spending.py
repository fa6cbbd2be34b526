"""What rooms have spent, kept in memory and written to the table once a second.

The gateway reads and adds without waiting, so a disk that takes nothing delays no answer: the
budget is kept by the memory meanwhile, and written when the disk takes it again. A kill loses what
was added in the last second (or since the disk was full), never a total that was written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn

from loguru import logger

from orchestrator.core.budget import days_around, seconds_left, share_out, utc_day
from orchestrator.errors import StoreError
from orchestrator.model import RoomSlug, UserId
from orchestrator.store.database import Database
from orchestrator.store.spending_table import Part, RoomDay, SpendingTable, Spent

# One small transaction for all rooms together.
WRITE_EVERY_S = 1.0
# At the end: one transaction, unless the disk takes nothing.
_LAST_WRITE_S = 1.0
# What a room's requests cost that no turn of this process is known for.
_NOBODY = UserId("")


class Spending:
    """A ledger of the egress gateway. Invariant: a total only grows, and is written whole."""

    def __init__(
        self,
        table: SpendingTable,
        totals: dict[RoomDay, Spent],
        parts: dict[Part, Spent] | None = None,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`totals` and `parts`: what the tables have of the days around now."""
        self._table = table
        self._totals = totals
        self._clock = clock
        self._unwritten: set[RoomDay] = set()
        self._parts = parts or {}
        self._unwritten_parts: set[Part] = set()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"Spending({len(self._totals)} totals, {len(self._unwritten)} unwritten)"

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What the room has spent today."""
        return self._total((slug, utc_day(self._clock()))).micro_usd

    def person_micro_usd(self, person: UserId) -> int:
        """What was spent for somebody today, in all rooms."""
        day = self.day()
        mine = (s for part, s in self._parts.items() if (part.person, part.day) == (person, day))
        return sum(spent.micro_usd for spent in mine)

    def charge(
        self, slug: RoomSlug, micro_usd: int, *, people: Sequence[UserId] = (), model: str = ""
    ) -> None:
        """Add one request and what it cost to the room's day, and to those it was for."""
        key = slug, self.day()
        self._totals[key] = self._total(key).plus(micro_usd)
        self._unwritten.add(key)
        for person, share in share_out(micro_usd, people or (_NOBODY,)):
            part = Part(slug=slug, day=key[1], person=person, model=model)
            self._parts[part] = self._parts.get(part, Spent()).plus(share)
            self._unwritten_parts.add(part)
        self._news.set()

    def day(self) -> str:
        """The UTC day."""
        return utc_day(self._clock())

    def seconds_left(self) -> float:
        """Until the day ends."""
        return seconds_left(self._clock())

    async def run(self) -> NoReturn:
        """Write what is new, at most once in WRITE_EVERY_S.

        Raises:
            StoreError: the database is damaged or gone; a full disk is waited for.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            await self.write()
            await asyncio.sleep(WRITE_EVERY_S)

    async def write(self) -> None:
        """Write what is new. Cancelled or failed, it is new still."""
        keys = set(self._unwritten)
        totals = {key: self._totals[key] for key in keys}
        parts = {part: self._parts[part] for part in self._unwritten_parts}
        await self._table.keep(totals, parts, today=self.day())
        self._unwritten_parts -= {
            part for part, spent in parts.items() if self._parts[part] == spent
        }
        self._unwritten -= {key for key in keys if self._totals[key] == totals[key]}
        self._forget_old_days()

    def _forget_old_days(self) -> None:
        days = days_around(self._clock())
        old = [k for k in self._totals if k[1] not in days and k not in self._unwritten]
        for key in old:
            del self._totals[key]
        for part in [p for p in self._parts if p.day not in days]:
            if part not in self._unwritten_parts:
                del self._parts[part]

    def _total(self, key: RoomDay) -> Spent:
        return self._totals.get(key, Spent())


@contextlib.asynccontextmanager
async def open_spending(
    database: Database, *, clock: Callable[[], float]
) -> AsyncIterator[Spending]:
    """The ledger, with what was spent before; at exit the rest is written, for at most a second.

    Raises:
        StoreError: the database failed, at the beginning or while this is open.
    """
    table = SpendingTable(database)
    days = days_around(clock())
    spending = Spending(table, await table.load(days), await table.load_parts(days), clock=clock)
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(spending.run(), name="spending")
        try:
            yield spending
        except Exception as e:  # noqa: BLE001 (raised below: a group would wrap the caller's error)
            failure = e
        finally:
            writing.cancel()
            await _write_last(spending)
    if failure is not None:
        raise failure


async def _write_last(spending: Spending) -> None:
    try:
        async with asyncio.timeout(_LAST_WRITE_S):
            await spending.write()
    except (StoreError, TimeoutError) as e:
        logger.bind(action="spending.write", error=type(e).__name__).error(
            "what rooms have spent last is not kept"
        )
