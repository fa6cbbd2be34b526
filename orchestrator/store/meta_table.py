"""What was learnt about the account, in the table `meta`: it need not be learnt again.

Other single values stand there, too, each written by its owner: the identity of the installation
(`room_table`), the sync token and the last restore (`inbox_table`), when the file was opened
(`opening`) or copied (`copying`).
"""

from __future__ import annotations

import json
import sqlite3

from orchestrator.core.pacing import BudgetState
from orchestrator.store.database import Database

_SEND_BUDGET = "send_budget"
_DEVICE = "device"


class MetaTable:
    """Single values by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def send_budget(self) -> BudgetState | None:
        """What the account's 429s had taught at last; None before the first, or if unreadable."""
        return await self._database.run(read_send_budget)

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

    async def device_since(self, device_id: str, *, now: float) -> float:
        """Since when this device of the account is used (Unix time); `now` for another than before.

        Transaction ids are a device's own: what an earlier one may have sent has no id any more.
        """

        def work(db: sqlite3.Connection) -> float:
            db.execute(
                "INSERT INTO meta VALUES (?1, json_array(?2, ?3)) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value "
                "WHERE json_extract(value, '$[0]') IS NOT ?2",
                (_DEVICE, device_id, now),
            )
            query = "SELECT json_extract(value, '$[1]') FROM meta WHERE key = ?"
            return float(db.execute(query, (_DEVICE,)).fetchone()[0])

        return await self._database.run(work)


def read_send_budget(db: sqlite3.Connection) -> BudgetState | None:
    """As `MetaTable.send_budget`, for who only reads."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_SEND_BUDGET,)).fetchone()
    return _parse(row[0]) if row else None


def _parse(text: str) -> BudgetState | None:
    """Anything else than what `keep_send_budget` wrote is as good as nothing: it is learnt anew."""
    try:
        held = json.loads(text)
        interval_s = held["interval_s"]
        return BudgetState(
            interval_s=None if interval_s is None else float(interval_s), burst=float(held["burst"])
        )
    except (ValueError, TypeError, KeyError):
        return None
