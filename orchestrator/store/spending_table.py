"""The table `spending`: what each room's requests to the API have cost, by UTC day.

A room goes by its slug, which stays with its conversation when the Matrix room is upgraded: an
upgrade begins no new budget.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.model import RoomSlug
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


class SpendingTable:
    """Totals by room and day."""

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

    async def keep(self, totals: Mapping[RoomDay, Spent], *, today: str) -> None:
        """Store totals, each in the place of a smaller one, and forget what is old. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO spending (slug, day, requests, micro_usd) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (slug, day) DO UPDATE SET "
                "requests = max(requests, excluded.requests), "
                "micro_usd = max(micro_usd, excluded.micro_usd)",
                [(slug, day, s.requests, s.micro_usd) for (slug, day), s in totals.items()],
            )
            db.execute(
                "DELETE FROM spending WHERE day < date(?, ?)", (today, f"-{_KEPT_DAYS} days")
            )

        await self._database.run(work)
