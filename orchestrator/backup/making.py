"""`orchestrator backup`: everything that must survive, in one file, also while it runs.

Order, and why: the database first, as of one moment; then what may only be newer than it. The
encryption keys: a message that the copy of the database still has to look at finds its key. The
homeserver that is embedded: it knows everything that the database has seen of it. The rooms' files,
a room at a time: what a turn wrote after the copy is there, and the room is told at a restore that
the turn was interrupted.

Not in it: the configuration and what it names (passwords, the API's credential, rooms' secrets),
copies of the database and of workspaces, logs, and caches.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from loguru import logger

from orchestrator.audit_log import AUDIT_DIR
from orchestrator.backup.archive import (
    FILES,
    KEYS,
    SLUG,
    ArchiveWriter,
    Manifest,
    PartNotes,
    printable,
    verify,
)
from orchestrator.backup.room_files import opened_room
from orchestrator.backup.tree import TreeReader
from orchestrator.core.texts import size
from orchestrator.embedded.synapse_config import LOG_NAME
from orchestrator.errors import DiskError, PreconditionError, StoreError
from orchestrator.matrix.olm import STORE_DIR
from orchestrator.private_file import sync_directory
from orchestrator.store.checking import opened_to_read
from orchestrator.store.copying import copy_database, time_stamp
from orchestrator.store.failure import translated
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.schema import MIGRATIONS
from orchestrator.store.spare_table import read_spares

ROOMS_DIR: Final = "rooms"
EMBEDDED_DIR: Final = "embedded"
# Of SQLite, beside a database that is copied by SQLite.
_BESIDE: Final = ("-wal", "-shm", "-journal")
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A backup that is on the disk, whole."""

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest


def backup_name(now: float) -> str:
    """The file's name where none is said."""
    return f"aiagentchat-{time_stamp(now)}.tar"


def make_backup(state_dir: Path, target: Path, *, tell: Callable[[str], None]) -> Made:
    """Write a backup of everything to `target` (0600), whole or not at all. Blocks.

    `tell` hears of each part that is done, and of what of a room could not be taken.

    Raises:
        PreconditionError: there is nothing to back up, we are not root, or the place is none.
        StoreError: something can't be read, or the backup not be written; nothing of it is left.
    """
    _require_ways(state_dir, target)
    new = target.with_name(f".{target.name}.new")
    try:
        with _private_folder(target.parent) as scratch, _written(new) as file:
            writer = ArchiveWriter(file)
            made_at = time.time()
            _Maker(state_dir, writer, scratch, tell).write()
            manifest = writer.finish(database_schema=len(MIGRATIONS), made_at=made_at)
            file.flush()
            os.fsync(file.fileno())
            made = Made(
                path=target, size_bytes=file.tell(), sha256=writer.sha256, manifest=manifest
            )
        with new.open("rb") as written:
            # One that a restore would refuse is none.
            verify(written, known_schema=len(MIGRATIONS))
        new.replace(target)
        sync_directory(target.parent)
    except OSError as e:
        msg = f"{target} can't be written: {e.strerror}. Name another place with --to."
        raise StoreError(msg) from e
    finally:
        new.unlink(missing_ok=True)
    return made


def _require_ways(state_dir: Path, target: Path) -> None:
    if not (state_dir / DATABASE_NAME).exists():
        msg = (
            f"There is no {state_dir / DATABASE_NAME}. Name the state directory with --state-dir or"
            " --config."
        )
        raise PreconditionError(msg)
    if os.geteuid() != 0:
        msg = (
            "a backup of everything reads files of every room, which only root may. Type sudo "
            "before the command, or add --database-only."
        )
        raise PreconditionError(msg)
    if target.resolve().is_relative_to(state_dir.resolve()):
        msg = (
            f"A backup must not stand in what it is a backup of: {target}. Name another place with "
            "--to, best on another disk."
        )
        raise PreconditionError(msg)
    if not target.parent.is_dir():
        msg = f"There is no directory {target.parent}. Make it, or name another file with --to."
        raise PreconditionError(msg)
    if target.exists():
        msg = f"{target} is there already. Name another file with --to."
        raise PreconditionError(msg)


@contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """For copies of databases: on the disk that has room for the backup, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".aiagentchat-backup-", dir=parent) as name:
        yield Path(name)


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file


class _Maker:
    """Writes one backup, part by part."""

    def __init__(
        self, state_dir: Path, writer: ArchiveWriter, scratch: Path, tell: Callable[[str], None]
    ) -> None:
        self._state_dir = state_dir
        self._writer = writer
        self._scratch = scratch
        self._tell = tell

    def write(self) -> None:
        with self._part("database") as notes:
            copy = self._scratch / DATABASE_NAME
            copy_database(self._state_dir / DATABASE_NAME, copy)
            with translated(copy), opened_to_read(copy) as db:
                # Empty, and no restore would give them to a room.
                spares = {spare.slug for spare in read_spares(db)}
            self._add_file(copy, DATABASE_NAME, notes)
        with self._part("keys") as notes:
            for name in KEYS:
                if (self._state_dir / name).exists():
                    self._add_file(self._state_dir / name, name, notes)
            for store in sorted((self._state_dir / STORE_DIR).glob("*.sqlite3")):
                self._add_database(store, f"{STORE_DIR}/{store.name}", notes)
        with self._part("audit log") as notes:
            self._add_folder(AUDIT_DIR, notes)
        with self._part("embedded homeserver") as notes:
            self._add_folder(EMBEDDED_DIR, notes)
        rooms = self._state_dir / ROOMS_DIR
        for folder in sorted(rooms.iterdir() if rooms.is_dir() else ()):
            if folder.name in spares:
                continue
            if SLUG.fullmatch(folder.name) and folder.is_dir():
                self._add_room(folder)
            elif not folder.name.startswith("."):
                self._tell(f"! {ROOMS_DIR}/{printable(folder.name)}: not a room's; left out")

    @contextmanager
    def _part(self, name: str) -> Iterator[PartNotes]:
        with self._writer.part(name) as notes:
            yield notes
        said = f"· {name}: {notes.entries} entries"
        if notes.changed_count:
            said += f", {notes.changed_count} of them written meanwhile"
        if notes.left_out_count:
            said += f"; {notes.left_out_count} left out, as the manifest says"
        if notes.entries or notes.left_out_count:
            self._tell(said)

    def _add_room(self, folder: Path) -> None:
        with self._part(f"{ROOMS_DIR}/{folder.name}") as notes:
            try:
                with opened_room(folder) as files:
                    reader = TreeReader(self._writer, notes, f"{ROOMS_DIR}/{folder.name}")
                    for name in FILES:
                        reader.add(files, name)
            except (DiskError, OSError) as e:
                # One room's disk must not keep all others from being saved; it is said.
                logger.bind(action="backup.room", room=folder.name, why=str(e)).error(
                    "a room's files can't be read"
                )
                self._tell(f"! {ROOMS_DIR}/{folder.name}: its files can't be read: {e}")
                notes.leave_out("all of it")

    def _add_folder(self, name: str, notes: PartNotes) -> None:
        """A directory of root's: files as they are, databases by SQLite."""
        for root, folders, names in os.walk(self._state_dir / name):
            folders.sort()
            for file in sorted(names):
                path = Path(root) / file
                inside = str(path.relative_to(self._state_dir))
                if file.endswith(_BESIDE) or file.startswith(LOG_NAME):
                    continue
                if file.endswith(".db"):
                    self._add_database(path, inside, notes)
                elif path.is_file() and not path.is_symlink():
                    with suppress(FileNotFoundError):  # a homeserver's, which it has let go of
                        self._add_file(path, inside, notes)

    def _add_database(self, path: Path, name: str, notes: PartNotes) -> None:
        """Another program's database (nio's, Synapse's), as of one moment, in one piece."""
        copy = self._scratch / "copy"
        copy.unlink(missing_ok=True)
        with translated(path), opened_to_read(path) as source, closing(sqlite3.connect(copy)) as to:
            source.backup(to)
        self._add_file(copy, name, notes)
        copy.unlink()

    def _add_file(self, path: Path, name: str, notes: PartNotes) -> None:
        try:
            descriptor = os.open(path, _FILE)
        except FileNotFoundError:
            raise
        except OSError as e:
            msg = f"{path} can't be read: {e.strerror}"
            raise StoreError(msg) from e
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = status.st_size, stat.S_IMODE(status.st_mode)
            entry.mtime = int(status.st_mtime)
            try:
                self._writer.add(entry, file)
            except tarfile.TarError as e:
                msg = f"{path} was cut while it was read. Try again."
                raise StoreError(msg) from e
            except OSError as e:
                msg = f"{path} was cut while it was read, or can't be read. Try again."
                raise StoreError(msg) from e
        notes.entries += 1


def describe(made: Made) -> list[str]:
    """What a person should know of it."""
    return [
        f"{made.path}: {size(made.size_bytes)}, SHA-256 {made.sha256}",
        "It holds the login, the encryption keys and the rooms' files: keep it as secret as the "
        "host itself.",
        "Not in it: the configuration and what it names (passwords, credentials, rooms' secrets). "
        "Keep those, too.",
    ]
