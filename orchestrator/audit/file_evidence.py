"""Files of the host for an audit: what they are, without following a link at any step.

Rule: nothing in a room's workspace or home is looked at; a room can't make the audit open, follow
or wait for anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from orchestrator.core.isolation_evidence import FileFacts, Mount
from orchestrator.peer import read_peer

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# A listener that never accepts has a full queue at some time.
_CONNECT_S: Final = 2.0
_DIGEST_BYTES: Final = 1 << 20
_SETUID: Final = stat.S_ISUID | stat.S_ISGID
_MOST_FOUND: Final = 20
_MOST_CHANGES: Final = 1000
_KINDS: Final = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISREG, "file"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISLNK, "symlink"),
)


def look(path: Path, *, root: str = "/") -> FileFacts:
    """What is at an absolute path below `root`; a symlink on the way is what it is."""
    try:
        with _opened(path, root) as fd:
            return _facts(path, os.fstat(fd))
    except NotADirectoryError:
        # With O_NOFOLLOW a symlink in the middle is no directory.
        return FileFacts(path=str(path), kind="symlink")
    except OSError:
        return FileFacts(path=str(path), kind="missing")


def look_into(folder: Path) -> tuple[FileFacts, ...]:
    """What is in a directory, by name; nothing where it is none."""
    try:
        with _opened(folder, "/") as fd:
            names = sorted(entry.name for entry in Path(f"/proc/self/fd/{fd}").iterdir())
            return tuple(
                _facts(folder / name, os.stat(name, dir_fd=fd, follow_symlinks=False))
                for name in names
            )
    except OSError:
        return ()


def digest(path: Path, *, root: str = "/") -> str | None:
    """SHA-256 of a regular file of 1 MiB at most; None for everything else."""
    with contextlib.suppress(OSError), _opened(path, root) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123 - opened above
            data = file.read(_DIGEST_BYTES + 1)
        return hashlib.sha256(data).hexdigest() if len(data) <= _DIGEST_BYTES else None
    return None


def find_listener(path: Path) -> int | None:
    """The process that listens on a unix socket, as the kernel has it; None: nobody does.

    It connects and hangs up: the listener sees a peer of our uid.
    """
    try:
        with _opened(path, "/") as fd:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                return None
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_CONNECT_S)
                connection.connect(f"/proc/self/fd/{fd}")
                return read_peer(connection).pid or None
    except OSError:
        return None


def find_changes(mounts: Sequence[Mount]) -> tuple[str, ...] | None:
    """What an overlay's upper directory holds: all that differs from the image below it.

    None where the root file system is no overlay of this host's.
    """
    root = next((mount for mount in mounts if mount.target == "/"), None)
    options = dict(option.partition("=")[::2] for option in root.super_options) if root else {}
    if root is None or root.kind != "overlay" or not os.path.isdir(options.get("upperdir", "")):  # noqa: PTH112 - "" must be no directory; Path("") is the current one
        return None
    found: list[str] = []
    for folder, folders, names in os.walk(options["upperdir"]):
        below = folder.removeprefix(options["upperdir"])
        found += [f"{below}/{name}" for name in (*folders, *names)]
        if len(found) >= _MOST_CHANGES:
            break
    return tuple(found)


def find_setuid(root: str) -> tuple[str, ...]:
    """Files below `root`, on its own file system, that would change their user's identity."""
    found: list[str] = []
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(fd).st_dev
        for folder, folders, names, folder_fd in os.fwalk(".", dir_fd=fd, follow_symlinks=False):
            folders[:] = [name for name in folders if _device(name, folder_fd) == device]
            found += _setuid_in(folder.removeprefix("."), names, folder_fd)
            if len(found) >= _MOST_FOUND:
                break
    finally:
        os.close(fd)
    return tuple(found)


def _setuid_in(folder: str, names: Sequence[str], folder_fd: int) -> Iterator[str]:
    for name in names:
        with contextlib.suppress(OSError):
            mode = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and mode & _SETUID:
                yield f"{folder}/{name}"


def _device(name: str, folder_fd: int) -> int:
    try:
        return os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_dev
    except OSError:
        return -1


@contextlib.contextmanager
def _opened(path: Path, root: str) -> Iterator[int]:
    """Walk there one name at a time, from a root that may itself be the kernel's magic link."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.parts[1:]:
            deeper = os.open(name, _LOOK, dir_fd=fd)
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def _facts(path: Path, found: os.stat_result) -> FileFacts:
    kind = next((name for test, name in _KINDS if test(found.st_mode)), "other")
    return FileFacts(
        path=str(path),
        kind=kind,
        uid=found.st_uid,
        gid=found.st_gid,
        mode=stat.S_IMODE(found.st_mode),
        identity=(found.st_dev, found.st_ino),
    )
