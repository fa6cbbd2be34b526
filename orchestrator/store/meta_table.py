"""What was learnt about the account, in the table `meta`: it need not be learnt again.

The identity of the installation and the sync token stand there, too; `RoomTable` and `InboxTable`
write those.
"""

from __future__ import annotations

import json
import sqlite3

from orchestrator.core.pacing import BudgetState
from orchestrator.store.database import Database

_SEND_BUDGET = "send_budget"


class MetaTable:
    """Single values by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def send_budget(self) -> BudgetState | None:
        """What the account's 429s had taught at last; None before the first, or if unreadable."""

        def work(db: sqlite3.Connection) -> str | None:
            query = "SELECT value FROM meta WHERE key = ?"
            row = db.execute(query, (_SEND_BUDGET,)).fetchone()
            return row[0] if row else None

        return _parse(await self._database.run(work))

    async def keep_send_budget(self, state: BudgetState) -> None:
        """Replace it."""
        text = json.dumps({"interval_s": state.interval_s, "burst": state.burst})

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO meta VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (_SEND_BUDGET, text),
            )

        await self._database.run(work)


def _parse(text: str | None) -> BudgetState | None:
    """Anything else than what `keep_send_budget` wrote is as good as nothing: it is learnt anew."""
    try:
        held = json.loads(text or "null")
        interval_s = held["interval_s"]
        return BudgetState(
            interval_s=None if interval_s is None else float(interval_s), burst=float(held["burst"])
        )
    except (ValueError, TypeError, KeyError):
        return None
