"""The table `spending`: what each room's requests to the API have cost, by UTC day.

A room goes by its slug, which stays with its conversation when the Matrix room is upgraded: an
upgrade begins no new budget.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.model import RoomSlug, UserId
from orchestrator.store.database import Database

# A year and a month, for whoever looks back.
_KEPT_DAYS = 400


@dataclass(frozen=True, slots=True)
class Spent:
    """One room's day so far."""

    requests: int = 0
    micro_usd: int = 0

    def plus(self, micro_usd: int) -> Spent:
        """With one more request."""
        return Spent(self.requests + 1, self.micro_usd + micro_usd)


RoomDay = tuple[RoomSlug, str]
"""A room, and a day as YYYY-MM-DD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a room's day: for whom ("": nobody is known), by which model."""

    slug: RoomSlug
    day: str
    person: UserId
    model: str


class SpendingTable:
    """Totals by room and day, and their parts (`costs`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, days: Sequence[str]) -> dict[RoomDay, Spent]:
        """All rooms' totals of these days."""

        def work(db: sqlite3.Connection) -> dict[RoomDay, Spent]:
            rows = [
                row
                for day in days
                for row in db.execute(
                    "SELECT slug, day, requests, micro_usd FROM spending WHERE day = ?", (day,)
                )
            ]
            return {(RoomSlug(slug), day): Spent(n, cost) for slug, day, n, cost in rows}

        return await self._database.run(work)

    async def load_parts(self, days: Sequence[str]) -> dict[Part, Spent]:
        """The parts of all rooms' totals of these days."""
        return await self._database.run(lambda db: _parts(db, days))

    async def parts_of(self, slug: RoomSlug, *, since: str) -> dict[Part, Spent]:
        """The parts of one room's totals, from a day on."""

        def work(db: sqlite3.Connection) -> dict[Part, Spent]:
            query = "SELECT DISTINCT day FROM spending WHERE slug = ? AND day >= ?"
            days = [day for (day,) in db.execute(query, (slug, since))]
            return {part: n for part, n in _parts(db, days).items() if part.slug == slug}

        return await self._database.run(work)

    async def total_of(self, slug: RoomSlug, *, since: str) -> Spent:
        """A room's total, from a day on."""

        def work(db: sqlite3.Connection) -> Spent:
            query = (
                "SELECT coalesce(sum(requests), 0), coalesce(sum(micro_usd), 0) FROM spending "
                "WHERE slug = ? AND day >= ?"
            )
            return Spent(*db.execute(query, (slug, since)).fetchone())

        return await self._database.run(work)

    async def totals(self, *, since: str) -> dict[RoomSlug, Spent]:
        """Each room's total, from a day on."""

        def work(db: sqlite3.Connection) -> dict[RoomSlug, Spent]:
            query = (
                "SELECT slug, sum(requests), sum(micro_usd) FROM spending WHERE day >= ? "
                "GROUP BY slug"
            )
            return {RoomSlug(slug): Spent(n, cost) for slug, n, cost in db.execute(query, (since,))}

        return await self._database.run(work)

    async def keep(
        self,
        totals: Mapping[RoomDay, Spent],
        parts: Mapping[Part, Spent] = MappingProxyType({}),
        *,
        today: str,
    ) -> None:
        """Store totals, each in the place of a smaller one, and forget what is old. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO spending (slug, day, requests, micro_usd) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (slug, day) DO UPDATE SET "
                "requests = max(requests, excluded.requests), "
                "micro_usd = max(micro_usd, excluded.micro_usd)",
                [(slug, day, s.requests, s.micro_usd) for (slug, day), s in totals.items()],
            )
            db.executemany(
                "INSERT INTO costs (slug, day, person, model, requests, micro_usd) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (day, slug, person, model) DO UPDATE SET "
                "requests = max(requests, excluded.requests), "
                "micro_usd = max(micro_usd, excluded.micro_usd)",
                [
                    (p.slug, p.day, p.person, p.model, s.requests, s.micro_usd)
                    for p, s in parts.items()
                ],
            )
            for table in ("spending", "costs"):
                db.execute(
                    f"DELETE FROM {table} WHERE day < date(?, ?)",  # noqa: S608 - constants
                    (today, f"-{_KEPT_DAYS} days"),
                )

        await self._database.run(work)


def _parts(db: sqlite3.Connection, days: Sequence[str]) -> dict[Part, Spent]:
    return {
        Part(slug=RoomSlug(slug), day=day, person=UserId(person), model=model): Spent(n, cost)
        for day in days
        for slug, person, model, n, cost in db.execute(
            "SELECT slug, person, model, requests, micro_usd FROM costs WHERE day = ?", (day,)
        )
    }
