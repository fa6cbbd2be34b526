"""Keeps what the send budget has learnt, so that a restart does not meet the limit again.

Rules: written when it changed, at most once in KEEP_EVERY_S, and once more at the end. A kill costs
what was learnt since the last write, which is a refusal or two.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn, Protocol

from orchestrator.core.pacing import BudgetState, SendBudget

# Probing moves the rate with each message, every few seconds; refusals are minutes apart.
KEEP_EVERY_S = 10.0


class BudgetStore(Protocol):
    """Where it is kept."""

    async def keep_send_budget(self, state: BudgetState) -> None:
        """One transaction; errors are StoreErrors."""
        ...


class BudgetKeeper:
    """Invariant: `kept` is what the store holds, as far as this process knows."""

    def __init__(self, budget: SendBudget, store: BudgetStore, *, kept: BudgetState | None) -> None:
        """`kept` is what the budget was made with."""
        self._budget = budget
        self._store = store
        self._kept = kept or SendBudget().state

    async def run(self) -> NoReturn:
        """Keep it until cancelled.

        Raises:
            StoreError: the database failed.
        """
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await self.keep()

    async def keep(self) -> None:
        """Write it now, if it changed. Idempotent.

        Raises:
            StoreError: the database failed.
        """
        state = self._budget.state
        if state != self._kept:
            await self._store.keep_send_budget(state)
            self._kept = state

    def __repr__(self) -> str:
        return f"BudgetKeeper({self._kept!r})"
