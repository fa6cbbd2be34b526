"""What a room's directories hold, counted from the host without trusting anything in them.

The fallback where the kernel can't keep a room within its limits. Rules: no path of the room's is
resolved: each directory is opened through its parent's descriptor, as a directory, following no
symlink; a directory of another file system is left out; entries, depth and time are bounded, and
what is past a bound counts as too many files: past the depth as more than any turn could clean up,
for a room could have anything down there. A file that was deleted while a process has it open is
not found.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.core.disk import DiskUsage, most_files

# Two descriptors for each level; npm's deepest trees have about 40.
_DEEPEST: Final = 100
# Counting a million entries takes some 3 s on an idle disk.
_LONGEST_S: Final = 60.0
# st_blocks counts these, whatever the file system's block size is.
_BLOCK: Final = 512
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _TooMuchError(Exception):
    """A bound was met."""


class _TooDeepError(Exception):
    """There are directories that are not looked into."""


class _Count:
    """Invariant: no inode is counted twice."""

    def __init__(self, most: int) -> None:
        self.used_bytes = 0
        self.files = 0
        self._most = most
        self._until = time.monotonic() + _LONGEST_S
        self._linked: set[int] = set()

    def add(self, status: os.stat_result) -> None:
        """One entry."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in self._linked:
                # A name costs no inode, but it does cost us time.
                self._tick()
                return
            self._linked.add(status.st_ino)
        self.used_bytes += status.st_blocks * _BLOCK
        self.files += 1
        self._tick()

    def _tick(self) -> None:
        if self.files > self._most or time.monotonic() > self._until:
            raise _TooMuchError


def measure(folders: tuple[Path, ...], limit_bytes: int) -> DiskUsage:
    """Count what is in the directories. Blocks; no error comes out but those of the host's own.

    The paths to the directories themselves are the host's (their parents are root's).
    """
    limit_files = most_files(limit_bytes)
    # Past twice the limit nothing changes any more.
    count = _Count(2 * limit_files)
    past = 0
    try:
        for folder in folders:
            with _opened(folder, None) as root:
                if root is not None:
                    _walk(root, os.fstat(root).st_dev, count)
    except _TooMuchError:
        past = limit_files + 1
    except _TooDeepError:
        past = 2 * limit_files + 1
    return DiskUsage(
        used_bytes=count.used_bytes,
        limit_bytes=limit_bytes,
        files=max(count.files, past),
        limit_files=limit_files,
        is_enforced=False,
    )


def _walk(folder: int, device: int, count: _Count, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise _TooDeepError
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                _visit(folder, entry, device, count, depth)
    except OSError:
        return  # it went, or changed into something else, while we looked


def _visit(folder: int, entry: os.DirEntry[str], device: int, count: _Count, depth: int) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return
    if status.st_dev != device:
        return
    count.add(status)
    if stat.S_ISDIR(status.st_mode):
        with _opened(entry.name, folder) as below:
            if below is not None and os.fstat(below).st_dev == device:
                _walk(below, device, count, depth + 1)


@contextmanager
def _opened(path: Path | str, parent: int | None) -> Iterator[int | None]:
    try:
        folder = os.open(path, _DIRECTORY, dir_fd=parent)
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)
