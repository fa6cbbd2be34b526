"""The daily work on the database: a copy, and what is long over is emptied.

Both are named work of one task of the daemon. Neither is urgent: what can't be done now (a full
disk) is said in the log and tried again in an hour.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from loguru import logger

from orchestrator.errors import StoreError
from orchestrator.store.copying import (
    COPIES_DIR,
    copied_at,
    copy_database,
    copy_name,
    list_copies,
    prune_copies,
)
from orchestrator.store.database import Database
from orchestrator.store.growth import drop_old_words
from orchestrator.store.opening import DATABASE_NAME

_DAY_S = 86400.0
_RETRY_S = 3600.0


class Upkeep:
    """Invariant: of the copies at most `keep` stay after a new one was made."""

    def __init__(
        self,
        database: Database,
        state_dir: Path,
        *,
        every_s: float | None,
        keep: int,
        clock: Callable[[], float],
    ) -> None:
        """`every_s` None: no copies are made. `clock` gives Unix time that does not jump."""
        self._database = database
        self._state_dir = state_dir
        self._every_s = every_s
        self._keep = keep
        self._clock = clock
        self._words_at = clock()

    def __repr__(self) -> str:
        return f"<Upkeep every={self._every_s} keep={self._keep}>"

    async def run(self) -> NoReturn:
        """Do what is due until cancelled; a copy that is being made is given up then."""
        copy_at = self._next_copy_at()
        while True:
            now = self._clock()
            if now >= copy_at:
                copy_at = self._next_copy_at() if await self._copy() else now + _RETRY_S
            if now >= self._words_at:
                rows = await drop_old_words(self._database, now=now)
                logger.bind(action="store.emptied", rows=rows).info("old words were dropped")
                self._words_at = now + _DAY_S
            await asyncio.sleep(max(1.0, min(copy_at, self._words_at) - self._clock()))

    def _next_copy_at(self) -> float:
        if self._every_s is None:
            return float("inf")
        newest = next(iter(list_copies(self._state_dir)), None)
        at = None if newest is None else copied_at(newest)
        # A copy of the future was made before the clock was set back: it counts as made now.
        return self._clock() if at is None else min(at, self._clock()) + self._every_s

    async def _copy(self) -> bool:
        stopped = threading.Event()
        target = self._state_dir / COPIES_DIR / copy_name(self._clock())
        source = self._state_dir / DATABASE_NAME
        try:
            size = await asyncio.to_thread(copy_database, source, target, is_stopped=stopped.is_set)
            await asyncio.to_thread(prune_copies, self._state_dir, keep=self._keep)
        except asyncio.CancelledError:
            # The thread can't be cancelled; it looks at this before each MiB.
            stopped.set()
            raise
        except (StoreError, OSError) as e:
            logger.bind(action="store.copy_failed", error=type(e).__name__, why=str(e)).error(
                "no copy of the database was made; trying again in an hour"
            )
            return False
        logger.bind(action="store.copied", copy=target.name, size_bytes=size).info("copy made")
        return True
