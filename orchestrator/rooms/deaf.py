"""Times in which nobody listened to a turn, which say nothing of it."""

from __future__ import annotations

import asyncio

from loguru import logger

from orchestrator.store.api import TurnRow
from orchestrator.store.database import Database

# A wait ends within milliseconds of its time. So much later: the machine or we were suspended.
_DEAF_S = 2.0


class DeafWatch:
    """Of one turn: we waited for the disk, or were frozen."""

    def __init__(self, database: Database, turn: TurnRow) -> None:
        self._database = database
        self._disk_waited_s = database.waited_s
        self._log = logger.bind(room=turn.room_id, turn=turn.turn_id)

    def __repr__(self) -> str:
        return f"<DeafWatch disk={self._disk_waited_s}>"

    def measure_s(self, deadline: float | None) -> float:
        """Seconds since the last call; a wait until `deadline` (loop time) may have ended late."""
        waited_s, self._disk_waited_s = self._disk_waited_s, self._database.waited_s
        now = asyncio.get_running_loop().time()
        late_s = 0.0 if deadline is None else now - deadline
        deaf_s = max(self._disk_waited_s - waited_s, late_s if late_s > _DEAF_S else 0.0)
        if deaf_s > 0:
            self._log.bind(action="turn.deaf", seconds=round(deaf_s, 1)).warning(
                "frozen, or held up by the disk; it does not count for the turn"
            )
        return deaf_s
