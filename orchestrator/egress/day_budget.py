"""What one room may move through the proxy on one UTC day, kept across restarts.

Bytes are reserved before they are moved, a piece at a time, and the reservation is stored first:
whatever ends the process, a day never gives more than its limit. What was reserved and not used is
given back when the door closes; a crash costs the room that piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from orchestrator.core.budget import utc_day
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.model import RoomSlug

# A second at the usual pace: one write of the database in a second at most.
_PIECE_BYTES = 16 << 20
# Of a small limit a smaller piece, so that a crash does not cost the day.
_PIECES = 64

DAY_SPENT = Denial(
    status=429,
    reason=DenialReason.DAY,
    message="This room has moved as many bytes today as it may. The day ends at midnight UTC.",
)
"""What a client is told then."""


class DayBook(Protocol):
    """Where the used bytes of rooms and days are kept."""

    async def add(self, slug: RoomSlug, day: str, size: int) -> int:
        """Add to a day's bytes (or take from them: `size` may be negative); the new sum."""
        ...


class MemoryDayBook:
    """Keeps them as long as the process lives."""

    def __init__(self) -> None:
        self._used: dict[tuple[RoomSlug, str], int] = {}

    async def add(self, slug: RoomSlug, day: str, size: int) -> int:
        """See `DayBook`."""
        used = self._used[slug, day] = max(0, self._used.get((slug, day), 0) + size)
        return used


class DaySpentError(Exception):
    """The room's bytes of this day are used up."""


class DayBudget:
    """One room's. Invariant: what was given by `take` was stored before."""

    def __init__(
        self, slug: RoomSlug, limit: int, book: DayBook, clock: Callable[[], float]
    ) -> None:
        """`clock` is Unix time; `limit` is bytes for each UTC day."""
        self._slug = slug
        self._limit = limit
        self._book = book
        self._clock = clock
        self._day = ""
        self._reserved = 0
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"DayBudget({self._slug}, {self._day}, reserved={self._reserved})"

    async def take(self, size: int) -> None:
        """Use `size` bytes; they count also when the caller then fails to move them.

        Raises:
            DaySpentError: the day has fewer left.
            StoreError: it could not be stored, so nothing was given.
        """
        async with self._turn:
            self._turn_page()
            if self._reserved < size:
                await self._reserve(size - self._reserved)
            self._reserved -= size

    async def give_back(self) -> None:
        """Store that what is reserved was not used."""
        async with self._turn:
            reserved, self._reserved = self._reserved, 0
            if reserved:
                await self._book.add(self._slug, self._day, -reserved)

    def _turn_page(self) -> None:
        day = utc_day(self._clock())
        if day != self._day:
            # Yesterday's rest stays booked there, where nobody counts any more.
            self._day, self._reserved = day, 0

    async def _reserve(self, needed: int) -> None:
        piece = max(needed, min(_PIECE_BYTES, self._limit // _PIECES))
        used = await self._book.add(self._slug, self._day, piece)
        if used > self._limit:
            # As much of the piece as is left of the day.
            over = min(piece, used - self._limit)
            await self._book.add(self._slug, self._day, -over)
            piece -= over
        self._reserved += piece
        if piece < needed:
            raise DaySpentError
