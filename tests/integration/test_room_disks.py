"""The rooms' file systems on a real host: made, kept, grown, mended, moved into, let go of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.disks import RoomDisks, choose_kind, takes_nothing
from orchestrator.errors import DiskError, PreconditionError
from orchestrator.model import RoomSlug
from orchestrator.runners import disk_image, disk_move
from orchestrator.runners.disk_image import DiskImage, held, run_command
from orchestrator.runners.disk_measure import measure
from orchestrator.runners.engine_http import EngineAddress
from orchestrator.runners.engine_view import sees_mount
from orchestrator.runners.workdir import RoomDirs, prepare_room_dirs
from tests.support.mounts import mounts_below, unmount_below, wait_until_let_go

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
]

MIB = 1 << 20
LIMIT = 32 * MIB
UID = 1073741825
SLUG = RoomSlug("room")


class Host:
    """A state directory's rooms; `ensure` is what happens at each preparation of a runner."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.disks = RoomDisks(root=state_dir / "rooms", kind="image")
        self.plain = RoomDisks(root=state_dir / "rooms", kind="measured")
        self.folder = state_dir / "rooms" / SLUG
        self.image = self.folder / "disk.ext4"

    async def ensure(
        self, limit: int = LIMIT, *, is_vacant: bool = False, kind: str = "image"
    ) -> RoomDirs:
        disks = self.disks if kind == "image" else self.plain
        disk = await disks.ensure(SLUG, limit_bytes=limit, uid=UID, is_vacant=is_vacant)
        return prepare_room_dirs(self.folder, UID, UID, disk=disk)

    async def release(self) -> None:
        await self.disks.release(SLUG)
        await asyncio.to_thread(wait_until_let_go, self.folder)

    def as_room(self, script: str, folder: Path) -> None:
        """Run a shell command as the room's user, in a directory of the room's."""
        at = os.open(folder, os.O_RDONLY)
        try:
            subprocess.run(
                ["bash", "-c", f"cd /proc/self/fd/{at} && {script}"],
                check=True, pass_fds=(at,), user=UID, group=UID, extra_groups=(), umask=0o022,
            )  # fmt: skip
        finally:
            os.close(at)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    try:
        yield Host(tmp_path)
    finally:
        unmount_below(tmp_path)


def is_image(dirs: RoomDirs) -> bool:
    return dirs.workspace.parent.name == dirs.home.parent.name == "disk"


async def test_a_new_room_gets_a_disk_at_once_and_keeps_it_over_every_preparation(
    host: Host,
) -> None:
    first = await host.ensure()
    (first.workspace / "f").write_text("kept")
    assert is_image(first)
    for is_vacant in (False, True, False):
        assert await host.ensure(is_vacant=is_vacant) == first
    assert len(mounts_below(host.folder)) == 1
    assert (host.folder / "workspace" / "f").read_text() == "kept"


async def test_an_unmounted_disk_is_mounted_again_with_what_it_had(host: Host) -> None:
    first = await host.ensure()
    (first.home / "f").write_text("kept")
    await host.release()
    assert mounts_below(host.folder) == []
    assert not (host.folder / "home" / "f").exists()
    assert await host.ensure(kind="measured") == first
    assert (first.home / "f").read_text() == "kept"


async def test_a_host_that_lost_power_leaves_a_disk_that_is_mended_and_mounted(
    host: Host,
) -> None:
    dirs = await host.ensure()
    for number in range(200):
        (dirs.workspace / f"{number}").write_text("x")
    os.sync()
    # As the disk of a machine that was switched off: with a journal that was not replayed.
    snapshot = host.image.read_bytes()
    await host.release()
    host.image.write_bytes(snapshot)
    dirs = await host.ensure()
    assert len(list(dirs.workspace.iterdir())) == 200


async def test_the_links_of_a_start_that_was_killed_get_their_owner(host: Host) -> None:
    await host.ensure()
    for name in ("workspace", "home"):
        os.lchown(host.folder / name, 0, 0)
    await host.ensure()
    assert {(host.folder / n).lstat().st_uid for n in ("workspace", "home")} == {UID}


async def test_a_folder_that_is_not_what_it_should_be_is_that_rooms_error(host: Host) -> None:
    host.folder.parent.mkdir()
    host.folder.symlink_to("/")
    with pytest.raises(DiskError, match="can't be used"):
        await host.ensure()


async def test_a_damaged_disk_is_that_rooms_error_and_never_made_anew(host: Host) -> None:
    await host.ensure()
    await host.release()
    with host.image.open("r+b") as file:
        for start in (0, 8 * MIB, 24 * MIB):
            file.seek(start)
            file.write(os.urandom(MIB))
    damaged = host.image.read_bytes()
    for is_vacant in (False, True):
        with pytest.raises(DiskError, match="e2fsck"):
            await host.ensure(is_vacant=is_vacant)
    assert host.image.read_bytes()[8 * MIB : 9 * MIB] == damaged[8 * MIB : 9 * MIB]
    assert mounts_below(host.folder) == []


async def test_a_disk_that_met_an_error_is_checked_between_two_containers(host: Host) -> None:
    dirs = await host.ensure()
    (dirs.workspace / "f").write_text("kept")
    subprocess.run(["mount", "-o", "remount,ro", str(host.folder / "disk")], check=True)
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert usage.is_sick
    assert await host.ensure(is_vacant=True) == dirs
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert not usage.is_sick
    (dirs.workspace / "f").write_text("written")


async def test_something_else_in_the_mounts_place_is_an_error_and_left_alone(host: Host) -> None:
    await host.ensure()
    await host.release()
    place = str(host.folder / "disk")
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    with pytest.raises(DiskError, match="something is mounted"):
        await host.ensure()
    assert len(mounts_below(host.folder)) == 1


async def test_a_killed_making_leaves_nothing_that_is_taken_for_a_disk(host: Host) -> None:
    host.folder.mkdir(parents=True)
    (host.folder / ".disk.ext4.new").write_bytes(bytes(MIB))
    dirs = await host.ensure()
    assert is_image(dirs)
    assert not (host.folder / ".disk.ext4.new").exists()


async def test_a_command_of_a_killed_orchestrator_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_image, "_LOCK_S", 0.3)
    await host.ensure()
    begun = host.state_dir / "begun"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with held(host.folder) as lock:
            run_command("bash", "-c", f"touch {begun}; exec sleep 60", lock=lock)
        os._exit(1)
    try:
        async with asyncio.timeout(20):
            while not begun.exists():  # noqa: ASYNC110 - another process's file
                await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)
        with pytest.raises(DiskError, match="still works"):
            await host.ensure()
    finally:
        os.killpg(pid, signal.SIGKILL)
    monkeypatch.undo()
    await host.ensure()


async def test_a_raised_limit_makes_the_disk_larger_once_no_container_has_it(host: Host) -> None:
    dirs = await host.ensure()
    (dirs.workspace / "f").write_text("kept")
    before = await host.disks.usage(SLUG, LIMIT)
    await host.ensure(16 * LIMIT)
    assert await host.disks.usage(SLUG, LIMIT) == before
    await host.ensure(16 * LIMIT, is_vacant=True)
    after = await host.disks.usage(SLUG, LIMIT)
    assert before is not None
    assert after is not None
    assert after.limit_bytes > 15 * before.limit_bytes
    assert after.limit_files >= 4 * before.limit_files
    assert (dirs.workspace / "f").read_text() == "kept"


@pytest.mark.parametrize(("used_s", "is_larger"), [("0.5", True), ("60", False)])
async def test_a_disk_that_a_starting_container_has_for_a_moment_is_made_larger_all_the_same(
    host: Host, used_s: str, is_larger: bool
) -> None:
    await host.ensure()
    # As a runtime does: every mount of the host is in the new namespace, too.
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-c", f"echo up; exec sleep {used_s}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        dirs = await host.ensure(4 * LIMIT, is_vacant=True)
        usage = await host.disks.usage(SLUG, LIMIT)
        assert usage is not None
        assert (usage.limit_bytes > 3 * LIMIT) is is_larger
        (dirs.workspace / "f").write_text("it works either way")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_disk_that_nobody_used_yet_gets_a_lower_limit_and_a_used_one_keeps_its_size(
    host: Host,
) -> None:
    await host.ensure(4 * LIMIT)
    await host.ensure(LIMIT)
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert usage.limit_bytes > 3 * LIMIT, "a container may have it"
    dirs = await host.ensure(LIMIT, is_vacant=True)
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert usage.limit_bytes <= LIMIT
    (dirs.home / ".kept").write_text("kept")
    await host.ensure(LIMIT // 2, is_vacant=True)
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert usage.limit_bytes > LIMIT // 2
    assert (dirs.home / ".kept").read_text() == "kept"


async def test_a_growth_that_was_cut_short_is_finished_by_the_next(host: Host) -> None:
    await host.ensure()
    await host.release()
    os.truncate(host.image, 4 * LIMIT)
    await host.ensure(4 * LIMIT, is_vacant=True)
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert usage.limit_bytes > 3 * LIMIT


@pytest.mark.parametrize(
    "fill",
    [
        "dd if=/dev/zero of=big bs=4k status=none || rm -f nothing",
        "i=0; while mkdir $i 2>&-; do i=$((i+1)); done",
    ],
)
async def test_a_disk_without_a_place_for_a_small_file_is_known(host: Host, fill: str) -> None:
    dirs = await host.ensure()
    assert not takes_nothing(dirs.home)
    host.as_room(fill, dirs.workspace)
    assert takes_nothing(dirs.home)
    host.as_room("rm -rf ./*", dirs.workspace)
    assert not takes_nothing(dirs.home)


async def test_a_lowered_limit_takes_nothing_away(host: Host) -> None:
    dirs = await host.ensure(2 * LIMIT)
    (dirs.workspace / "f").write_bytes(os.urandom(LIMIT))
    await host.ensure(LIMIT, is_vacant=True)
    assert (dirs.workspace / "f").stat().st_size == LIMIT
    assert host.image.stat().st_size == 2 * LIMIT


# ---- rooms of an earlier version

HOSTILE = (
    "ln -s /etc/shadow link; ln -s /proc/self/root root; ln -s .. up; mkfifo fifo;"
    " echo one > one; ln one two; truncate -s 1T sparse; mkdir -p 'a b/c';"
    " touch -- '-rf' $'new\\nline' $'\\xff'; chmod 4755 one;"
    " for i in $(seq 60); do mkdir d && cd d; done"
)


async def test_plain_directories_become_a_disk_when_no_container_has_them(host: Host) -> None:
    plain = await host.ensure(kind="measured")
    host.as_room(HOSTILE, plain.workspace)
    host.as_room("echo home > f; chmod 600 f", plain.home)
    assert await host.ensure() == plain
    dirs = await host.ensure(is_vacant=True)
    assert is_image(dirs)
    work = dirs.workspace
    assert (work / "link").readlink() == Path("/etc/shadow")
    assert stat.S_ISFIFO((work / "fifo").lstat().st_mode)
    assert (work / "one").stat().st_ino == (work / "two").stat().st_ino
    assert (work / "sparse").stat().st_size == 1 << 40
    assert {os.fsencode(p.name) for p in work.iterdir()} == {
        b"link", b"root", b"up", b"fifo", b"one", b"two", b"sparse", b"a b", b"-rf", b"new\nline",
        b"\xff", b"d",
    }  # fmt: skip
    assert (dirs.home / "f").read_text() == "home\n"
    assert {p.lstat().st_uid for p in work.rglob("*")} == {UID}
    # The old names lead to the new place, with the owner that a restore looks at.
    link = host.folder / "workspace"
    assert (link.readlink(), link.lstat().st_uid) == (Path("disk/workspace"), UID)
    assert sorted(p.name for p in host.folder.iterdir()) == [
        "disk", "disk.ext4", "egress", "home", "workspace",
    ]  # fmt: skip
    assert await host.ensure(is_vacant=True) == dirs


@pytest.mark.parametrize(
    "script",
    [
        "head -c 40M /dev/zero > big",
        "seq 5000 | xargs touch",
        "mkdir closed; touch closed/f; chmod 000 closed",
    ],
)
async def test_what_can_not_be_moved_whole_stays_where_it_is_and_is_counted(
    host: Host, script: str
) -> None:
    plain = await host.ensure(kind="measured")
    host.as_room(f"echo kept > f; {script}", plain.workspace)
    assert await host.ensure(is_vacant=True) == plain
    assert (plain.workspace / "f").read_text() == "kept\n"
    assert mounts_below(host.folder) == []
    assert sorted(p.name for p in host.folder.iterdir()) == ["egress", "home", "workspace"]
    usage = await host.disks.usage(SLUG, LIMIT)
    assert usage is not None
    assert not usage.is_enforced


@pytest.mark.parametrize("step", ["_copy", "sync_directory", "remove_moved"])
async def test_a_move_that_is_killed_anywhere_is_begun_or_finished_again(
    host: Host, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = await host.ensure(kind="measured")
    host.as_room("echo kept > f", plain.workspace)
    host.as_room("echo home > f", plain.home)
    # A child that is killed at this step, as the orchestrator would be.
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(disk_move, step, lambda *_: os.kill(os.getpid(), 9))
        with held(host.folder) as lock:
            folders = (plain.workspace, plain.home)
            usage = measure(folders, LIMIT)
            disk_move.move_into_image(host.folder, lock, limit_bytes=LIMIT, uid=UID, usage=usage)
        os._exit(1)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.WTERMSIG(status) == 9
    dirs = await host.ensure(is_vacant=True)
    assert is_image(dirs)
    assert (dirs.workspace / "f").read_text() == "kept\n"
    assert (dirs.home / "f").read_text() == "home\n"
    assert sorted(p.name for p in host.folder.iterdir()) == [
        "disk", "disk.ext4", "egress", "home", "workspace",
    ]  # fmt: skip


async def test_directories_of_another_version_next_to_a_disk_are_left_alone(host: Host) -> None:
    await host.ensure()
    (host.folder / "workspace").unlink()
    (host.folder / "workspace").mkdir()
    (host.folder / "workspace" / "f").write_text("of an older version")
    dirs = await host.ensure(is_vacant=True)
    assert is_image(dirs)
    assert not (dirs.workspace / "f").exists()
    assert (host.folder / "workspace" / "f").exists()


# ---- which kind


async def test_a_host_that_can_do_it_gives_each_room_a_disk_and_leaves_no_trace_of_the_trial(
    tmp_path: Path,
) -> None:
    assert await choose_kind(tmp_path, "auto", is_seen=lambda _: True) == "image"
    assert list((tmp_path / "rooms").iterdir()) == []
    assert mounts_below(tmp_path) == []


async def test_where_the_engine_does_not_see_the_mounts_rooms_are_counted(tmp_path: Path) -> None:
    assert await choose_kind(tmp_path, "auto", is_seen=lambda _: False) == "measured"
    with pytest.raises(PreconditionError, match="does not see"):
        await choose_kind(tmp_path, "image", is_seen=lambda _: False)
    assert await choose_kind(tmp_path, "measured", is_seen=lambda _: True) == "measured"


async def test_where_there_is_no_mkfs_rooms_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*command: str, **_: object) -> None:
        raise DiskError(command[0])

    monkeypatch.setattr(disk_image, "run_command", fail)
    assert await choose_kind(tmp_path, "auto", is_seen=lambda _: True) == "measured"
    disks = RoomDisks(root=tmp_path / "rooms", kind="image")
    assert await disks.ensure(SLUG, limit_bytes=LIMIT, uid=UID, is_vacant=False) is None


async def test_an_engine_in_another_mount_namespace_is_found_out(tmp_path: Path) -> None:
    """A listener that was started before the mount, in a namespace of its own."""
    socket_path = tmp_path / "engine.sock"
    program = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);"
        " s.listen(); print('up', flush=True); time.sleep(60)"
    )
    for unshare, expected in ((["unshare", "--mount"], False), ([], True)):
        socket_path.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *unshare, "python3", "-c", program, str(socket_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        folder = tmp_path / f"room {expected}"
        folder.mkdir()
        with held(folder) as lock:
            image = DiskImage(folder, lock)
            image.make(LIMIT)
            image.mount()
            try:
                address = EngineAddress(socket=str(socket_path))
                assert sees_mount(address, image.mount_point) is expected
            finally:
                image.unmount()
                process.kill()
                await process.wait()


async def test_what_a_disk_holds_is_known_mounted_and_at_rest_alike(host: Host) -> None:
    for limit in (LIMIT, 300 * MIB):
        dirs = await host.ensure(limit, is_vacant=True)
        (dirs.workspace / "large").write_bytes(os.urandom(5 * MIB))
        for number in range(30):
            (dirs.home / f"{number}").write_text("x")
        os.sync()
        mounted = await host.disks.known({SLUG: limit})
        assert mounted == {SLUG: await host.disks.usage(SLUG, limit)}
        assert 5 * MIB <= mounted[SLUG].used_bytes < mounted[SLUG].limit_bytes <= limit
        await host.release()
        assert await host.disks.usage(SLUG, limit) is None
        assert await host.disks.known({SLUG: limit}) == mounted, limit


async def test_what_a_disk_holds_is_not_known_where_its_superblock_does_not_say(host: Host) -> None:
    await host.ensure()
    snapshot = host.image.read_bytes()
    await host.release()
    host.disks = RoomDisks(root=host.disks.root, kind="image")  # another life
    for content in (snapshot, b"", b"\0" * MIB):
        host.image.write_bytes(content)
        assert await host.disks.known({SLUG: LIMIT}) == {}
    host.image.unlink()
    host.image.mkdir()
    assert await host.disks.known({SLUG: LIMIT, RoomSlug("never"): LIMIT}) == {}


async def test_a_disk_that_somebody_still_uses_is_known_after_it_was_let_go_of(host: Host) -> None:
    dirs = await host.ensure()
    with (dirs.workspace / "open").open("wb"):
        seen = await host.disks.known({SLUG: LIMIT})
        await host.disks.release(SLUG)
        assert mounts_below(host.folder) == []
        assert host.disks._known(SLUG, LIMIT) == seen[SLUG]


async def test_of_plain_directories_the_last_count_is_known(host: Host) -> None:
    dirs = await host.ensure(kind="measured")
    assert await host.plain.known({SLUG: LIMIT}) == {}
    (dirs.workspace / "f").write_bytes(b"x" * MIB)
    counted = await host.plain.usage(SLUG, LIMIT)
    (dirs.workspace / "g").write_bytes(b"x" * MIB)
    assert await host.plain.known({SLUG: LIMIT}) == {SLUG: counted}
