"""A small disk of its own for a directory, which a test can fill and free."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SmallDisk:
    """A tmpfs; `fill` takes all of its room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def __repr__(self) -> str:
        return f"<SmallDisk {self.path}>"

    def fill(self) -> None:
        """Write until nothing more can be written."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            # In small steps at the end: no page is left.
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """There is room again."""
        self._filler.unlink()

    @property
    def is_full(self) -> bool:
        """Whether a page can't be written."""
        probe = self.path / "probe"
        try:
            probe.write_bytes(bytes(8192))
        except OSError as e:
            return e.errno == errno.ENOSPC
        finally:
            probe.unlink(missing_ok=True)
        return False


@contextmanager
def open_small_disk(path: Path, *, mib: int, uid: int = 0) -> Iterator[SmallDisk]:
    """Mount it over `path`, which is made; unmounted at the end, whoever still uses it."""
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={mib}m,mode=0700,uid={uid},gid={uid}"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True, capture_output=True
    )
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)


def can_mount() -> bool:
    """Whether we may mount at all."""
    return os.geteuid() == 0
