"""The database file: one connection, used by one thread, one transaction at a time.

Rules: every write is one `BEGIN IMMEDIATE … COMMIT`; what `run` returned has been fsynced
(`synchronous=FULL`: in WAL mode, NORMAL may roll back the last commits at a power loss); no other
module opens the file.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import (
    PreconditionError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreTooNewError,
)
from orchestrator.store.schema import MIGRATIONS

T = TypeVar("T")

# Another process (a backup tool) may hold the file for a moment.
_BUSY_TIMEOUT_S = 10.0


class Database:
    """Runs functions on the connection, each in its own transaction, in the order of the calls."""

    def __init__(self, connection: sqlite3.Connection, executor: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._executor = executor

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction; it is committed and on disk when this returns.

        Not cancel-safe in one respect: a transaction that has begun is finished also when the
        caller is cancelled; every caller's repeat must be harmless.

        Raises:
            StoreFullError: the disk is full; nothing was changed.
            StoreCorruptError: the file is damaged.
            StoreError: any other failure of the database; nothing was changed.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, _in_transaction, self._connection, work
        )


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open or create the file, check it, and bring it to this version's schema.

    Raises:
        StoreTooNewError: a newer version wrote it; it is left as it is.
        StoreCorruptError: the check failed; it is left as it is.
        StoreFullError, StoreError: it can't be opened or written.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
    try:
        connection = await loop.run_in_executor(executor, _open, path)
        try:
            yield Database(connection, executor)
        finally:
            await asyncio.shield(loop.run_in_executor(executor, connection.close))
    finally:
        executor.shutdown(wait=True)


@contextmanager
def hold_state_dir(state_dir: Path) -> Iterator[None]:
    """Create the directory (0700) and hold its lock, so that only one orchestrator uses it.

    Raises:
        PreconditionError: another orchestrator holds it, or it can't be created.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state_dir.chmod(0o700)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise _state_dir_error(state_dir, e) from e
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "?"
            msg = (
                f"another orchestrator (process {holder}) uses {state_dir}. "
                "Stop it, or name another directory with --state-dir."
            )
            raise PreconditionError(msg) from e
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as e:
            raise _state_dir_error(state_dir, e) from e
        yield
    finally:
        os.close(descriptor)


def _state_dir_error(state_dir: Path, error: OSError) -> PreconditionError:
    return PreconditionError(
        f"the state directory {state_dir} can't be used: {error.strerror}. "
        "Make room or mend its rights, or name another one with --state-dir."
    )


def _open(path: Path) -> sqlite3.Connection:
    with translated(path):
        created = not path.exists()
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            if created:
                path.chmod(0o600)
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        msg = (
            f"{path} was written by a newer version (schema {version}; this version knows "
            f"{len(MIGRATIONS)}). Run that version, or restore an older backup."
        )
        raise StoreTooNewError(msg)
    problems = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problems != "ok":
        msg = f"{path} is damaged ({problems}). Nothing was changed; restore it from a backup."
        raise StoreCorruptError(msg)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # executescript commits by itself; the explicit transaction makes a migration all or
        # nothing.
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;"
        )


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    with translated(None):
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            # Some failures (a full disk) have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result


@contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """SQLite's errors as ours. The texts of SQLite's errors name no values of rows."""
    where = f"{path}: " if path else ""
    try:
        yield
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorname", "")
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC")):
            msg = f"{where}the disk is full or failing ({e}). Free some space, then start again."
            raise StoreFullError(msg) from e
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            msg = f"{where}the database is damaged ({e}). Restore it from a backup."
            raise StoreCorruptError(msg) from e
        msg = f"{where}the database can't be used ({code or type(e).__name__}: {e})"
        raise StoreError(msg) from e
