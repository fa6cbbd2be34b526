"""A room's plain directories, of an earlier version, become a file system of its own.

    plain ──► copied into a new image ──► the image takes its name (the moment) ──► plain removed

Rules: only while no container of the room exists. Root reads and writes nothing of the room's by
name: the copying is done by a process with the room's uid, which gets the two directories as open
descriptors. Killed anywhere, either the plain directories are still the room's, or the image is.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from orchestrator.core.disk import DiskUsage
from orchestrator.errors import DiskError
from orchestrator.private_file import sync_directory
from orchestrator.runners.disk_image import IMAGE, DiskImage, run_command

FOLDERS: Final = ("workspace", "home")
# There while plain directories next to an image are remains of a move, and nobody's files.
_MARK: Final = ".disk-moved"
_NEW: Final = "disk-new"
# 5 GB in small files took 40 s on an idle disk; the room's turn waits for it, other rooms don't.
_COPY_S: Final = 900
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def has_plain(folder: Path) -> bool:
    """Whether a directory of the room's is there that is in no image."""
    return any((folder / name).is_dir() and not (folder / name).is_symlink() for name in FOLDERS)


def move_into_image(
    folder: Path, lock: int, *, limit_bytes: int, uid: int, usage: DiskUsage
) -> None:
    """Copy the room's directories into a new image, which then is the room's. Blocks.

    Raises:
        DiskError: it can't be done (too large, say, or files that the room itself can't read);
            then nothing has changed.
    """
    discard_half(folder, lock)
    if usage.is_over:
        msg = f"{folder}: what is there is more than the room's disk may hold"
        raise DiskError(msg)
    image = DiskImage(folder, lock, name=_NEW)
    try:
        image.make(limit_bytes)
        image.mount()
        for name in FOLDERS:
            _copy(folder / name, image.mount_point / name, uid, lock)
        image.unmount()
    except BaseException:
        image.discard()
        raise
    (folder / _MARK).touch(mode=0o600)
    sync_directory(folder)
    image.path.rename(folder / IMAGE)
    sync_directory(folder)
    image.mount_point.rmdir()
    remove_moved(folder, lock)


def discard_half(folder: Path, lock: int) -> None:
    """Remove what a copying that was killed has left. Idempotent."""
    DiskImage(folder, lock, name=_NEW).discard()
    if not (folder / IMAGE).exists():
        (folder / _MARK).unlink(missing_ok=True)


def remove_moved(folder: Path, lock: int) -> None:
    """Remove plain directories whose content is in the image. Idempotent.

    No process of the room's can reach them any more.
    """
    if not (folder / _MARK).exists():
        return
    for name in FOLDERS:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            run_command("rm", "-rf", "--one-file-system", "--", str(folder / name), lock=lock)
    (folder / _MARK).unlink()


def _copy(source: Path, target: Path, uid: int, lock: int) -> None:
    target.mkdir(mode=0o700)
    os.chown(target, uid, uid, follow_symlinks=False)
    if not source.exists():
        return
    read = os.open(source, _DIRECTORY)
    write = os.open(target, _DIRECTORY)
    try:
        _copy_as(uid, read, write, lock)
        os.fsync(write)
    finally:
        os.close(read)
        os.close(write)


def _copy_as(uid: int, read: int, write: int, lock: int) -> None:
    # The way to both is closed to the room's uid; open descriptors need no way.
    ways = (f"/proc/self/fd/{read}/.", f"/proc/self/fd/{write}")
    command = ("cp", "-a", "--one-file-system", "--", *ways)
    try:
        done = subprocess.run(  # noqa: S603 - no shell; nothing of the room's is in the arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # It has names of the room's files, as many as the room likes.
            stderr=subprocess.DEVNULL,
            timeout=_COPY_S,
            check=False,
            pass_fds=(read, write, lock),
            user=uid,
            group=uid,
            extra_groups=(),
            umask=0o077,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        msg = f"the room's files could not be copied: {type(e).__name__}"
        raise DiskError(msg) from e
    if done.returncode != 0:
        msg = f"the room's files could not be copied whole (cp ended with {done.returncode})"
        raise DiskError(msg)
