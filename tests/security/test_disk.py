"""A room with a file system of its own against code that wants the host's disk, or another room's.

Real runners of the real image, whose disks are made as the orchestrator makes them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.core.sandbox import SandboxSpec
from orchestrator.disks import RoomDisks
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.workdir import prepare_room_dirs
from tests.support.mounts import loop_files, unmount_below, wait_until_let_go
from tests.support.runner_engine import ensure_runner_image, open_clean_backend, room_spec

pytestmark = [pytest.mark.docker, pytest.mark.faults, pytest.mark.timeout(300)]

MIB = 1 << 20
LIMIT = 32 * MIB
COMMAND_S = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One running runner on its own disk."""

    spec: SandboxSpec
    backend: DockerBackend
    disks: RoomDisks

    @property
    def image(self) -> Path:
        return self.disks.root / self.spec.slug / "disk.ext4"

    async def run(self, script: str) -> str:
        """Run a shell command as the room's user; what it printed, both streams."""
        api = self.backend.engine.api
        command = ["timeout", str(COMMAND_S), "bash", "-c", script]
        made = await self.backend.engine.call(api.exec_create, self.spec.name, command)
        output = await self.backend.engine.call_within(COMMAND_S + 10, api.exec_start, made["Id"])
        return str(output.decode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    first: Room
    second: Room


async def open_room(root: Path, backend: DockerBackend, image: str, index: int) -> Room:
    spec = room_spec(root, backend.installation, image, index=index)
    disks = RoomDisks(root=spec.workspace.parent.parent, kind="image")
    disk = await disks.ensure(spec.slug, limit_bytes=LIMIT, uid=spec.uid, is_vacant=False)
    assert disk is not None
    dirs = prepare_room_dirs(spec.workspace.parent, spec.uid, spec.gid, disk=disk)
    limits = replace(spec.limits, disk_bytes=LIMIT)
    spec = replace(spec, workspace=dirs.workspace, home=dirs.home, limits=limits)
    await backend.ensure(spec)
    await backend.start(spec.name)
    return Room(spec=spec, backend=backend, disks=disks)


@asynccontextmanager
async def open_rooms(root: Path, image: str) -> AsyncIterator[Rooms]:
    async with open_clean_backend() as backend:
        try:
            first = await open_room(root, backend, image, 0)
            yield Rooms(first=first, second=await open_room(root, backend, image, 1))
        finally:
            unmount_below(root)


@pytest.fixture(scope="session")
def image() -> str:
    return ensure_runner_image()


@pytest.fixture
async def rooms(tmp_path: Path, image: str) -> AsyncIterator[Rooms]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    async with open_rooms(tmp_path, image) as opened:
        yield opened


FULL = "No space left on device"
PYTHON = "python3 - <<'END'\nimport ctypes, errno, fcntl, mmap, os\n"
# What is tried, by name: a script, and what it must have printed. Each begins on an empty disk.
ATTEMPTS = {
    "write more than the disk has": ("dd if=/dev/zero of=big bs=1M", FULL),
    "write more than the disk has into the home": ("dd if=/dev/zero of=$HOME/big bs=1M", FULL),
    "share it between workspace and home": (
        "dd if=/dev/zero of=a bs=1M count=20; dd if=/dev/zero of=$HOME/b bs=1M count=20",
        FULL,
    ),
    "fill it with many files below the size limit": (
        "for i in $(seq 1 20); do head -c 4M /dev/zero > f$i; done",
        FULL,
    ),
    "reserve space": ("fallocate -l 31M one; fallocate -l 31M two", FULL),
    "reserve space past a file's end": (
        "touch f; fallocate -n -l 31M f; fallocate -n -l 31M g",
        FULL,
    ),
    "a sparse file of a terabyte": ("truncate -s 1T sparse", "File size limit exceeded"),
    "write into a sparse file": (
        "truncate -s 28M s; truncate -s 28M t; dd if=/dev/zero of=s conv=notrunc bs=1M count=28;"
        " dd if=/dev/zero of=t conv=notrunc bs=1M count=28",
        FULL,
    ),
    "many times more tiny files than it may have": ("seq 1 50000 | xargs touch", FULL),
    "many times more directories": ("seq 1 50000 | xargs mkdir", FULL),
    "a million symlinks": (
        f"{PYTHON}"
        "try:\n for i in range(10**6): os.symlink('/etc/passwd', f'l{i}')\n"
        "except OSError as e: print(e.strerror)\nEND",
        FULL,
    ),
    "a million names of one file": (
        f"{PYTHON}open('one', 'w').close()\n"
        "try:\n for i in range(10**6): os.link('one', f'n{i}')\n"
        "except OSError as e: print(e.strerror)\nEND",
        "Too many links",
    ),
    "a file that nobody can see": (
        f"{PYTHON}fs = []\n"
        "try:\n for i in range(9):\n"
        "  fs.append(open(f'f{i}', 'wb', 0)); os.unlink(f'f{i}')\n"
        "  for _ in range(32): fs[-1].write(bytes(1 << 20))\n"
        "except OSError as e: print(e.strerror)\nEND",
        FULL,
    ),
    "a file without a name": (
        f"{PYTHON}fs = []\n"
        "try:\n for i in range(9):\n"
        "  fs.append(os.open('.', os.O_TMPFILE | os.O_WRONLY))\n"
        "  os.posix_fallocate(fs[-1], 0, 32 << 20)\n"
        "except OSError as e: print(e.strerror)\nEND",
        FULL,
    ),
    "attributes instead of content": (
        f"{PYTHON}"
        "try:\n for i in range(10**5):\n"
        "  open(f'f{i}', 'w').close(); os.setxattr(f'f{i}', 'user.x', bytes(3000))\n"
        "except OSError as e: print(e.strerror)\nEND",
        FULL,
    ),
    "share blocks with a copy": (
        "head -c 1M /dev/zero > a; cp --reflink=always a b",
        "failed to clone",
    ),
    "give files to another uid": ("touch f; chown 0 f", "Operation not permitted"),
    "make a device": ("mknod b b 7 0; mknod c c 1 1", "Operation not permitted"),
    "reach the loop device": ("ls /dev/loop* /dev/vd* /dev/sd*", "No such file"),
    "leave the disk upwards": (
        "ls -d /workspace/../lost+found /workspace/../home/../disk",
        "No such file",
    ),
    "a name of a file in the other half": ("touch f; ln f $HOME/f", "Invalid cross-device link"),
    # FIFREEZE, FITRIM, EXT4_IOC_RESIZE_FS, EXT4_IOC_SHUTDOWN, EXT4_IOC_SWAP_BOOT; chattr +i.
    "commands for the file system's owner": (
        f"{PYTHON}fd = os.open('.', os.O_RDONLY)\nb = bytearray(32)\n"
        "for n in (0xC0045877, 0xC0185879, 0x40086610, 0x8004587D, 0x6611):\n"
        " try: fcntl.ioctl(fd, n, b); print('WORKED', hex(n))\n"
        " except OSError as e: print(errno.errorcode[e.errno])\nEND\n"
        "touch f; chattr +i f; chattr -p 7 f; chattr +j f",
        "EPERM",
    ),
}
CLEAN = "find /workspace /home/agent -mindepth 1 -delete; sync"


async def test_whatever_a_room_does_its_disk_stays_its_limit_and_others_write_on(
    rooms: Rooms,
) -> None:
    wrong: dict[str, str] = {}
    for name, (script, expected) in ATTEMPTS.items():
        said = await rooms.first.run(f"{{ cd /workspace; {script}\n}} 2>&1 | tail -c 3000; sync")
        beside = await rooms.second.run(
            "head -c 1M /dev/urandom > f && sync f && rm f && echo fine"
        )
        taken = rooms.first.image.stat().st_blocks * 512
        if expected not in said or "WORKED" in said or beside != "fine\n" or taken > LIMIT + MIB:
            wrong[name] = f"{said[-400:]} … beside: {beside}, taken: {taken}"
        await rooms.first.run(CLEAN)
    assert wrong == {}


async def test_what_a_room_deletes_is_the_hosts_again(rooms: Rooms) -> None:
    before = rooms.first.image.stat().st_blocks * 512
    await rooms.first.run("head -c 20M /dev/urandom > /workspace/big; sync")
    assert rooms.first.image.stat().st_blocks * 512 > before + 15 * MIB
    await rooms.first.run("rm /workspace/big; sync; sleep 1; sync")
    assert rooms.first.image.stat().st_blocks * 512 < before + 5 * MIB


async def test_the_mount_has_no_devices_no_setuid_and_a_root_that_the_room_does_not_see(
    rooms: Rooms,
) -> None:
    mounts = await rooms.first.run("grep -E ' /(workspace|home/agent) ' /proc/self/mountinfo")
    for line in mounts.splitlines():
        assert {"nosuid", "nodev"} <= set(line.split()[5].split(",")), line
        assert line.split()[3] in {"/workspace", "/home"}, line
    assert len(mounts.splitlines()) == 2
    folder = rooms.first.image.parent
    assert (rooms.first.image.stat().st_uid, rooms.first.image.stat().st_mode & 0o7777) == (
        0,
        0o600,
    )
    assert ((folder / "disk").stat().st_uid, (folder / "disk").stat().st_mode & 0o7777) == (
        0,
        0o700,
    )


async def test_a_mount_that_the_host_lost_is_joined_again_while_the_runner_goes_on(
    rooms: Rooms,
) -> None:
    room = rooms.first
    await room.run("echo before > /workspace/f; sync")
    subprocess.run(["umount", str(room.image.parent / "disk")], check=True)
    await room.run("echo during >> /workspace/f")
    disk = await room.disks.ensure(
        room.spec.slug, limit_bytes=LIMIT, uid=room.spec.uid, is_vacant=False
    )
    assert disk is not None
    assert (disk / "workspace" / "f").read_text() == "before\nduring\n"
    assert sum(str(room.image) in file for file in loop_files()) == 1


async def test_no_loop_device_stays_when_the_runner_is_gone_and_the_disk_let_go(
    rooms: Rooms,
) -> None:
    room = rooms.first
    # Either order: the runner may outlive the mount, or the mount the runner.
    await room.disks.release(room.spec.slug)
    assert await room.run("echo goes on > /workspace/f && cat /workspace/f") == "goes on\n"
    await room.backend.remove(room.spec.name)
    await asyncio.to_thread(wait_until_let_go, room.image)
    await rooms.second.backend.remove(rooms.second.spec.name)
    await rooms.second.disks.release(rooms.second.spec.slug)
    await asyncio.to_thread(wait_until_let_go, rooms.second.image)
