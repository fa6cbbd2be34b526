"""What the egress gateway needs to know of money: what a room has spent today, and where to add.

The composition root passes one in that is kept in the database (`orchestrator.store.spending`);
none of the calls waits, so that no answer's end hangs on a disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from orchestrator.core.budget import seconds_left, share_out, utc_day
from orchestrator.model import RoomSlug, UserId


class Ledger(Protocol):
    """Spending by room and UTC day, in micro-dollars. Must not block."""

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What the room has spent today."""
        ...

    def person_micro_usd(self, person: UserId) -> int:
        """What was spent for somebody today, in all rooms."""
        ...

    def charge(
        self, slug: RoomSlug, micro_usd: int, *, people: Sequence[UserId] = (), model: str = ""
    ) -> None:
        """Add one request and what it cost to the room's day, and to those it was for."""
        ...

    def day(self) -> str:
        """The UTC day, YYYY-MM-DD."""
        ...

    def seconds_left(self) -> float:
        """Until the day ends."""
        ...


class MemoryLedger:
    """Remembers while it lives: what a gateway has that is given no other."""

    def __init__(self) -> None:
        self._spent: dict[tuple[RoomSlug, str], int] = {}
        self._by_person: dict[tuple[UserId, str], int] = {}

    def spent_micro_usd(self, slug: RoomSlug) -> int:
        """What the room has spent today."""
        return self._spent.get((slug, utc_day(time.time())), 0)

    def person_micro_usd(self, person: UserId) -> int:
        """What was spent for somebody today, in all rooms."""
        return self._by_person.get((person, self.day()), 0)

    def charge(
        self,
        slug: RoomSlug,
        micro_usd: int,
        *,
        people: Sequence[UserId] = (),
        model: str = "",
    ) -> None:
        """Add one request to the room's day."""
        key = slug, self.day()
        self._spent[key] = self._spent.get(key, 0) + micro_usd
        for person, share in share_out(micro_usd, people):
            mine = person, self.day()
            self._by_person[mine] = self._by_person.get(mine, 0) + share

    def day(self) -> str:
        """The UTC day."""
        return utc_day(time.time())

    def seconds_left(self) -> float:
        """Until the day ends."""
        return seconds_left(time.time())
