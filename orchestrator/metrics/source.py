"""Where the figures come from: the store and the sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.gateway.outbound import OutboxSender
from orchestrator.metrics.figures import Figures
from orchestrator.store.store import Store


@dataclass(frozen=True, slots=True)
class MetricsSource:
    """Reads only."""

    store: Store
    sender: OutboxSender
    clock: Callable[[], float]
    """Unix time, as the store's rows have it."""

    async def read(self) -> Figures:
        """One look. Raises a StoreError when the database fails."""
        oldest_at = await self.store.outbox.oldest_waiting_at()
        return Figures(
            send_rate_per_s=self.sender.budget.rate_per_s(),
            limited=self.sender.limited,
            outbox_waiting=await self.store.outbox.waiting(),
            outbox_oldest_s=0.0 if oldest_at is None else max(0.0, self.clock() - oldest_at),
            inbox_waiting=await self.store.inbox.new_count(),
            turns=dict(self.store.turns.ended),
        )
