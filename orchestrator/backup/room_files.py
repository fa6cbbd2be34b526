"""Where a room's files can be read, whether its file system is mounted or at rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.runners.disk_image import DiskImage, held

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened_room(folder: Path) -> Iterator[int]:
    """The directory that holds the room's workspace and home, open; whatever happens to the room.

    The open descriptor keeps the file system, not the room: a runner may start, rest or go away
    meanwhile, and no lock is held. A file system that is at rest is mounted for a moment under the
    room's lock; killed within it, it stays mounted, as a kill of the orchestrator leaves it, too.

    Raises:
        DiskError: the room's file system can't be mounted. OSError: there is no such room.
    """
    with held(folder) as lock:
        image = DiskImage(folder, lock)
        is_at_rest = image.exists and not image.is_mounted()
        if is_at_rest:
            image.mount()
        try:
            files = os.open(image.mount_point if image.exists else folder, _DIRECTORY)
        finally:
            if is_at_rest:
                image.unmount()
    try:
        yield files
    finally:
        os.close(files)
