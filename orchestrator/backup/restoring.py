"""`orchestrator restore` of a whole backup: into a state directory that is empty, and nowhere else.

    checked ──► unpacked into STATE_DIR/.restoring ──► marked as restored ──► moved into place

Rules: nothing is written before the whole archive was checked. The database comes last: with it the
directory is in use, without it `up` refuses to begin. Killed anywhere before, a repeat begins
anew. What happened after the backup is unknown to it, as with a copy of the database
(orchestrator/recovery.py): it is not run again, and each room is told. Keys are of the same time as
the database; sessions with other devices are begun anew, so that no ratchet is used twice.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from orchestrator.backup.archive import (
    FOLDERS,
    MANIFEST,
    PLAIN,
    Manifest,
    file_digest,
    next_entry,
    reading,
    require_allowed,
    verify,
)
from orchestrator.backup.making import ROOMS_DIR
from orchestrator.backup.tree import TreeWriter, tree_of
from orchestrator.errors import PreconditionError, StoreCorruptError, StoreError, StoreFullError
from orchestrator.matrix.olm import STORE_DIR, begin_anew
from orchestrator.private_file import sync_directory
from orchestrator.recovery import rewrite_copy
from orchestrator.store.api import Restored
from orchestrator.store.copying import COPIES_DIR, find_made_at
from orchestrator.store.database import hold_state_dir
from orchestrator.store.opening import DATABASE_NAME, RESTORING_DIR
from orchestrator.store.schema import MIGRATIONS

_TAR_MAGIC_AT: Final = 257
# What a state directory has before anything is in it.
_EMPTY: Final = frozenset({"lock", RESTORING_DIR, "lost+found"})
# What a restore moves into its place; before the database is there, all of it is a half's.
_MOVED: Final = (PLAIN - {DATABASE_NAME}) | FOLDERS | {ROOMS_DIR, COPIES_DIR}
# What the database's rewriting and the file systems' own books need.
_SPARE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredAll:
    """What was put into the empty directory."""

    made_at: float
    rooms: int
    turns: int
    """That had not ended in the backup, and whose rooms are told."""


def is_archive(path: Path) -> bool:
    """Whether a file claims to be a whole backup, by its first bytes."""
    try:
        with path.open("rb") as file:
            file.seek(_TAR_MAGIC_AT)
            return file.read(5) == b"ustar"
    except OSError:
        return False


def restore_backup(archive: Path, state_dir: Path, *, expected: str | None = None) -> RestoredAll:
    """Put everything of a backup into an empty state directory. Blocks.

    `expected`: the SHA-256 that the file must have.

    Raises:
        PreconditionError: the directory is not empty or in use, or we are not root.
        StoreTooNewError: a newer version made it. StoreCorruptError: it is not whole or not sound.
        StoreFullError, StoreError: it can't be written; a repeat begins anew.
    """
    if os.geteuid() != 0:
        msg = "rooms' files belong to uids of their own, which only root can set up. Type sudo."
        raise PreconditionError(msg)
    with hold_state_dir(state_dir):
        _require_empty(state_dir)
        try:
            with archive.open("rb") as file:
                manifest = _check(file, expected)
                return _put(file, manifest, state_dir)
        except subprocess.SubprocessError as e:
            msg = f"{state_dir}: what was restored could not be brought to the disk. Try again."
            raise StoreError(msg) from e
        except OSError as e:
            kind = StoreFullError if e.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
            msg = f"{archive} can't be restored into {state_dir}: {e.strerror}. Then try again."
            raise kind(msg) from e


def _require_empty(state_dir: Path) -> None:
    there = sorted({path.name for path in state_dir.iterdir()} - _EMPTY)
    is_half = (state_dir / RESTORING_DIR).is_dir() and _MOVED.issuperset(there)
    if there and not is_half:
        msg = (
            f"{state_dir} is not empty: {', '.join(there[:5])} is there. A whole backup goes into "
            "an empty directory: name one with --state-dir, or move what is there away first."
        )
        raise PreconditionError(msg)


def _check(file: IO[bytes], expected: str | None) -> Manifest:
    if expected is not None and file_digest(file) != expected.lower():
        msg = (
            "the backup's SHA-256 is another one than --expect says: it is another file, or was "
            "changed. Nothing was changed."
        )
        raise StoreCorruptError(msg)
    return verify(file, known_schema=len(MIGRATIONS))


def _put(file: IO[bytes], manifest: Manifest, state_dir: Path) -> RestoredAll:
    free = os.statvfs(state_dir)
    if free.f_bavail * free.f_frsize < manifest.size_bytes + _SPARE_BYTES:
        msg = (
            f"the disk of {state_dir} has no room for the backup: it needs "
            f"{(manifest.size_bytes + _SPARE_BYTES) >> 20:,} MiB. Free some space, then try again."
        )
        raise StoreFullError(msg)
    _remove_half(state_dir)
    new = state_dir / RESTORING_DIR
    new.mkdir(mode=0o700)
    _unpack(file, new)
    restored = Restored(copied_at=find_made_at(new / DATABASE_NAME), restored_at=time.time())
    turns = asyncio.run(rewrite_copy(new / DATABASE_NAME, restored))
    for store in sorted((new / STORE_DIR).glob("*.sqlite3")):
        begin_anew(store)
    _sync(new)
    _move_into_place(new, state_dir)
    rooms = sum(part.name.startswith(f"{ROOMS_DIR}/") for part in manifest.parts)
    return RestoredAll(made_at=restored.copied_at, rooms=rooms, turns=turns)


def _remove_half(state_dir: Path) -> None:
    """What a restore that was killed has left."""
    for path in [state_dir / name for name in (RESTORING_DIR, *_MOVED)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _unpack(file: IO[bytes], new: Path) -> None:
    owners: dict[str, tuple[int, int]] = {}
    with _opened(new) as root, reading(file) as tar:
        writer = TreeWriter(root)
        while (entry := next_entry(tar)) is not None and entry.name != MANIFEST:
            # Again: the file may be another one by now.
            require_allowed(entry)
            _make_way(writer, entry)
            tree = tree_of(entry.name)
            if tree and entry.name == tree:
                # The room's directory says whose all in it is.
                owners[tree] = (entry.uid, entry.gid)
            writer.put(tar, entry, owners.get(tree, (0, 0)))
        writer.finish()
    if not (new / DATABASE_NAME).exists():
        msg = "the backup has no database. Nothing was changed. Take another one."
        raise StoreCorruptError(msg)


def _make_way(writer: TreeWriter, entry: tarfile.TarInfo) -> None:
    """The directories of root's above an entry, which the archive does not name."""
    above = entry.name.split("/")[:-1]
    if above[:1] == [ROOMS_DIR] and len(above) > 2:
        return  # within a room's tree every directory has an entry
    for depth in range(1, len(above) + 1):
        writer.make_folder("/".join(above[:depth]))


def _sync(folder: Path) -> None:
    """All of it on the disk, in one call: a room may have half a million files."""
    subprocess.run(  # noqa: S603 - no shell; the path is ours
        ["/usr/bin/env", "sync", "--file-system", str(folder)],
        stdin=subprocess.DEVNULL,
        check=True,
    )


def _move_into_place(new: Path, state_dir: Path) -> None:
    for path in sorted(new.iterdir(), key=lambda path: path.name == DATABASE_NAME):
        path.rename(state_dir / path.name)
        sync_directory(state_dir)
    new.rmdir()
    sync_directory(state_dir)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
