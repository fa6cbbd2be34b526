"""What the egress gateway needs to know of money: what a room has spent today, and where to add.

The composition root passes one in that is kept in the database (`orchestrator.store.spending`);
none of the calls waits, so that no answer's end hangs on a disk.
"""

from __future__ import annotations

import time
from typing import Protocol

from orchestrator.core.budget import seconds_left, utc_day
from orchestrator.model import RoomSlug


class Ledger(Protocol):
    """Spending by room and UTC day, in micro-dollars. Must not block."""

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What the room has spent today."""
        ...

    def charge(self, slug: RoomSlug, micro_usd: int) -> None:
        """Add one request and what it cost to the room's day."""
        ...

    def seconds_left(self) -> float:
        """Until the day ends."""
        ...


class MemoryLedger:
    """Remembers while it lives: what a gateway has that is given no other."""

    def __init__(self) -> None:
        self._spent: dict[tuple[RoomSlug, str], int] = {}

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What the room has spent today."""
        return self._spent.get((slug, utc_day(time.time())), 0)

    def charge(self, slug: RoomSlug, micro_usd: int) -> None:
        """Add one request to the room's day."""
        key = slug, utc_day(time.time())
        self._spent[key] = self._spent.get(key, 0) + micro_usd

    def seconds_left(self) -> float:
        """Until the day ends."""
        return seconds_left(time.time())
