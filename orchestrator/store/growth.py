"""What is dropped of things that are long over, so that the file does not grow with every word.

Kept for good: ids, states, outcomes, reasons and times, by which nothing is taken in twice and
every message can be accounted for. Dropped a week after the end: what was said. SQLite uses the
freed pages again; the file itself does not shrink.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial

from orchestrator.store.database import Database

# Long enough to look into what went wrong last week, and for `!retry`.
KEPT_S = 7 * 86400.0
# Rows that one transaction looks at: some milliseconds, so that commits beside it are not held up.
_ROWS = 500
_BREATH_S = 0.05


_Step = Callable[..., tuple[int, int]]


async def drop_old_words(database: Database, *, now: float) -> int:
    """Empty what ended before `now` less KEPT_S; returns how many rows that changed. Idempotent."""
    before = now - KEPT_S
    return sum([await _walk(database, step, before) for step in (_empty_outbox, _empty_turns)])


async def _walk(database: Database, step: _Step, before: float) -> int:
    changed, last, at = 0, -1, 0
    while at != last:
        last = at
        count, at = await database.run(partial(step, after=last, before=before))
        changed += count
        await asyncio.sleep(_BREATH_S)
    return changed


def _empty_outbox(db: sqlite3.Connection, after: int, before: float) -> tuple[int, int]:
    """One step from row `after` on; how many were emptied, and where the next step begins."""
    until = _last_of_step(db, "SELECT seq FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", after)
    cursor = db.execute(
        "UPDATE outbox SET content = '', file = NULL WHERE seq > ? AND seq <= ? "
        "AND state <> 'queued' AND ended_at < ? AND (content <> '' OR file IS NOT NULL)",
        (after, until, before),
    )
    return cursor.rowcount, until


def _empty_turns(db: sqlite3.Connection, after: int, before: float) -> tuple[int, int]:
    until = _last_of_step(
        db, "SELECT rowid FROM turns WHERE rowid > ? ORDER BY rowid LIMIT ?", after
    )
    cursor = db.execute(
        "UPDATE turns SET prompt = '', draft = '' WHERE rowid > ? AND rowid <= ? "
        "AND state = 'ended' AND ended_at < ? AND (prompt <> '' OR draft <> '')",
        (after, until, before),
    )
    return cursor.rowcount, until


def _last_of_step(db: sqlite3.Connection, query: str, after: int) -> int:
    rows = db.execute(query, (after, _ROWS)).fetchall()
    return int(rows[-1][0]) if rows else after
