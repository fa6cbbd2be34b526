"""The file of a whole backup: a tar archive, which any tar lists, with a manifest at its end.

    state.sqlite3, crypto/…, rooms/SLUG/workspace/…     the parts, one after the other
    manifest.json                                       each part's place, size and SHA-256

Rules: an archive without its manifest is not whole; nothing of it is used before every byte has
been compared with its digest, and every name and kind looked at. The digests find damage, not
forgery: whoever can rewrite the file can rewrite them. The digest of the whole file, kept
elsewhere, finds that, too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator import __version__
from orchestrator.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreTooNewError,
)
from orchestrator.matrix.session import SESSION_NAME
from orchestrator.store.opening import DATABASE_NAME

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
FILES: Final = ("workspace", "home")
# What one part names of what it left out; a room could have any number.
MOST_NAMED: Final = 50
_MANIFEST_BYTES: Final = 64 << 20
# What is read to know one entry: of ours at most a list of 200,000 pieces of a file with holes.
_ENTRY_BYTES: Final = 8 << 20
_PIECE: Final = 1 << 20
SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
# The login, what rooms' placeholders and intercepted hosts' certificates come from, whose files are
# whose on which engine, and where the embedded homeserver was.
KEYS: Final = (
    SESSION_NAME,
    "placeholder.key",
    "authority.pem",
    "first-uids.json",
    "embedded.json",
)
PLAIN: Final = frozenset({DATABASE_NAME, *KEYS})
FOLDERS: Final = frozenset({"crypto", "audit", "embedded"})


class Part(BaseModel):
    """One part, and what was not taken into it as it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    first_byte: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    entries: Annotated[int, Field(ge=0)]
    left_out: list[str] = []
    """Names (at most 50) of what could not be taken: gone, no file, too deep, too scattered."""
    left_out_count: int = 0
    changed: list[str] = []
    """Names (at most 50) of files that were written while they were read."""
    changed_count: int = 0


class Manifest(BaseModel):
    """What the archive's last entry says."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    program: str = __version__
    database_schema: int
    made_at: float
    parts: list[Part]

    @property
    def size_bytes(self) -> int:
        """What the parts take."""
        return sum(part.size_bytes for part in self.parts)


class PartNotes:
    """What is to be said of a part. Invariant: no list is longer than MOST_NAMED."""

    def __init__(self) -> None:
        self.entries = 0
        self.left_out: list[str] = []
        self.left_out_count = 0
        self.changed: list[str] = []
        self.changed_count = 0

    def leave_out(self, name: str) -> None:
        """It is not in the archive."""
        self.left_out_count += 1
        if len(self.left_out) < MOST_NAMED:
            self.left_out.append(printable(name))

    def note_changed(self, name: str) -> None:
        """It is in the archive in a state that it may never have had."""
        self.changed_count += 1
        if len(self.changed) < MOST_NAMED:
            self.changed.append(printable(name))


class ArchiveWriter:
    """Writes parts, then the manifest. Invariant: the parts follow each other without a gap."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = _Digesting(file)
        self._tar = tarfile.open(  # noqa: SIM115 - `finish` closes it
            fileobj=self._file,  # type: ignore[call-overload] # it writes and tells, no more
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )
        self._parts: list[Part] = []

    def __repr__(self) -> str:
        return f"<ArchiveWriter parts={len(self._parts)} bytes={self._file.tell()}>"

    @contextmanager
    def part(self, name: str) -> Iterator[PartNotes]:
        """What is added within it is this part."""
        first, notes = self._file.tell(), PartNotes()
        self._file.begin()
        yield notes
        self._parts.append(
            Part(
                name=name,
                first_byte=first,
                size_bytes=self._file.tell() - first,
                sha256=self._file.digest(),
                entries=notes.entries,
                left_out=notes.left_out,
                left_out_count=notes.left_out_count,
                changed=notes.changed,
                changed_count=notes.changed_count,
            )
        )

    def add(self, entry: tarfile.TarInfo, data: IO[bytes] | None = None) -> None:
        """One entry; of `data` exactly as many bytes are read as the entry says."""
        self._tar.addfile(entry, data)
        forget_entries(self._tar)

    def finish(self, *, database_schema: int, made_at: float) -> Manifest:
        """Write the manifest and the end."""
        manifest = Manifest(database_schema=database_schema, made_at=made_at, parts=self._parts)
        data = manifest.model_dump_json(indent=1).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode, entry.mtime = len(data), 0o600, int(made_at)
        self._tar.addfile(entry, io.BytesIO(data))
        self._tar.close()
        return manifest

    @property
    def position(self) -> int:
        """How many bytes were written."""
        return self._file.tell()

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._file.whole.hexdigest()


class _Digesting:
    """A file that is only written, with the digests of all of it and of a part."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._part = hashlib.sha256()
        self.whole = hashlib.sha256()

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as e:
            kind = StoreFullError if e.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
            msg = f"the backup can't be written: {e.strerror}. Name a place with more room (--to)."
            raise kind(msg) from e
        self._part.update(data)
        self.whole.update(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def begin(self) -> None:
        self._part = hashlib.sha256()

    def digest(self) -> str:
        return self._part.hexdigest()


@contextmanager
def reading(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """The archive's entries, from its first byte on.

    Raises:
        StoreCorruptError: it is no archive, or damaged.
    """
    file.seek(0)
    try:
        bounded: Any = _Bounded(file)  # it has what is used of a file
        with tarfile.open(
            fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            yield tar
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as e:
        raise _damaged(type(e).__name__) from e


class _Bounded:
    """A file of which so much is read at most to know an entry: a header may claim any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left: int | None = _ENTRY_BYTES

    def read(self, size: int) -> bytes:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                msg = "an entry's header is too long"
                raise tarfile.ReadError(msg)
        return self._file.read(size)

    def seek(self, at: int, whence: int = 0) -> int:
        return self._file.seek(at, whence)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()


def next_entry(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next one of an archive that `reading` gave; None: there is none any more."""
    file: object = tar.fileobj
    if not isinstance(file, _Bounded):
        raise TypeError
    file.left = _ENTRY_BYTES
    try:
        return tar.next()
    finally:
        file.left = None
        forget_entries(tar)


def verify(file: IO[bytes], *, known_schema: int) -> Manifest:
    """Compare every byte, name and kind with what a backup may have; blocks for that long.

    Raises:
        StoreTooNewError: a newer version made it.
        StoreCorruptError: it is no backup, not whole, damaged, or has what no backup has.
    """
    manifest, end = _read_manifest(file)
    if manifest.database_schema > known_schema:
        msg = (
            f"the backup is of a newer version ({printable(manifest.program)}, schema "
            f"{manifest.database_schema}; this version knows {known_schema}). Install that version."
        )
        raise StoreTooNewError(msg)
    at = 0
    for part in manifest.parts:
        if part.first_byte != at:
            raise _damaged("its parts don't follow each other")
        if _digest(file, at, part.size_bytes) != part.sha256:
            raise _damaged(f"the part {printable(part.name)} is not what it was")
        at += part.size_bytes
    if at != end:
        raise _damaged("its manifest does not account for all of it")
    return manifest


def _read_manifest(file: IO[bytes]) -> tuple[Manifest, int]:
    """The manifest, which must be the last entry, and where it begins."""
    last: tarfile.TarInfo | None = None
    with reading(file) as tar:
        while (entry := next_entry(tar)) is not None:
            if last is not None and last.name == MANIFEST:
                raise _damaged("something stands behind its manifest")
            require_allowed(entry)
            last = entry
        if last is None or last.name != MANIFEST:
            raise _damaged("it ends before its manifest: it was cut, or is no backup")
        if not last.isreg() or last.size > _MANIFEST_BYTES:
            raise _damaged("its manifest is none")
        body = tar.extractfile(last)
        data = b"" if body is None else body.read()
    if len(data) != last.size:
        raise _damaged("it ends within its manifest")
    try:
        found = _Head.model_validate_json(data)
        if found.format > FORMAT:
            msg = (
                f"the backup has format {found.format}, of a newer version; this one knows "
                f"{FORMAT}. Install the version that made it."
            )
            raise StoreTooNewError(msg)
        return Manifest.model_validate_json(data), last.offset
    except ValidationError as e:
        raise _damaged("its manifest can't be read") from e


class _Head(BaseModel):
    format: int


def require_allowed(entry: tarfile.TarInfo) -> None:
    """Whether a backup has entries of this name and kind.

    Raises:
        StoreCorruptError: none has.
    """
    parts = entry.name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in entry.name:
        raise _foreign(entry)
    head = parts[0]
    if head == "rooms":
        is_room = len(parts) >= 3 and SLUG.fullmatch(parts[1]) and parts[2] in FILES
        is_root = len(parts) == 3
        kinds = entry.isdir() if is_root else _is_room_kind(entry)
        if not is_room or not kinds:
            raise _foreign(entry)
        if entry.islnk():
            # Of the same tree, and nothing but a name in it.
            target = entry.linkname.split("/")
            if target[:3] != parts[:3] or any(p in ("", ".", "..") for p in target):
                raise _foreign(entry)
    elif head in FOLDERS:
        if not (entry.isreg() or entry.isdir()):
            raise _foreign(entry)
    elif entry.name not in {MANIFEST, *PLAIN} or not entry.isreg() or entry.issparse():
        raise _foreign(entry)


def _is_room_kind(entry: tarfile.TarInfo) -> bool:
    return entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()


def _digest(file: IO[bytes], at: int, size_bytes: int) -> str:
    file.seek(at)
    found, left = hashlib.sha256(), size_bytes
    while left > 0 and (piece := file.read(min(_PIECE, left))):
        found.update(piece)
        left -= len(piece)
    return found.hexdigest()


def forget_entries(tar: tarfile.TarFile) -> None:
    """The archive's own list of its entries, which for a million files is large; not needed."""
    tar.members.clear()  # type: ignore[attr-defined] # documented, and not in the stubs


def file_digest(file: IO[bytes]) -> str:
    """Of the whole file."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # IO has it all


def printable(name: str) -> str:
    """A name that a room chose, for a terminal and for JSON."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _foreign(entry: tarfile.TarInfo) -> StoreCorruptError:
    return _damaged(f"no backup has an entry {printable(entry.name)[:200]!r} of that kind")


def _damaged(why: str) -> StoreCorruptError:
    msg = f"the backup can't be used: {why}. Nothing was changed. Take another one."
    return StoreCorruptError(msg)
