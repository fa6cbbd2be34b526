"""`orchestrator backup` and `restore`: going on from a copy, so that nothing is run or shown twice.

Whatever happened after the copy is unknown to it, and must not happen again: turns that had not
ended are ended and told, what was queued for a room is looked for before it is sent, containers are
replaced, and what the homeserver has sent since is stored and not run (`matrix.response.Unknown`).
Not part of a copy, and left as they are: the rooms' files, the login, and the encryption keys; an
older state of those would use the same ratchet twice.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import GatewayConfig
from orchestrator.core import texts
from orchestrator.core.chunking import encrypted_limit
from orchestrator.core.lifecycle import TurnEvent
from orchestrator.core.naming import ROOMS_PER_INSTALLATION
from orchestrator.core.reason import RESTORED
from orchestrator.errors import (
    PreconditionError,
    StoreCorruptError,
    StoreError,
    StoreTooNewError,
)
from orchestrator.model import InstallationId, TurnOutcome
from orchestrator.rooms.outgoing import Final, build_turn_notice_rows
from orchestrator.runners.ownership import read_first_uids
from orchestrator.runners.taken_place import read_taken_places
from orchestrator.store.api import InboxKind, InboxState, Restored
from orchestrator.store.approval_table import withdraw_all
from orchestrator.store.checking import check_file, index_path, log_path
from orchestrator.store.copying import (
    COPIES_DIR,
    copy_database,
    find_made_at,
    forget_copied,
    sync_path,
    time_stamp,
)
from orchestrator.store.database import hold_state_dir, open_database
from orchestrator.store.grant_table import revoke_all_grants
from orchestrator.store.inbox_table import write_restored
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.room_place import reserve_places
from orchestrator.store.spare_table import forget_spares
from orchestrator.store.store import Store, build_store

_NEW_NAME = f".{DATABASE_NAME}.restored"
# No room gets so many containers between two copies: what runs has another number than what is
# asked for, and is replaced; also what an earlier restore has started.
_GENERATIONS = 1_000_000
# Older than any transaction id that a homeserver remembers (a day): it is looked for.
_LOOKED_FOR_S = 2 * 86400.0
# A copy is restored without a configuration; and three quarters of it, as in an encrypted room, fit
# everywhere.
_EVENT_BYTES = encrypted_limit(GatewayConfig().max_event_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What `restore` did."""

    copied_at: float
    turns: int
    """That had not ended in the copy, and whose rooms are told."""
    put_aside: Path | None
    """The database that was there before."""


def back_up(state_dir: Path, target: Path) -> int:
    """Copy the state directory's database, in use or not; returns the copy's bytes. Blocks.

    Raises:
        PreconditionError: there is nothing to copy, or it would be copied over itself.
        StoreError: as `copy_database` says.
    """
    source = state_dir / DATABASE_NAME
    if not source.exists():
        msg = f"There is no {source}. Name the state directory with --state-dir or --config."
        raise PreconditionError(msg)
    if target.resolve().parent == state_dir.resolve():
        msg = f"A copy must not stand among what it is a copy of: {target}. Name another directory."
        raise PreconditionError(msg)
    _require_place(target, state_dir)
    return copy_database(source, target)


def restore(copy: Path, state_dir: Path, *, now: float | None = None) -> Recovered:
    """Put the copy in the place of the database, which is kept under another name. Blocks.

    Killed anywhere, a repeat does it all.

    Raises:
        PreconditionError: an orchestrator uses the directory.
        StoreError: the copy is not sound, or there is no room; all is left as it is.
    """
    restored_at = time.time() if now is None else now
    with hold_state_dir(state_dir):
        _require_copy(copy, state_dir)
        new = state_dir / _NEW_NAME
        _remove(new)
        copy_database(copy, new)
        restored = Restored(copied_at=find_made_at(copy), restored_at=restored_at)
        turns = asyncio.run(rewrite_copy(new, restored))
        aside = _put_aside(state_dir, restored_at)
        new.replace(state_dir / DATABASE_NAME)
        sync_path(state_dir)
        return Recovered(copied_at=restored.copied_at, turns=turns, put_aside=aside)


def _require_place(target: Path, state_dir: Path) -> None:
    """A mistyped path must cost no file, and no copy on the wrong disk."""
    if target.exists() and not _is_sound(target):
        msg = f"{target} is there, and is no copy of a database. Name another file with --to."
        raise PreconditionError(msg)
    if target.parent != state_dir / COPIES_DIR and not target.parent.is_dir():
        msg = f"There is no directory {target.parent}. Make it, or name another file with --to."
        raise PreconditionError(msg)


def _require_copy(copy: Path, state_dir: Path) -> None:
    if not copy.exists():
        msg = f"There is no {copy}. Copies stand in {state_dir / COPIES_DIR}."
        raise PreconditionError(msg)
    if copy.resolve() == (state_dir / DATABASE_NAME).resolve():
        msg = (
            f"{copy} is the database itself. Name a copy, of {state_dir / COPIES_DIR} for instance."
        )
        raise PreconditionError(msg)
    if not _is_sound(copy):
        msg = (
            f"{copy} is no copy of a database, or a damaged one. Nothing was changed; "
            f"other copies stand in {state_dir / COPIES_DIR}."
        )
        raise StoreCorruptError(msg)


def _is_sound(file: Path) -> bool:
    try:
        return file.is_file() and check_file(file) > 0
    except StoreTooNewError:
        raise
    except StoreError:
        return False


async def rewrite_copy(new: Path, restored: Restored) -> int:
    """Mark in a copy what it can't know, before it is used; on disk, without a log, at the end.

    Rooms' files are looked for beside it. How many turns that ended. Raises StoreError.
    """
    async with open_database(new) as database:
        store = build_store(database)
        reserved = _indexes_of_files(new.parent, await store.rooms.installation())
        taken = read_taken_places(new.parent / "rooms")
        await database.run(lambda db: _mark(db, restored, reserved, taken))
        turns = await _end_turns(store, restored)
    _sync_and_drop_log(new)
    return turns


async def _end_turns(store: Store, restored: Restored) -> int:
    turns = await store.turns.open_turns()
    for turn in turns:
        rows = build_turn_notice_rows(
            turn,
            "restored",
            texts.restored_turn(texts.utc_time(restored.copied_at)),
            max_event_bytes=_EVENT_BYTES,
            final=Final(outcome=TurnOutcome.INTERRUPTED),
        )
        await store.turns.advance(
            turn.turn_id,
            TurnEvent.ENDED,
            rows=rows,
            outcome=TurnOutcome.INTERRUPTED,
            reason=RESTORED,
            now=restored.restored_at,
        )
    return len(turns)


def _mark(
    db: sqlite3.Connection,
    restored: Restored,
    reserved: Mapping[str, int],
    taken: Mapping[str, str],
) -> None:
    forget_copied(db)
    write_restored(db, restored)
    forget_spares(db)
    reserve_places(db, reserved, taken)
    db.execute(
        "UPDATE outbox SET attempts = max(attempts, 1), created_at = min(created_at, ?) "
        "WHERE state = 'queued'",
        (restored.restored_at - _LOOKED_FOR_S,),
    )
    db.execute(
        "UPDATE runners SET generation = generation % ?1 + ?1 * ?2, epoch = NULL, acked = 0",
        (_GENERATIONS, int(restored.restored_at)),
    )
    # The CLI keeps a session from its first message on: one that had none yet may have one now, and
    # can neither be begun again nor resumed for sure.
    db.execute("DELETE FROM sessions WHERE resumable = 0")
    # What was taken back since the copy must not hold again, and who decided since is not known.
    withdraw_all(db, now=restored.restored_at)
    revoke_all_grants(db, now=restored.restored_at)
    _forget_inbox(db, restored)


def _forget_inbox(db: sqlite3.Connection, restored: Restored) -> None:
    """Messages that were not part of a turn yet may have been one since: their rooms are told."""
    db.execute(
        "INSERT INTO inbox (kind, room_id, raw, state, received_at) "
        "SELECT DISTINCT ?, room_id, ?, ?, ? FROM inbox WHERE kind = ? AND room_id IS NOT NULL "
        "AND state IN ('new', 'pending_keys')",
        (
            InboxKind.RESTORED,
            json.dumps(restored.payload),
            InboxState.NEW,
            restored.restored_at,
            InboxKind.TIMELINE,
        ),
    )
    # What was asked for on the status page was done then, or seen not to be.
    db.execute("DELETE FROM inbox WHERE kind = ? AND state = 'new'", (InboxKind.PAGE,))
    db.execute(
        "UPDATE inbox SET state = ?, reason = 'restored', raw = '' WHERE kind = ? "
        "AND state IN ('new', 'pending_keys') "
        # What is no JSON, or nested deeper than SQLite reads, is no state.
        "AND CASE WHEN json_valid(raw) THEN json_extract(raw, '$.state_key') END IS NULL",
        (InboxState.IGNORED, InboxKind.TIMELINE),
    )


def _indexes_of_files(state_dir: Path, installation: InstallationId) -> Mapping[str, int]:
    """The numbers of the rooms that have files here, by the owner of the files."""
    firsts = read_first_uids(state_dir, installation)
    found: dict[str, int] = {}
    for folder in (state_dir / "rooms").glob("*/workspace"):
        owner = folder.stat(follow_symlinks=False).st_uid
        for first in firsts:
            if 0 <= owner - first < ROOMS_PER_INSTALLATION:
                found[folder.parent.name] = owner - first
                break
    return found


def _put_aside(state_dir: Path, now: float) -> Path | None:
    """Move the present database away, and then its log, which the new file must not meet.

    In between nothing can be started: a log without its database is refused.
    """
    database = state_dir / DATABASE_NAME
    aside = state_dir / f"{DATABASE_NAME}.aside-{time_stamp(now)}"
    was_there = database.exists()
    for part in (Path, log_path, index_path):
        if part(database).exists():
            part(database).replace(part(aside))
    sync_path(state_dir)
    return aside if was_there else None


def _sync_and_drop_log(path: Path) -> None:
    """The closed database is whole without a log; on disk when this returns."""
    for part in (log_path(path), index_path(path)):
        part.unlink(missing_ok=True)
    sync_path(path)


def _remove(path: Path) -> None:
    for part in (path, log_path(path), index_path(path)):
        part.unlink(missing_ok=True)
