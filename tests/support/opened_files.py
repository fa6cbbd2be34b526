"""What processes open below a directory of this host, as the kernel tells it (fanotify).

A directory is made a mount of its own, so that the events are of it alone: a runner comes to its
files by mounts of its own, and is not seen. Every open counts, whoever asked for it in a process:
Python, SQLite, any thread. A look at a path without opening it (stat) is not seen.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_INIT = 0x1 | 0x2 | 0x10  # FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE
_MARK = 0x1 | 0x10  # FAN_MARK_ADD, FAN_MARK_MOUNT
# FAN_ACCESS, FAN_MODIFY, FAN_OPEN, FAN_OPEN_EXEC, and all of it for directories, too.
_MASK = 0x1 | 0x2 | 0x20 | 0x1000 | 0x4000_0000
_EVENT = struct.Struct("=IBBHQii")
_AT_FDCWD = -100
_BUFFER_BYTES = 1 << 20


@dataclass(slots=True)
class OpenedFiles:
    """What was opened below `root` since the watch began, by process."""

    root: Path
    fd: int
    seen: set[tuple[int, str]] = field(default_factory=set)

    def watch_mounts(self) -> None:
        """See what was mounted below in the meantime, too."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            path = line.split()[4].encode().decode("unicode_escape")
            if Path(path).is_relative_to(self.root):
                self._mark(path)

    def by(self, pid: int) -> set[Path]:
        """The paths, from `root` on, that a process has opened so far."""
        self._drain()
        return {
            Path(path).relative_to(self.root)
            for who, path in self.seen
            if who == pid and Path(path).is_relative_to(self.root)
        }

    def _mark(self, path: str) -> None:
        done = _libc.fanotify_mark(
            self.fd, _MARK, ctypes.c_uint64(_MASK), _AT_FDCWD, os.fsencode(path)
        )
        if done < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self.fd, _BUFFER_BYTES)
            except BlockingIOError:
                return
            while data:
                length, _, _, _, _, fd, pid = _EVENT.unpack_from(data)
                data = data[length:]
                assert fd >= 0, "events were lost"
                self.seen.add((pid, str(Path(f"/proc/self/fd/{fd}").readlink())))
                os.close(fd)


@contextmanager
def open_watch(root: Path) -> Iterator[OpenedFiles]:
    """Make `root` (made if missing) a mount, and watch it; unmounted at the end. Needs root."""
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", str(root), str(root)], check=True, capture_output=True)
    try:
        fd = _libc.fanotify_init(_INIT, os.O_RDONLY | os.O_LARGEFILE)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "fanotify is not to be had")
        try:
            watch = OpenedFiles(root, fd)
            watch.watch_mounts()
            yield watch
        finally:
            os.close(fd)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True, capture_output=True)
