"""What was learnt is written when it changed, and not with every message."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchestrator.core.pacing import BudgetState, SendBudget
from orchestrator.gateway.budget_keeper import KEEP_EVERY_S, BudgetKeeper
from tests.support.virtual_time import loop_clock, run_virtual


@dataclass
class MemoryBudgetStore:
    kept: list[BudgetState] = field(default_factory=list)

    async def keep_send_budget(self, state: BudgetState) -> None:
        self.kept.append(state)


def test_it_is_written_when_it_changed_at_most_once_in_a_while() -> None:
    async def main() -> None:
        store, budget = MemoryBudgetStore(), SendBudget()
        keeper = BudgetKeeper(budget, store, kept=None)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(keeper.run())
            await asyncio.sleep(600)
            assert store.kept == []
            for _ in range(60):
                await asyncio.sleep(1)
                budget.sent(loop_clock())
                budget.limited(loop_clock(), 5.0)
            assert 1 <= len(store.kept) <= 60 / KEEP_EVERY_S
            await asyncio.sleep(600)
            assert store.kept[-1] == budget.state
            count = len(store.kept)
            await asyncio.sleep(600)
            assert len(store.kept) == count
            task.cancel()

    run_virtual(main())


async def test_the_end_keeps_what_is_newer_than_the_last_write() -> None:
    store, budget = MemoryBudgetStore(), SendBudget(BudgetState(interval_s=4.0, burst=10.0))
    keeper = BudgetKeeper(budget, store, kept=budget.state)
    await keeper.keep()
    assert store.kept == []
    budget.sent(0.0)
    budget.limited(1.0, 30.0)
    await keeper.keep()
    assert store.kept == [budget.state]
