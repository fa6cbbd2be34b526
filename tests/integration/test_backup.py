"""A whole backup of rooms with file systems of their own: mounted, at rest, and put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backup.making import make_backup
from orchestrator.backup.restoring import restore_backup
from orchestrator.backup.room_files import opened_room
from orchestrator.disks import RoomDisks
from orchestrator.model import RoomSlug
from orchestrator.runners.disk_image import held
from orchestrator.runners.workdir import RoomDirs, prepare_room_dirs
from orchestrator.store.store import open_store
from tests.support.mounts import mounts_below, unmount_below, wait_until_let_go

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
]

LIMIT = 32 << 20
UID = 1073741825


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    async def begin() -> None:
        async with open_store(tmp_path / "state"):
            pass

    (tmp_path / "state").mkdir(mode=0o700)
    asyncio.run(begin())
    yield tmp_path / "state"
    unmount_below(tmp_path)


async def room(state: Path, slug: str, *, is_vacant: bool = False) -> RoomDirs:
    """The room's directories, as before a runner starts."""
    disks = RoomDisks(root=state / "rooms", kind="image")
    disk = await disks.ensure(RoomSlug(slug), limit_bytes=LIMIT, uid=UID, is_vacant=is_vacant)
    return prepare_room_dirs(state / "rooms" / slug, UID, UID, disk=disk)


def write(dirs: RoomDirs, text: str) -> None:
    path = dirs.workspace / "notes.txt"
    path.write_text(text)
    os.chown(path, UID, UID)


async def test_rooms_at_work_and_at_rest_are_in_the_backup_and_in_their_file_systems_again(
    state: Path, tmp_path: Path
) -> None:
    write(await room(state, "awake"), "of the one awake")
    write(await room(state, "at-rest"), "of the one at rest")
    disks = RoomDisks(root=state / "rooms", kind="image")
    await disks.release(RoomSlug("at-rest"))
    before = mounts_below(state)

    made = await asyncio.to_thread(make_backup, state, tmp_path / "all.tar", tell=lambda _: None)

    assert mounts_below(state) == before
    await asyncio.to_thread(wait_until_let_go, state / "rooms" / "at-rest")
    new = tmp_path / "new"
    assert (await asyncio.to_thread(restore_backup, made.path, new)).rooms == 2
    for slug, text in (("awake", "of the one awake"), ("at-rest", "of the one at rest")):
        dirs = await room(new, slug, is_vacant=True)
        # As a runner finds it: moved into an image, the room's own.
        assert (new / "rooms" / slug / "disk.ext4").exists()
        assert (dirs.workspace / "notes.txt").read_text() == text
        assert (dirs.workspace / "notes.txt").stat().st_uid == UID


async def test_a_room_may_start_while_its_files_are_read(state: Path, tmp_path: Path) -> None:
    write(await room(state, "busy"), "x" * 100_000)
    disks = RoomDisks(root=state / "rooms", kind="image")
    await disks.release(RoomSlug("busy"))
    folder = state / "rooms" / "busy"

    with opened_room(folder) as files:
        # Nobody's lock is held: the room's runner gets its disk, and takes and gives it at will.
        with held(folder):
            pass
        dirs = await room(state, "busy")
        write(dirs, "written meanwhile")
        await disks.release(RoomSlug("busy"))
        inside = os.open("workspace/notes.txt", os.O_RDONLY, dir_fd=files)
        assert os.read(inside, 100) == b"written meanwhile"
        os.close(inside)
    write(await room(state, "busy"), "and after it")


async def test_the_archive_is_one_that_other_programs_read(state: Path, tmp_path: Path) -> None:
    dirs = await room(state, "room")
    with (dirs.workspace / "holes").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"data")
        file.truncate(16 << 20)
    made = await asyncio.to_thread(make_backup, state, tmp_path / "all.tar", tell=lambda _: None)

    subprocess.run(["tar", "-xf", made.path, "-C", tmp_path, "rooms"], check=True)

    unpacked = tmp_path / "rooms" / "room" / "workspace" / "holes"
    assert (unpacked.stat().st_size, unpacked.stat().st_blocks * 512 < 1 << 20) == (16 << 20, True)
    assert unpacked.read_bytes()[8 << 20 :].startswith(b"data\0")
    with tarfile.open(made.path) as tar:
        assert tar.getnames()[-1] == "manifest.json"


async def test_a_room_whose_disk_is_broken_does_not_keep_the_others_from_being_saved(
    state: Path, tmp_path: Path
) -> None:
    write(await room(state, "well"), "saved")
    await room(state, "broken")
    disks = RoomDisks(root=state / "rooms", kind="image")
    await disks.release(RoomSlug("broken"))
    with (state / "rooms" / "broken" / "disk.ext4").open("r+b") as file:
        file.write(b"\xff" * (1 << 20))
    told: list[str] = []

    made = await asyncio.to_thread(make_backup, state, tmp_path / "all.tar", tell=told.append)

    assert [line for line in told if line.startswith("! rooms/broken: its files can't be read")]
    parts = {part.name: part for part in made.manifest.parts}
    assert parts["rooms/broken"].left_out == ["all of it"]
    assert parts["rooms/well"].entries >= 3
