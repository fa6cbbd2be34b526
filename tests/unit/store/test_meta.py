"""What was learnt of the account's limit, over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.pacing import BudgetState
from orchestrator.store.store import Store, open_store


async def test_what_was_learnt_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.meta.send_budget() is None
        for interval_s in (5.0, None, 4.5):
            state = BudgetState(interval_s=interval_s, burst=9.5)
            await store.meta.keep_send_budget(state)
            assert await store.meta.send_budget() == state
    async with open_store(tmp_path) as store:
        assert await store.meta.send_budget() == state
        assert await store.inbox.sync_token() is None


@pytest.mark.parametrize(
    "text", ["", "{", "5", "null", "{}", '{"interval_s": 0, "burst": 1}', '{"interval_s": "x"}']
)
async def test_what_is_not_readable_is_learnt_anew(tmp_path: Path, text: str) -> None:
    async with open_store(tmp_path) as store:
        await _write(store, text)
        assert await store.meta.send_budget() is None


async def _write(store: Store, text: str) -> None:
    await store.database.run(
        lambda db: db.execute("INSERT INTO meta VALUES ('send_budget', ?)", (text,)).close()
    )
