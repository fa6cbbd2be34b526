"""Copies of the database: made while it is used, checked, kept by their names' times.

A copy holds what SQLite holds and nothing else: not the rooms' files, not the login, and never the
encryption keys, whose ratchets must not be turned back.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.core import texts
from orchestrator.errors import StoreCorruptError, StoreError, StoreFullError
from orchestrator.store.checking import check_file, has_log, opened_to_read
from orchestrator.store.failure import translated

COPIES_DIR = "backups"
_NAME = re.compile(r"state-(\d{8}T\d{6}Z)\.sqlite3")
_STAMP = "%Y%m%dT%H%M%SZ"
# In the table `meta` of a copy: when it was made (Unix time).
_COPIED_AT = "copied_at"
# 1 MiB at a time, with a breath in between: other programs' reads and fsyncs come through.
_PAGES = 256
_BREATH_S = 0.005


class CopyStoppedError(Exception):
    """Whoever wanted the copy does not want it any more."""


def copy_name(now: float) -> str:
    """The name of a copy that is made now (Unix time)."""
    return f"state-{time_stamp(now)}.sqlite3"


def time_stamp(now: float) -> str:
    """A Unix time as it stands in names: in UTC, to the second, in the order of time."""
    return datetime.fromtimestamp(now, tz=UTC).strftime(_STAMP)


def copied_at(copy: Path) -> float | None:
    """When a copy was made, by its name (Unix time); None for other names."""
    match = _NAME.fullmatch(copy.name)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def find_made_at(copy: Path) -> float:
    """When a sound copy was made (Unix time): as it says, by its name, or by its file's time.

    To be asked of the copy itself: a copy of it is made when it is made.
    """
    with translated(copy), opened_to_read(copy, is_idle=not has_log(copy)) as db:
        row = db.execute("SELECT value FROM meta WHERE key = ?", (_COPIED_AT,)).fetchone()
    said = None if row is None else float(row[0])
    return said or copied_at(copy) or copy.stat().st_mtime


def forget_copied(db: sqlite3.Connection) -> None:
    """The database is in use from now on: whoever copies it makes a copy of that time."""
    db.execute("DELETE FROM meta WHERE key = ?", (_COPIED_AT,))


def read_time(copy: Path) -> str:
    """When a copy was made, for people."""
    at = copied_at(copy)
    return "an unknown time" if at is None else texts.utc_time(at)


def list_copies(state_dir: Path) -> Sequence[Path]:
    """The kept copies, the newest first."""
    found = (state_dir / COPIES_DIR).glob("state-*.sqlite3")
    return sorted((copy for copy in found if copied_at(copy) is not None), reverse=True)


def find_newest_sound_copy(state_dir: Path) -> Path | None:
    """The newest copy that passes the check; blocks for as long as that takes."""
    for copy in list_copies(state_dir):
        try:
            if check_file(copy) > 0:
                return copy
        except StoreError:
            continue
    return None


def prune_copies(state_dir: Path, *, keep: int) -> int:
    """Remove all but the newest `keep`; returns how many went."""
    old = list_copies(state_dir)[keep:]
    for copy in old:
        copy.unlink(missing_ok=True)
    return len(old)


def copy_database(
    source: Path, target: Path, *, is_stopped: Callable[[], bool] = lambda: False
) -> int:
    """Copy a database, also one in use; returns the copy's bytes. Blocks.

    All of it is as of one moment: it is read in one transaction, beside which others write on (the
    log grows meanwhile). It appears under its name when it is whole, checked and on disk; 0600.

    Raises:
        StoreFullError: there is no room for it; nothing of it is left.
        StoreCorruptError: what was read is damaged; nothing of it is left.
        StoreError: it can't be read or written.
        CopyStoppedError: `is_stopped` said so.
    """

    def progress(*_: int) -> None:
        if is_stopped():
            raise CopyStoppedError

    with _writing(target) as new:
        try:
            with translated(None):
                _copy(source, new, progress)
        except StoreError as e:
            raise type(e)(f"copying {source} to {target}: {e}") from e
        if check_file(new) == 0:
            msg = f"{source} holds no database of ours; there is nothing to copy."
            raise StoreCorruptError(msg)
        sync_path(new)
        new.replace(target)
        sync_path(target.parent)
        return target.stat().st_size


def _copy(source: Path, new: Path, progress: Callable[..., None]) -> None:
    with opened_to_read(source) as reading, closing(sqlite3.connect(new)) as writing:
        # A snapshot for all steps: without it each commit beside would start the copy anew.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
        reading.backup(writing, pages=_PAGES, progress=progress, sleep=_BREATH_S)
        # One file, without a log.
        writing.execute("PRAGMA journal_mode = DELETE")
        has_meta = "SELECT 1 FROM sqlite_master WHERE name = 'meta'"
        if writing.execute(has_meta).fetchone():
            writing.execute(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
                (_COPIED_AT, str(time.time())),
            )
            writing.commit()


@contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """A new file beside the target, 0600, that is gone afterwards unless it was renamed."""
    new = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        yield new
    except OSError as e:
        kind = StoreFullError if e.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(f"{target} can't be written: {e.strerror}") from e
    finally:
        for left in (new, new.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """On disk when this returns: a file's content, or a directory's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
