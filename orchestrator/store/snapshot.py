"""The database as an audit reads it: at one moment, beside a running orchestrator, read-only.

Rule: nothing is written, whatever is found (a reader of SQLite's leaves `-shm` and an empty `-wal`,
which the next start takes over); contents of messages are digested and dropped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.edit import build_edit
from orchestrator.core.evidence import (
    Delivery,
    Evidence,
    InboxEntry,
    OutboxEntry,
    Progress,
    TurnEntry,
    build_digest,
)
from orchestrator.core.reason import RESTORED
from orchestrator.core.turn_mark import parse_mark, parse_reply
from orchestrator.errors import StoreError, StoreTooNewError
from orchestrator.model import EventId, InstallationId, RoomId, TurnId, TurnOutcome, TxnId, UserId
from orchestrator.store import room_table
from orchestrator.store.api import RoomRow, SpareRow
from orchestrator.store.checking import opened_to_read
from orchestrator.store.failure import translated
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.spare_table import read_spares


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the database held, and the place up to which it had received."""

    evidence: Evidence
    sync_token: str | None


def read_snapshot(path: Path) -> Snapshot:
    """Read it all in one transaction. Blocks; a second for some 10,000 rows.

    Raises:
        StoreTooNewError: a newer version wrote it.
        StoreError: there is none, an older version wrote it, or it can't be read.
    """
    with _opened(path) as db:
        return Snapshot(
            evidence=Evidence(
                joined=frozenset(
                    RoomId(room_id)
                    for (room_id,) in db.execute("SELECT room_id FROM rooms WHERE joined")
                ),
                inbox=tuple(_inbox(db)),
                turns=tuple(_turns(db)),
                outbox=tuple(_outbox(db)),
                errands=frozenset(
                    EventId(event_id) for (event_id,) in db.execute("SELECT event_id FROM errands")
                ),
                replaced_by={
                    RoomId(old): RoomId(new)
                    for old, new in db.execute(
                        "SELECT room_id, replaced_by FROM rooms WHERE replaced_by IS NOT NULL"
                    )
                },
                told=frozenset(
                    (RoomId(room_id), UserId(user_id), what)
                    for room_id, user_id, what in db.execute(
                        "SELECT room_id, user_id, what FROM told"
                    )
                ),
            ),
            sync_token=_sync_token(db),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The installation, None where it never was started, its rooms, and what is for the next."""

    installation: InstallationId | None
    rooms: tuple[RoomRow, ...]
    spares: tuple[SpareRow, ...] = ()


def read_rooms(path: Path) -> Rooms:
    """Its rooms and spares alone, in one transaction. Blocks. Raises as `read_snapshot`."""
    with _opened(path) as db:
        installation, rooms = room_table.read_rooms(db)
        spares = tuple(read_spares(db))
        return Rooms(installation=installation, rooms=tuple(rooms), spares=spares)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        msg = f"there is no database at {path}: start the orchestrator first, or name its "
        raise StoreError(msg + "directory with --state-dir")
    with translated(path), opened_to_read(path) as db:
        _check_version(db, path)
        db.execute("BEGIN")
        yield db


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    version, known = db.execute("PRAGMA user_version").fetchone()[0], len(MIGRATIONS)
    if version > known:
        msg = f"{path} was written by a newer version (schema {version}; this one knows {known})"
        raise StoreTooNewError(msg)
    if version < known:
        msg = f"{path} was written by an older version: start this one's orchestrator once"
        raise StoreError(msg)


def _sync_token(db: sqlite3.Connection) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key = 'sync_token'").fetchone()
    return row[0] if row else None


def _inbox(db: sqlite3.Connection) -> Iterator[InboxEntry]:
    query = (
        "SELECT room_id, event_id, state, reason, turn_id, raw, received_at FROM inbox "
        "WHERE kind = 'timeline' AND event_id IS NOT NULL AND room_id IS NOT NULL ORDER BY seq"
    )
    for room_id, event_id, state, reason, turn_id, raw, received_at in db.execute(query):
        sender, event_type = _envelope(raw)
        yield InboxEntry(
            room_id=RoomId(room_id),
            event_id=EventId(event_id),
            progress=Progress(state),
            received_at=received_at,
            reason=reason,
            turn_id=None if turn_id is None else TurnId(turn_id),
            sender=sender,
            event_type=event_type,
        )


def _envelope(raw: str) -> tuple[UserId | None, str | None]:
    """Sender and type of an event whose text is still there; state counts as its type alone."""
    event = _object(raw) if raw else {}
    sender, event_type = event.get("sender"), event.get("type")
    return (
        UserId(sender) if isinstance(sender, str) else None,
        event_type if isinstance(event_type, str) else None,
    )


def _turns(db: sqlite3.Connection) -> Iterator[TurnEntry]:
    query = (
        "SELECT turn_id, room_id, state, outcome, asked, created_at, started_at, parts, continues, "
        "reason FROM turns ORDER BY rowid"
    )
    for turn_id, room_id, state, outcome, asked, created_at, started_at, *more in db.execute(query):
        parts, continues, reason = more
        yield TurnEntry(
            turn_id=TurnId(turn_id),
            room_id=RoomId(room_id),
            has_ended=state == "ended",
            outcome=None if outcome is None else TurnOutcome(outcome),
            asked=tuple(EventId(event_id) for event_id in json.loads(asked)),
            created_at=created_at,
            started_at=started_at,
            parts=parts,
            continues=None if continues is None else TurnId(continues),
            is_restored=reason == RESTORED,
        )


def _outbox(db: sqlite3.Connection) -> Iterator[OutboxEntry]:
    query = (
        "SELECT room_id, txn_id, event_type, content, state, event_id, reason, created_at, "
        "(SELECT event_id FROM outbox AS shown WHERE shown.txn_id = outbox.edits "
        "AND shown.room_id = outbox.room_id AND shown.state = 'sent') "
        "FROM outbox ORDER BY seq"
    )
    for room_id, txn_id, kind, content, state, event_id, *more in db.execute(query):
        reason, created_at, edited = more
        value = _object(content)
        if edited is not None:
            value = build_edit(value, EventId(edited))
        yield OutboxEntry(
            room_id=RoomId(room_id),
            txn_id=TxnId(txn_id),
            event_type=kind,
            delivery=Delivery(state),
            created_at=created_at,
            digest=build_digest(value),
            event_id=None if event_id is None else EventId(event_id),
            reason=reason,
            mark=parse_mark(value),
            reply_to=parse_reply(value),
        )


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
