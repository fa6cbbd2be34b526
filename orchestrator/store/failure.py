"""SQLite's errors as ours, and what each kind of them means for the database.

Rules, from SQLite's documentation (rescode.html, wal.html, howtocorrupt.html) and source:

- a write that failed (FULL, IOERR_WRITE, …) has changed nothing: the transaction is rolled back;
- a commit whose fsync failed counts as failed, although a crash right after it may find it
  committed. Its frames are written anew by the repeat, which makes the kernel's page cache dirty
  again, so what the kernel may have dropped (after a failed fsync it takes pages for clean) is
  nothing that anybody was told of. Frames of earlier commits had an fsync of their own;
- a checkpoint that fails leaves the frames in the log, fails no commit, and is repeated;
- a read that failed says nothing of what can be written: what we know may be wrong, so it ends us.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreCorruptError, StoreError, StoreFullError

# What only writing can meet. SHMSIZE: the index of the log could not grow. CANTOPEN is not among
# them: it may be anything.
_WRITE_FAILED = (
    "SQLITE_FULL",
    "SQLITE_IOERR_WRITE",
    "SQLITE_IOERR_FSYNC",
    "SQLITE_IOERR_DIR_FSYNC",
    "SQLITE_IOERR_TRUNCATE",
    "SQLITE_IOERR_SHMSIZE",
    "SQLITE_IOERR_COMMIT_ATOMIC",
    "SQLITE_IOERR_BEGIN_ATOMIC",
)
# Not IOERR_CORRUPTFS: that is what SQLite makes of EIO, and says nothing of the file.
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_DATA")
# Where neither free space nor a full disk's error says it: less than this is as good as none.
_SCANT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTrouble:
    """Nothing can be written at present; what asks for it waits. `since` is Unix time."""

    since: float
    reason: str
    free_bytes: int | None
    is_full: bool
    """False: there is room, and the disk fails all the same."""


@contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """SQLite's errors as ours. The texts of SQLite's errors name no values of rows.

    Raises:
        StoreFullError: nothing could be written; nothing was changed.
        StoreCorruptError: the file is damaged.
        StoreError: anything else.
    """
    where = f"{path}: " if path else ""
    try:
        yield
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorname", "")
        if code.startswith(_WRITE_FAILED):
            msg = f"{where}the disk is full or failing ({e}). Free some space, then start again."
            raise StoreFullError(msg) from e
        if code.startswith(_DAMAGED):
            msg = f"{where}the database is damaged ({e}). Restore it from a backup."
            raise StoreCorruptError(msg) from e
        if code.startswith("SQLITE_IOERR"):
            msg = (
                f"{where}the disk failed while it was read ({code}: {e}). Look at the disk (the "
                "kernel's log has more), then start again, or restore a copy onto another one."
            )
            raise StoreError(msg) from e
        msg = f"{where}the database can't be used ({code or type(e).__name__}: {e})"
        raise StoreError(msg) from e


def describe_trouble(error: StoreFullError, directory: Path, *, since: float) -> StoreTrouble:
    """What the error means, with the disk's free space. Blocks for one system call."""
    free = free_bytes(directory)
    cause = error.__cause__
    is_full = getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or (
        free is not None and free < _SCANT_BYTES
    )
    left = "" if free is None else f" ({free:,} bytes are free)"
    reason = (
        f"The disk of {directory} is full{left}. Messages wait; free some space, and they go on."
        if is_full
        else f"The disk of {directory} fails to write{left}: {cause}. Messages wait."
    )
    return StoreTrouble(since=since, reason=reason, free_bytes=free, is_full=is_full)


def free_bytes(directory: Path) -> int | None:
    """The bytes that an ordinary program may still write there; None where nobody says."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
