"""One room's file system: an ext4 image in a file, mounted through a loop device.

    rooms/SLUG/disk.ext4    the image: sparse, root's alone (0600), as large as `limits.disk`
    rooms/SLUG/disk/        where it is mounted; its root is root's, too

Rules: an image that is there is never made anew, whatever is wrong with it; nothing in it is looked
at from here; the commands that work on it hold the room's lock, also when we are killed meanwhile.
All of it blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.core.disk import DiskUsage, image_bytes, most_files
from orchestrator.core.disk_superblock import (
    SUPERBLOCK_AT,
    SUPERBLOCK_BYTES,
    parse_resting_usage,
)
from orchestrator.core.mount_info import parse_mounts
from orchestrator.errors import DiskError
from orchestrator.private_file import sync_directory

IMAGE: Final = "disk.ext4"
MOUNT: Final = "disk"
# nosuid and nodev as on every mount of a runner. discard: what the room deletes is the host's again
# (a hole in the image). After an error, nothing more is written to what may be damaged.
_MOUNT_OPTIONS: Final = "loop,nosuid,nodev,noatime,discard,errors=remount-ro"
# A check of a full 100 GB disk takes minutes on a slow one; all else takes milliseconds.
_COMMAND_S: Final = 600
_LOCK_S: Final = 60.0
_LOCK_POLL_S: Final = 0.05
# A container that starts has a copy of every mount of the host until its runtime has changed the
# root: some 100 ms by our own starts, longer on a busy host.
_STILL_USED_S: Final = 2.0
# e2fsck: 1 is "errors were corrected".
_FSCK_FINE: Final = (0, 1)
_SMALL: Final = 256 << 20
# <linux/loop.h>: struct loop_info64 begins with the file's device and inode.
_LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_INFO64_BYTES: Final = 232
# How /proc/self/mountinfo shows a file system that met an error; the second since Linux 6.15.
_SICK: Final = frozenset({"ro", "emergency_ro", "shutdown"})


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """The room's lock; what is started with the descriptor keeps it until it ends, too.

    Raises:
        DiskError: somebody else (a command of an orchestrator that was killed) keeps it for long.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as e:
                if time.monotonic() > until:
                    msg = f"{folder}: something still works on the room's disk"
                    raise DiskError(msg) from e
                time.sleep(_LOCK_POLL_S)
        yield lock
    finally:
        os.close(lock)


class DiskImage:
    """The image of the room in `folder`. Every method but those of usage needs the room's lock."""

    def __init__(self, folder: Path, lock: int, *, name: str = MOUNT) -> None:
        self.path = folder / f"{name}.ext4"
        self.mount_point = folder / name
        self._lock = lock

    def __repr__(self) -> str:
        return f"DiskImage({self.path})"

    @property
    def exists(self) -> bool:
        """Whether there is one, mounted or not."""
        return self.path.is_file() and not self.path.is_symlink()

    def make(self, limit_bytes: int) -> None:
        """Make it, empty; whole or not at all. There must be none.

        A journal, though a small one: without it a host that loses power leaves files that were
        written long before in pieces. No blocks are reserved for root, who never writes here, and
        nothing is written ahead of its use, so that the file stays sparse.
        """
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        size = image_bytes(limit_bytes)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, size)
            # fmt: off
            self._run(
                "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0",
                "-N", str(most_files(limit_bytes)),
                "-J", f"size={4 if size < _SMALL else 8}",
                "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
                str(new),
            )
            # fmt: on
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.rename(self.path)
        sync_directory(self.path.parent)

    def mount(self) -> None:
        """Mount it, checked where the last unmount was none. Idempotent.

        Raises:
            DiskError: it can't be repaired without losing something, or something else is there.
        """
        if self.is_mounted():
            return
        self.mount_point.mkdir(mode=0o700, exist_ok=True)
        if not _loop_devices(self.path):
            # Never under a file system that a runner still has: mounting shares that one.
            self._run("e2fsck", "-p", str(self.path), fine=_FSCK_FINE)
        self._run(
            "mount", "-t", "ext4", "-o", _MOUNT_OPTIONS, str(self.path), str(self.mount_point)
        )
        self.mount_point.chmod(0o700)

    def unmount(self) -> None:
        """Unmount it, whoever still uses it: it goes when the last of them does. Idempotent."""
        while self.is_mounted():
            self._run("umount", "--lazy", str(self.mount_point))

    def grow(self, limit_bytes: int) -> bool:
        """Make a file system that is not in use as large as this; True when it was smaller.

        Raises:
            DiskError: it is in use, or can't be changed.
        """
        size = image_bytes(limit_bytes)
        if self.size_bytes() >= size:
            return False
        if self.is_mounted() or _loop_devices(self.path):
            msg = f"{self.path} is in use and can't be made larger now"
            raise DiskError(msg)
        # First the file system, as far as its file goes: a kill in between is made good next time.
        self._run("e2fsck", "-f", "-p", str(self.path), fine=_FSCK_FINE)
        os.truncate(self.path, size)
        self._run("resize2fs", str(self.path))
        return True

    def wait_until_free(self) -> bool:
        """Whether nobody has it; also not for the moment in which another container starts."""
        until = time.monotonic() + _STILL_USED_S
        while not self.is_mounted():
            if not _loop_devices(self.path):
                return True
            if time.monotonic() > until:
                break
            time.sleep(_LOCK_POLL_S)
        return False

    def size_bytes(self) -> int:
        """How large the file system is, by its superblock; the file may be ahead of it."""
        with self.path.open("rb") as file:
            file.seek(1024)
            block = file.read(1024)
        blocks = int.from_bytes(block[0x4:0x8], "little")
        blocks |= int.from_bytes(block[0x150:0x154], "little") << 32
        return blocks << (10 + int.from_bytes(block[0x18:0x1C], "little"))

    def is_mounted(self) -> bool:
        """Whether it is mounted in its place.

        Raises:
            DiskError: something else is mounted there.
        """
        device = _device_mounted_at(self.mount_point)
        if device is None:
            return False
        number = f"{os.major(device)}:{os.minor(device)}"
        if not _is_backed_by(Path("/sys/dev/block") / number, self.path):
            msg = f"{self.mount_point}: something is mounted there that is not {self.path}"
            raise DiskError(msg)
        return True

    def usage(self) -> DiskUsage | None:
        """What of it is used; None where it is not mounted. Needs no lock."""
        device = _device_mounted_at(self.mount_point)
        if device is None:
            return None
        status = os.statvfs(self.mount_point)
        return DiskUsage(
            used_bytes=(status.f_blocks - status.f_bavail) * status.f_frsize,
            limit_bytes=status.f_blocks * status.f_frsize,
            files=status.f_files - status.f_favail,
            limit_files=status.f_files,
            is_enforced=True,
            is_sick=not _SICK.isdisjoint(_super_options(device)),
        )

    def resting_usage(self) -> DiskUsage | None:
        """The same where it is not mounted, as it was at its last unmount. Needs no lock."""
        with self.path.open("rb") as file:
            file.seek(SUPERBLOCK_AT)
            return parse_resting_usage(file.read(SUPERBLOCK_BYTES))

    def discard(self) -> None:
        """Remove it and its mount point. Only for one that never was a room's. Idempotent."""
        self.unmount()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.mount_point.rmdir()

    def _run(self, *command: str, fine: tuple[int, ...] = (0,)) -> None:
        run_command(*command, lock=self._lock, fine=fine)


def run_command(*command: str, lock: int, fine: tuple[int, ...] = (0,)) -> None:
    """Run one of the system's commands, which keeps the room's lock until it ends.

    Raises:
        DiskError: it is not there, failed, or took too long; with the end of what it said.
    """
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 - no shell; paths are ours
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_S,
            check=False,
            pass_fds=(lock,),
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        msg = f"{command[0]} could not be run: {getattr(e, 'strerror', None) or 'it took too long'}"
        raise DiskError(msg) from e
    if done.returncode not in fine:
        said = " ".join((done.stderr + done.stdout).decode(errors="replace").split())
        msg = f"{' '.join(command)} failed ({done.returncode}): {said[-300:]}"
        raise DiskError(msg)


def _device_mounted_at(mount_point: Path) -> int | None:
    """The device of what is mounted there; None where nothing is."""
    try:
        there, parent = mount_point.lstat().st_dev, mount_point.parent.lstat().st_dev
    except FileNotFoundError:
        return None
    return None if there == parent else there


def _super_options(device: int) -> tuple[str, ...]:
    """How the kernel has the file system on a device now."""
    name = f"{os.major(device)}:{os.minor(device)}"
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    return next((mount.super_options for mount in mounts if mount.device == name), ())


def _is_backed_by(device: Path, path: Path) -> bool:
    """Whether a block device (its directory in /sys) is a loop device over this very file.

    By the file's inode. The path that the kernel shows is the one in the mount namespace where the
    file was opened: after a restart of the orchestrator's container, or a move from there to the
    host, another one. It decides alone where the device can't be opened.
    """
    try:
        shown = (device / "loop" / "backing_file").read_text().removesuffix("\n")
        name = device.resolve().name
    except OSError:
        return False
    try:
        descriptor = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return shown == str(path.resolve())
    try:
        status = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64_BYTES))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    try:
        there = path.stat()
    except OSError:
        return False
    file_device, inode = struct.unpack_from("=QQ", status)
    return (_decode_device(file_device), inode) == (there.st_dev, there.st_ino)


def _decode_device(number: int) -> int:
    """As `st_dev` has it; the kernel's form is the one of its own `new_encode_dev`."""
    return os.makedev((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00))


def _loop_devices(path: Path) -> list[str]:
    """The loop devices that have this file, mounted here or anywhere."""
    devices = Path("/sys/block").glob("loop*")
    return [device.name for device in devices if _is_backed_by(device, path)]
