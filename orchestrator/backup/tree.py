"""A room's files, out of its directories and back, without trusting a name or a link in them.

Rules: no path of the room's is resolved: each directory is opened through its parent's descriptor,
following no link (as in runners/disk_measure.py). Each file is as it was while it was read: one
that is written meanwhile may be half of before and half of after, and is named. Holes stay holes,
two names of one file stay two names of one file. Left out, and named where it is no cache: what is
no file, directory or link, what lies deeper than 100 directories, what belongs to another file
system.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Final, Literal

from orchestrator.backup.archive import ArchiveWriter, PartNotes

# Two descriptors for each level; npm's deepest trees have about 40.
_DEEPEST: Final = 100
# A file with more pieces than this would need more memory for its list than it is worth.
_MOST_EXTENTS: Final = 200_000
# https://bford.info/cachedir/: what a program can make again, and says so.
_CACHE_TAG: Final = "CACHEDIR.TAG"
_CACHE_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
_CACHES: Final = frozenset({("home", ".cache"), ("home", ".npm", "_cacache")})
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
_PIECE: Final = 1 << 20
# Of a header's block.
_SIZE_AT: Final = slice(124, 136)
_SUM_AT: Final = slice(148, 156)


class TreeReader:
    """One room's `workspace` or `home`, into an archive."""

    def __init__(self, writer: ArchiveWriter, notes: PartNotes, prefix: str) -> None:
        """`prefix`: what the entries' names begin with, `rooms/SLUG`."""
        self._writer = writer
        self._notes = notes
        self._prefix = prefix
        # Of files with more names than one: the first one's folder, and its name in there.
        self._names: dict[int, tuple[tuple[str, ...], str]] = {}
        self._device = 0
        self._end = 0

    def __repr__(self) -> str:
        return f"<TreeReader {self._prefix} entries={self._notes.entries}>"

    def add(self, parent: int, name: str) -> None:
        """The tree `name` of an open directory; nothing where it is not there."""
        try:
            root = os.open(name, _DIRECTORY, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._device = os.fstat(root).st_dev
            self._end = self._writer.position + _most_bytes(root)
            self._walk(root, (name,))
        except _TooMuchError:
            self._notes.leave_out(f"{name}: more than twice what its file system can hold")
        finally:
            # No link leads from tree to tree: a number that is met again is another file's by now.
            self._names.clear()
            os.close(root)

    def _walk(self, folder: int, path: tuple[str, ...]) -> None:
        self._put(path, os.fstat(folder), tarfile.DIRTYPE)
        # Never all of a room: who unpacks somebody's cache right there loses nothing.
        if path in _CACHES or (len(path) > 1 and _is_tagged(folder)):
            return
        for name in _names_of(folder):
            self._visit(folder, name, path)

    def _visit(self, folder: int, name: str, above: tuple[str, ...]) -> None:
        path = (*above, name)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if status.st_dev != self._device:
                self._leave_out(path)
            elif stat.S_ISDIR(status.st_mode):
                self._descend(folder, name, path)
            elif stat.S_ISREG(status.st_mode):
                self._read_file(folder, name, above)
            elif stat.S_ISLNK(status.st_mode):
                target = os.readlink(name, dir_fd=folder)
                self._put(path, status, tarfile.SYMTYPE, target=target)
            else:
                self._leave_out(path)  # a pipe, a socket
        except OSError:
            # It went, or became something else, while we looked; or the disk can't give it.
            self._leave_out(path)

    def _descend(self, folder: int, name: str, path: tuple[str, ...]) -> None:
        if len(path) > _DEEPEST:
            self._leave_out(path)
            return
        below = os.open(name, _DIRECTORY, dir_fd=folder)
        try:
            if os.fstat(below).st_dev == self._device:
                self._walk(below, path)
        finally:
            os.close(below)

    def _read_file(self, folder: int, name: str, above: tuple[str, ...]) -> None:
        path = (*above, name)
        descriptor = os.open(name, _FILE, dir_fd=folder)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_dev != self._device:
                self._leave_out(path)
                return
            has_more = status.st_nlink > 1
            if has_more and (first := self._names.get(status.st_ino)) is not None:
                there, known = first
                self._put(path, status, tarfile.LNKTYPE, target=self._full((*there, known)))
                return
            content = self._content(file, status)
            if content is None:
                self._leave_out(path)
                return
            self._put(path, status, tarfile.REGTYPE, content=content)
            if has_more:
                self._names[status.st_ino] = above, name
            after = os.fstat(descriptor)
            if content.was_short or (after.st_mtime_ns, after.st_size) != (
                status.st_mtime_ns,
                status.st_size,
            ):
                self._notes.note_changed("/".join(path))

    def _content(self, file: IO[bytes], status: os.stat_result) -> _Content | None:
        """What is read of a file: all of it, or its pieces where it has holes."""
        if status.st_blocks * 512 >= status.st_size:
            return _Content(file, [(0, status.st_size)], is_sparse=False)
        extents = _extents(file.fileno(), status.st_size)
        return None if extents is None else _Content(file, extents, is_sparse=True)

    def _put(
        self,
        path: tuple[str, ...],
        status: os.stat_result,
        kind: bytes,
        *,
        target: str = "",
        content: _Content | None = None,
    ) -> None:
        is_sparse = content is not None and content.is_sparse
        entry = (_SparseInfo if is_sparse else tarfile.TarInfo)(self._full(path))
        entry.type, entry.linkname = kind, target
        entry.mode, entry.mtime = stat.S_IMODE(status.st_mode), max(0, int(status.st_mtime))
        entry.uid, entry.gid = status.st_uid, status.st_gid
        if content is not None:
            entry.size = content.size_bytes
            if content.is_sparse:
                entry.pax_headers = {
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": entry.name,
                    "GNU.sparse.realsize": str(status.st_size),
                }
        if self._writer.position + entry.size > self._end:
            raise _TooMuchError
        self._writer.add(entry, content)  # type: ignore[arg-type] # it is read, and no more
        self._notes.entries += 1

    def _full(self, path: tuple[str, ...]) -> str:
        return "/".join((self._prefix, *path))

    def _leave_out(self, path: tuple[str, ...]) -> None:
        self._notes.leave_out("/".join(path))


class _SparseInfo(tarfile.TarInfo):
    """A file with holes, whose header says its bytes in the archive itself, however many.

    Above 8 GiB tarfile says them in a field of the extended header; there a reader (tarfile's, too)
    takes them for the size of the file with its holes, and looks for the next entry elsewhere.
    """

    def tobuf(
        self,
        format: Literal[0, 1, 2] | None = tarfile.PAX_FORMAT,  # noqa: A002 - as the method has it
        encoding: str | None = "utf-8",
        errors: str = "surrogateescape",
    ) -> bytes:
        size, self.size = self.size, 0
        try:
            made = super().tobuf(format, encoding, errors)
        finally:
            self.size = size
        head = bytearray(made[-tarfile.BLOCKSIZE :])
        head[_SIZE_AT] = _size_field(size)
        head[_SUM_AT] = b" " * 8
        head[_SUM_AT] = b"%06o\0 " % sum(head)
        return made[: -tarfile.BLOCKSIZE] + head


def _size_field(size: int) -> bytes:
    """Octal; larger ones as GNU tar and all others read them, in base 256."""
    return b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")


class _TooMuchError(Exception):
    """A tree took more than it can have had at any time."""


class _Content:
    """The bytes of a file's pieces, as many as were said: what is gone by now reads as zeros."""

    def __init__(self, file: IO[bytes], extents: list[tuple[int, int]], *, is_sparse: bool) -> None:
        self.is_sparse = is_sparse
        self.was_short = False
        self._file = file
        self._left = extents[::-1]
        head = _sparse_map(extents) if is_sparse else b""
        self._head = io.BytesIO(head)
        self.size_bytes = len(head) + sum(size for _, size in extents)

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        data = self._head.read(size)
        pieces = [data]
        wanted = size - len(data)
        while wanted > 0 and self._left:
            at, length = self._left.pop()
            take = min(wanted, length, _PIECE)
            pieces.append(self._read_at(at, take))
            if length > take:
                self._left.append((at + take, length - take))
            wanted -= take
        return b"".join(pieces)

    def _read_at(self, at: int, size: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), size, at)
            while 0 < len(data) < size:
                more = os.pread(self._file.fileno(), size - len(data), at + len(data))
                if not more:
                    break
                data += more
        except OSError:
            data = b""
        if len(data) < size:
            self.was_short = True
        return data.ljust(size, b"\0")


def _most_bytes(root: int) -> int:
    """What a tree may take in the archive: names and headers are less than its files, at most."""
    status = os.statvfs(root)
    return 2 * status.f_blocks * status.f_frsize


def _sparse_map(extents: list[tuple[int, int]]) -> bytes:
    """As GNU tar's format 1.0 has it: decimal numbers, a line each, filled up to a block."""
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text.ljust(-(-len(text) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, b"\0")


def _extents(descriptor: int, size_bytes: int) -> list[tuple[int, int]] | None:
    """Where a file has data; the last one marks its end. None: in too many places."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size_bytes:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: only a hole from here on
        end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size_bytes)
        if begin >= size_bytes or end <= begin:
            break
        found.append((begin, end - begin))
        if len(found) > _MOST_EXTENTS:
            return None
        at = end
    return [*found, (size_bytes, 0)]


def _names_of(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _is_tagged(folder: int) -> bool:
    with suppress(OSError):
        tag = os.open(_CACHE_TAG, _FILE & ~os.O_NOATIME, dir_fd=folder)
        try:
            is_file = stat.S_ISREG(os.fstat(tag).st_mode)
            return is_file and os.read(tag, len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
        finally:
            os.close(tag)
    return False


class TreeWriter:
    """Entries of a checked archive, below an open directory that was empty.

    Every method may raise OSError. Nothing is written through a link: the way to each entry is
    opened directory by directory, and each entry is new.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        # Those that the last entry lies in: others have all that is theirs.
        self._folders: list[tuple[tarfile.TarInfo, tuple[int, int]]] = []

    def __repr__(self) -> str:
        return f"<TreeWriter folders={len(self._folders)}>"

    def put(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, owner: tuple[int, int]) -> None:
        """Make one entry, `owner`'s."""
        while self._folders and not entry.name.startswith(f"{self._folders[-1][0].name}/"):
            self._finish_folder()
        *above, name = entry.name.split("/")
        with self._opened(above) as folder:
            if entry.isdir():
                os.mkdir(name, 0o700, dir_fd=folder)
                self._folders.append((entry, owner))
            elif entry.issym():
                os.symlink(entry.linkname, name, dir_fd=folder)
                os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
            elif entry.islnk():
                self._link(entry, folder, name)
            else:
                self._write(tar, entry, folder, name, owner)

    def make_folder(self, path: str) -> None:
        """A directory of root's, unless it is there; those above it are."""
        *above, name = path.split("/")
        with self._opened(above) as folder, suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)

    def finish(self) -> None:
        """Nothing more comes."""
        while self._folders:
            self._finish_folder()

    def _finish_folder(self) -> None:
        """It gets owner, rights and time when all is in it."""
        entry, owner = self._folders.pop()
        with self._opened(entry.name.split("/")) as folder:
            os.fchown(folder, *owner)
            os.fchmod(folder, _mode(entry))
            os.utime(folder, (entry.mtime, entry.mtime))

    def _link(self, entry: tarfile.TarInfo, folder: int, name: str) -> None:
        *above, target = entry.linkname.split("/")
        with self._opened(above) as source:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)

    def _write(
        self,
        tar: tarfile.TarFile,
        entry: tarfile.TarInfo,
        folder: int,
        name: str,
        owner: tuple[int, int],
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, _mode(entry))
            _copy_out(tar, entry, file)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    @contextmanager
    def _opened(self, path: list[str]) -> Iterator[int]:
        with ExitStack() as stack:
            folder = self._root
            for name in path:
                folder = os.open(name, _DIRECTORY, dir_fd=folder)
                stack.callback(os.close, folder)
            yield folder


def _mode(entry: tarfile.TarInfo) -> int:
    """What is root's is root's alone; nothing needs set-user-ID or set-group-ID."""
    return entry.mode & (0o1777 if tree_of(entry.name) else 0o700)


def _copy_out(tar: tarfile.TarFile, entry: tarfile.TarInfo, file: IO[bytes]) -> None:
    """The content, with its holes: `sparse` has (offset, size) of the pieces."""
    source = tar.extractfile(entry)
    if source is None:
        return
    # Of a file without holes: one piece.
    sparse: list[tuple[int, int]] | None = getattr(entry, "sparse", None)
    pieces = [(0, entry.size)] if sparse is None else sparse
    for at, size in pieces:
        source.seek(at)
        file.seek(at)
        left = size
        while left > 0 and (piece := source.read(min(left, _PIECE))):
            file.write(piece)
            left -= len(piece)
    file.flush()
    os.ftruncate(file.fileno(), entry.size)


def tree_of(name: str) -> str:
    """The tree that an entry of a room belongs to: `rooms/SLUG/workspace`; "" for all else."""
    parts = name.split("/")
    return "/".join(parts[:3]) if parts[0] == "rooms" else ""
