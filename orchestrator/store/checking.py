"""Whether a database file is ours and sound, told without changing a byte of it.

SQLite alone would repair or begin anew in silence where we must not: an empty file is a new
database to it, a log whose head is gone counts as empty (with every commit in it), and closing the
last connection that may write moves the log into a file that was just found damaged. So the file is
looked at through a connection that may only read, and the log is read here as well.

What no check finds: a flipped byte inside a text. SQLite keeps no checksums of its pages.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from orchestrator.errors import StoreCorruptError, StoreError, StoreTooNewError
from orchestrator.store.failure import translated
from orchestrator.store.schema import MIGRATIONS

# "aiac", in the file's head: which program's it is.
APPLICATION_ID = 0x61696163
# Another process (a backup tool) may hold the file for a moment.
BUSY_TIMEOUT_S = 10.0
# fileformat2.html, section 4: the head of the log, and of each of its frames.
_LOG_HEAD = struct.Struct(">8I")
_FRAME_HEAD = struct.Struct(">6I")
_LOG_MAGIC = 0x377F0682
# A commit that a power loss cut short leaves the head of one frame that ends a commit, at most.
_TORN_COMMITS = 1


@contextmanager
def opened_to_read(path: Path, *, is_idle: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that changes neither the file nor its log.

    `is_idle`: nobody uses the file, and it has no log; then none is made beside it, either.
    """
    uri = f"{path.absolute().as_uri()}?{'immutable=1' if is_idle else 'mode=ro'}"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    ) as connection:
        yield connection


def check_file(path: Path) -> int:
    """Check the file and its log; returns the version of its schema, 0 where it has none yet.

    Nobody writes the file meanwhile. Blocks for as long as reading all of it takes.

    Raises:
        StoreTooNewError: a newer version wrote it.
        StoreCorruptError: it is damaged, or another program's.
        StoreError: it can't be read.
    """
    _check_log(path)
    with (
        translated(path),
        opened_to_read(path, is_idle=not has_log(path)) as connection,
    ):
        version = _check_owner(connection, path)
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise _disk_failed(path, problem) or damaged(path, problem)
    return version


def damaged(path: Path, why: str) -> StoreCorruptError:
    """The error for a file that is not sound."""
    return StoreCorruptError(f"{path} is damaged ({why}). Nothing was changed.")


def _disk_failed(path: Path, problem: str) -> StoreError | None:
    """The error for a check that could not read; what it could not read may be sound."""
    code = re.search(r"error code=(\d+)", problem)
    if code is None or int(code[1]) & 0xFF != sqlite3.SQLITE_IOERR:
        return None
    return StoreError(
        f"{path}: the disk failed while the database was checked ({problem}). Nothing was changed. "
        "Look at the disk (the kernel's log has more), then start again."
    )


def log_path(path: Path) -> Path:
    """The write-ahead log of a database file."""
    return path.with_name(f"{path.name}-wal")


def has_log(path: Path) -> bool:
    """Whether the log holds anything."""
    return log_path(path).exists() and log_path(path).stat().st_size > 0


def index_path(path: Path) -> Path:
    """The index of the log: made anew from the log whenever it is not there."""
    return path.with_name(f"{path.name}-shm")


def _check_owner(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    found = _columns(connection)
    if application not in (0, APPLICATION_ID) or (version == 0 and found):
        msg = f"{path} is another program's database. Nothing was changed."
        raise StoreCorruptError(msg)
    if version > len(MIGRATIONS):
        msg = (
            f"{path} was written by a newer version (schema {version}; this version knows "
            f"{len(MIGRATIONS)}). Run that version, or restore an older copy."
        )
        raise StoreTooNewError(msg)
    for table, columns in _columns_of_version(version).items():
        if not columns <= found.get(table, frozenset()):
            raise damaged(path, f"the table {table} is not as schema {version} has it")
    return int(version)


def _columns_of_version(version: int) -> Mapping[str, frozenset[str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in MIGRATIONS[:version]:
            connection.executescript(script)
        return _columns(connection)


def _columns(connection: sqlite3.Connection) -> Mapping[str, frozenset[str]]:
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' "
        "ESCAPE '\\'"
    ).fetchall()
    return {
        name: frozenset(
            row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
        )
        for (name,) in tables
    }


# The log...


def _check_log(path: Path) -> None:
    """Refuse a log from which SQLite would leave out commits without a word."""
    log = log_path(path)
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return
    if len(data) < _LOG_HEAD.size + _FRAME_HEAD.size:
        return  # nothing was committed in it yet
    magic, _, page_size, _, *salts, sum1, sum2 = _LOG_HEAD.unpack_from(data)
    is_big = bool(magic & 1)
    if magic & ~1 != _LOG_MAGIC or _checksum(data[:24], (0, 0), is_big=is_big) != (sum1, sum2):
        raise damaged(log, "its head is gone")
    lost = _commits_behind_a_break(data, page_size, tuple(salts), (sum1, sum2), is_big=is_big)
    if lost > _TORN_COMMITS:
        raise damaged(log, f"a break, and {lost} commits behind it")


def _commits_behind_a_break(
    data: bytes, page_size: int, salts: tuple[int, ...], start: tuple[int, int], *, is_big: bool
) -> int:
    """How many commits of this round of the log can't be read, for a frame before them is bad."""
    chain, is_broken, lost = start, False, 0
    size = _FRAME_HEAD.size + page_size
    for at in range(_LOG_HEAD.size, len(data) - size + 1, size):
        _, commit, salt1, salt2, sum1, sum2 = _FRAME_HEAD.unpack_from(data, at)
        is_of_round = (salt1, salt2) == salts
        if not is_broken and is_of_round:
            chain = _checksum(data[at : at + 8], chain, is_big=is_big)
            chain = _checksum(data[at + _FRAME_HEAD.size : at + size], chain, is_big=is_big)
        is_broken = is_broken or not is_of_round or chain != (sum1, sum2)
        lost += is_broken and is_of_round and commit > 0
    return lost


def _checksum(data: bytes, start: tuple[int, int], *, is_big: bool) -> tuple[int, int]:
    """The log's checksum, carried on from `start`."""
    s0, s1 = start
    words = struct.unpack(f"{'>' if is_big else '<'}{len(data) // 4}I", data)
    for x0, x1 in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + x0 + s1) & 0xFFFFFFFF
        s1 = (s1 + x1 + s0) & 0xFFFFFFFF
    return s0, s1
