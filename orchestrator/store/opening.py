"""How the database file is opened: checked, never begun anew in silence, brought to our schema.

Rules: nothing is changed before the check is through; every refusal names what to restore, and how;
a migration keeps a copy of what was before it.
"""

from __future__ import annotations

import shlex
import sqlite3
import time
from pathlib import Path

from orchestrator.errors import StoreCorruptError, StoreFullError, StoreTooNewError
from orchestrator.store.checking import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    check_file,
    has_log,
    log_path,
)
from orchestrator.store.copying import (
    COPIES_DIR,
    copy_database,
    copy_name,
    find_newest_sound_copy,
    read_time,
)
from orchestrator.store.failure import translated
from orchestrator.store.schema import MIGRATIONS

DATABASE_NAME = "state.sqlite3"
# There while a whole backup is put into an empty directory.
RESTORING_DIR = ".restoring"
# Made after the database was, and only then; where one of them is and no database, it is gone.
_TRACES = ("placeholder.key", "matrix-session.json", "rooms", "crypto", COPIES_DIR, RESTORING_DIR)


def open_file(path: Path) -> sqlite3.Connection:
    """Check the file, then open it for writing; blocks.

    Raises:
        StoreTooNewError, StoreCorruptError: as it is left; the text names what to restore.
        StoreFullError, StoreError: it can't be opened, or not written.
    """
    try:
        version = _check(path)
    except (StoreCorruptError, StoreTooNewError) as e:
        raise type(e)(f"{e}\n{advise(path.parent)}") from e
    if 0 < version < len(MIGRATIONS):
        _keep_copy(path, version)
    return open_for_writing(path)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection to a checked file, or to a new one, with this version's schema.

    Raises:
        StoreFullError, StoreError: it can't be opened, or not written.
    """
    with translated(path):
        created = not path.exists()
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            if created:
                path.chmod(0o600)
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def empty_log(connection: sqlite3.Connection) -> None:
    """Move what is in the log into the file, where that can be done now; otherwise it stays."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        return


def advise(state_dir: Path) -> str:
    """What to type to have a sound database again."""
    copy = find_newest_sound_copy(state_dir)
    if copy is None:
        return (
            f"There is no sound copy in {state_dir / COPIES_DIR}. With one from elsewhere, type: "
            f"orchestrator restore FILE --state-dir {shlex.quote(str(state_dir))}"
        )
    return (
        f"The newest sound copy is {copy}, of {read_time(copy)}. To go on from there, type: "
        f"{shlex.join(['orchestrator', 'restore', str(copy), '--state-dir', str(state_dir)])}"
    )


def _check(path: Path) -> int:
    """The version of the schema; 0 for a database that is to be made, and may be."""
    version = check_file(path) if path.exists() and path.stat().st_size else 0
    found = next((path.parent / name for name in _TRACES if (path.parent / name).exists()), None)
    if found is None and has_log(path):
        found = log_path(path)
    if version == 0 and found is not None:
        what = "is empty" if path.exists() else "is gone"
        msg = f"{path} {what}, and {found} is there. No new one was begun."
        raise StoreCorruptError(msg)
    return version


def _keep_copy(path: Path, version: int) -> None:
    target = path.parent / COPIES_DIR / copy_name(time.time())
    try:
        copy_database(path, target)
    except StoreFullError as e:
        msg = (
            f"{path} has schema {version} and is to be brought to {len(MIGRATIONS)}. There is no "
            f"room for a copy of it, which is made first ({e}). Free some space, then start again."
        )
        raise StoreFullError(msg) from e


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # executescript commits by itself; the explicit transaction makes a migration all or
        # nothing.
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;"
        )
    # A write, so that a full disk is met now and said in words. Then all of the log goes into the
    # file: what an earlier life found no fsync for (see `failure`) has one from here on.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "INSERT INTO meta VALUES ('opened_at', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
        (str(time.time()),),
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
