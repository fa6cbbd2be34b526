"""What is dropped of things that are long over, so that the file does not grow with every word.

Kept for good: ids, states, outcomes, reasons and times, by which nothing is taken in twice and
every message can be accounted for. Dropped a week after the end: what was said. SQLite uses the
freed pages again; the file itself does not shrink.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from functools import partial

from orchestrator.core.turn_mark import MARK_KEYS
from orchestrator.store.database import Database

# Long enough to look into what went wrong last week, and for `!retry`.
KEPT_S = 7 * 86400.0
# Rows that one transaction looks at: some milliseconds, so that commits beside it are not held up.
_ROWS = 500
_BREATH_S = 0.05
# Ids alone: what the audit accounts for messages by.
_KEPT_KEYS = (*MARK_KEYS, "m.relates_to")


_Step = Callable[..., tuple[int, int]]


async def drop_old_words(database: Database, *, now: float) -> int:
    """Empty what ended before `now` less KEPT_S; returns how many rows that changed. Idempotent."""
    before = now - KEPT_S
    changed = sum([await _walk(database, step, before) for step in (_empty_outbox, _empty_turns)])
    return changed + await database.run(partial(_empty_conversations, before=before))


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
    rows = db.execute(
        "SELECT seq, CASE WHEN state <> 'queued' AND ended_at < ? THEN content END FROM outbox "
        "WHERE seq > ? ORDER BY seq LIMIT ?",
        (before, after, _ROWS),
    ).fetchall()
    bare = [(_bare(content), seq) for seq, content in rows if content is not None]
    db.executemany(
        "UPDATE outbox SET file = NULL WHERE seq = ? AND file IS NOT NULL",
        [(seq,) for _, seq in bare],
    )
    emptied = [(content, seq) for content, seq in bare if content is not None]
    db.executemany("UPDATE outbox SET content = ? WHERE seq = ?", emptied)
    return len(emptied), rows[-1][0] if rows else after


def _bare(content: str) -> str | None:
    """The content without its words: its turn's mark and what it answers. None: it has none."""
    full = json.loads(content)
    kept = {key: value for key, value in full.items() if key in _KEPT_KEYS}
    return json.dumps(kept) if kept != full else None


def _empty_turns(db: sqlite3.Connection, after: int, before: float) -> tuple[int, int]:
    until = _last_of_step(
        db, "SELECT rowid FROM turns WHERE rowid > ? ORDER BY rowid LIMIT ?", after
    )
    cursor = db.execute(
        "UPDATE turns SET prompt = '', draft = '', pieces = '{}', files = '{}' "
        "WHERE rowid > ? AND rowid <= ? AND state = 'ended' "
        "AND ended_at < ? AND (prompt <> '' OR draft <> '')",
        (after, until, before),
    )
    return cursor.rowcount, until


def _empty_conversations(db: sqlite3.Connection, before: float) -> int:
    titles = db.execute(
        "UPDATE past_sessions SET title = '' WHERE used_at < ? AND title <> ''", (before,)
    ).rowcount
    steers = db.execute(
        "DELETE FROM steers WHERE EXISTS (SELECT 1 FROM turns "
        "WHERE turns.turn_id = steers.turn_id AND state = 'ended' AND ended_at < ?)",
        (before,),
    ).rowcount
    return titles + steers


def _last_of_step(db: sqlite3.Connection, query: str, after: int) -> int:
    rows = db.execute(query, (after, _ROWS)).fetchall()
    return int(rows[-1][0]) if rows else after
