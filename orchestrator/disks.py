"""Each room's disk on this host: which kind it has, made, mounted, looked at, let go of.

    a file system of its own    the kernel keeps workspace and home within `limits.disk`
    plain directories           counted now and then: the fallback, and what older versions left

Rules: a room keeps what it has until no container of it exists; what has an image is never used
without it; one room's trouble is that room's. What blocks runs in threads.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from loguru import logger

from orchestrator.call_threads import CallThreads
from orchestrator.core.disk import DiskUsage, image_bytes
from orchestrator.errors import DiskError, PreconditionError, RunnerError
from orchestrator.model import RoomSlug, RunnerState
from orchestrator.ports import RunnerBackend
from orchestrator.runners.disk_image import IMAGE, MOUNT, DiskImage, held
from orchestrator.runners.disk_measure import measure
from orchestrator.runners.disk_move import (
    FOLDERS,
    discard_half,
    has_plain,
    move_into_image,
    remove_moved,
)
from orchestrator.runners.engine_http import EngineAddress
from orchestrator.runners.engine_view import sees_mount

Kind = Literal["image", "measured"]
Wanted = Literal["auto", "image", "measured"]
_PROBE = ".disk-probe"
_PROBE_BYTES = 16 << 20
# A room whose files are moved holds a thread for minutes; its turn waits for it, others don't.
_THREADS = 16
# What one turn of the CLI makes in its temporary directory, with some to spare.
_FEW_BYTES = 1 << 20
_FEW_FILES = 64
# A runner in one of these states has its disk.
_USING = (RunnerState.RUNNING, RunnerState.PAUSED)


@asynccontextmanager
async def open_disks(
    state_dir: Path, wanted: Wanted, backend: RunnerBackend, *, engine: EngineAddress
) -> AsyncIterator[RoomDisks]:
    """The rooms' disks; at the end those stay mounted whose runner goes on.

    Raises:
        PreconditionError: images are wanted and don't work here; says why.
    """
    _warn_of_core_socket()
    kind = await choose_kind(state_dir, wanted, is_seen=lambda path: sees_mount(engine, path))
    disks = RoomDisks(root=state_dir / "rooms", kind=kind)
    try:
        yield disks
    finally:
        try:
            infos = await backend.list()
        except (RunnerError, PreconditionError) as e:
            # What an unknown runner may use stays; the next life looks again.
            logger.bind(action="disk.release", error=type(e).__name__).warning("disks stay mounted")
        else:
            await disks.release_all(but={i.slug for i in infos if i.state in _USING})


def _warn_of_core_socket() -> None:
    """A crash in a runner ends at the host's handler of core dumps, where that is a socket.

    Files and piped handlers are kept from it by the runners' limit of core dumps; for a socket
    (since Linux 6.16) the kernel asks for no limit.
    """
    pattern = Path("/proc/sys/kernel/core_pattern")
    if pattern.exists() and pattern.read_text().startswith("@"):
        logger.bind(action="disk.core_pattern").warning(
            "kernel.core_pattern hands core dumps to a socket: a room whose processes crash"
            " can use up what listens there"
        )


async def choose_kind(state_dir: Path, wanted: Wanted, *, is_seen: Callable[[Path], bool]) -> Kind:
    """What new rooms get. `is_seen`: whether the engine sees what is mounted at a path.

    Raises:
        PreconditionError: images are wanted and don't work here; says why.
    """
    if wanted == "measured":
        return "measured"
    try:
        await CallThreads(1).run(lambda: _probe(state_dir, is_seen))
    except (DiskError, OSError) as e:
        if wanted == "image":
            msg = f"docker.disk_quota is image, and this host can't do it: {e}"
            raise PreconditionError(msg) from e
        logger.bind(action="disk.kind", why=str(e)).warning(
            "rooms get no file system of their own here; what they hold is counted instead"
        )
        return "measured"
    return "image"


def _probe(state_dir: Path, is_seen: Callable[[Path], bool]) -> None:
    folder = state_dir / "rooms"
    folder.mkdir(mode=0o700, exist_ok=True)
    with held(folder) as lock:
        image = DiskImage(folder, lock, name=_PROBE)
        image.discard()
        try:
            image.make(_PROBE_BYTES)
            image.mount()
            if not is_seen(image.mount_point):
                msg = "the Docker Engine does not see what is mounted here"
                raise DiskError(msg)
        finally:
            image.discard()


def takes_nothing(folder: Path) -> bool:
    """Whether the file system of a room's directory has no place left for what a turn needs."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    # Some file systems have no number of files.
    has_files = status.f_files == 0 or status.f_favail >= _FEW_FILES
    return status.f_bavail * status.f_frsize < _FEW_BYTES or not has_files


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDisks:
    """The rooms' disks below `root`, which is STATE_DIR/rooms."""

    root: Path
    kind: Kind
    threads: CallThreads = field(default_factory=lambda: CallThreads(_THREADS))
    _seen: dict[RoomSlug, DiskUsage] = field(default_factory=dict)
    """What was found when a room's plain directories were counted, or its disk unmounted."""

    async def ensure(
        self, slug: RoomSlug, *, limit_bytes: int, uid: int, is_vacant: bool
    ) -> Path | None:
        """The mounted file system of the room; None: it has plain directories. Idempotent.

        `is_vacant`: no container of the room exists, so its files may be moved.

        Raises:
            DiskError: the room has an image and it can't be used; nothing of it was changed.
        """
        try:
            return await self.threads.run(lambda: self._ensure(slug, limit_bytes, uid, is_vacant))
        except OSError as e:
            msg = f"{self.root / slug}: the room's disk can't be used: {e.strerror or e}"
            raise DiskError(msg) from e

    async def usage(self, slug: RoomSlug, limit_bytes: int) -> DiskUsage | None:
        """What the room's disk holds; None where it has one that is not mounted.

        Takes no time for a file system, and a minute at most for plain directories.
        """
        return await self.threads.run(lambda: self._usage(slug, limit_bytes))

    async def known(self, limits: Mapping[RoomSlug, int]) -> Mapping[RoomSlug, DiskUsage]:
        """What the disks of these rooms hold, mounted or not; `limits`: of each, in bytes.

        Nothing is counted for it: of plain directories, and of what is just being unmounted, it is
        what was seen last in this life. A room of which nothing is known is left out.
        """

        def look() -> dict[RoomSlug, DiskUsage]:
            seen = {slug: self._known(slug, limit) for slug, limit in limits.items()}
            return {slug: usage for slug, usage in seen.items() if usage is not None}

        return await self.threads.run(look)

    async def release(self, slug: RoomSlug) -> None:
        """Unmount the room's file system, where it has one: its container does not run."""
        try:
            await self.threads.run(lambda: self._release(slug))
        except (DiskError, OSError) as e:
            logger.bind(action="disk.release", room=slug, why=str(e)).error(
                "a room's disk could not be unmounted"
            )

    async def release_all(self, *, but: Collection[str]) -> None:
        """Unmount the file systems of all rooms but these."""
        for image in await self.threads.run(lambda: sorted(self.root.glob(f"*/{IMAGE}"))):
            if image.parent.name not in but:
                await self.release(RoomSlug(image.parent.name))

    def _ensure(self, slug: RoomSlug, limit_bytes: int, uid: int, is_vacant: bool) -> Path | None:
        folder = self.root / slug
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = logger.bind(action="disk.ensure", room=slug)
        with held(folder) as lock:
            image = DiskImage(folder, lock)
            discard_half(folder, lock)
            if is_vacant and image.exists and self.kind == "image":
                _discard_unused(image, limit_bytes)
            if not image.exists and not self._make(image, lock, limit_bytes, uid, is_vacant):
                return None
            remove_moved(folder, lock)
            if has_plain(folder):
                log.warning("directories of another version are next to the room's disk; not used")
            if is_vacant:
                _renew(image, limit_bytes)
            image.mount()
            if image.size_bytes() > image_bytes(limit_bytes):
                log.info("the room's disk was made with a higher limit and keeps its size")
        return image.mount_point

    def _make(
        self, image: DiskImage, lock: int, limit_bytes: int, uid: int, is_vacant: bool
    ) -> bool:
        """A new image, from plain directories where there are some; False: none can be had now."""
        folder = image.path.parent
        is_plain = has_plain(folder)
        if self.kind == "measured" or (is_plain and not is_vacant):
            return False
        log = logger.bind(action="disk.make", room=folder.name)
        try:
            if is_plain:
                usage = measure(_folders(folder), limit_bytes)
                move_into_image(folder, lock, limit_bytes=limit_bytes, uid=uid, usage=usage)
            else:
                image.make(limit_bytes)
                try:
                    image.mount()
                except DiskError:
                    image.discard()
                    raise
        except (DiskError, OSError) as e:
            log.bind(why=str(e)).warning("the room gets no file system of its own; it is counted")
            return False
        log.info("the room has a file system of its own")
        return True

    def _usage(self, slug: RoomSlug, limit_bytes: int) -> DiskUsage | None:
        folder = self.root / slug
        if (folder / IMAGE).exists():
            return DiskImage(folder, -1).usage()
        self._seen[slug] = usage = measure(_folders(folder), limit_bytes)
        return usage

    def _known(self, slug: RoomSlug, limit_bytes: int) -> DiskUsage | None:
        image = DiskImage(self.root / slug, -1)
        try:
            if image.exists:
                # The kernel writes the superblock some time after the last user has gone.
                return image.usage() or image.resting_usage() or self._seen.get(slug)
        except OSError as e:
            logger.bind(action="disk.look", room=slug, error=type(e).__name__).debug("not readable")
            return None
        counted = self._seen.get(slug)
        return None if counted is None else replace(counted, limit_bytes=limit_bytes)

    def _release(self, slug: RoomSlug) -> None:
        folder = self.root / slug
        if (folder / MOUNT).exists():
            with held(folder) as lock:
                image = DiskImage(folder, lock)
                if (usage := image.usage()) is not None:
                    self._seen[slug] = usage
                image.unmount()


def _discard_unused(image: DiskImage, limit_bytes: int) -> None:
    """One that is larger than its room's may be, and that nobody has put anything in yet.

    It was made before it was known for which room.
    """
    if image.size_bytes() > image_bytes(limit_bytes):
        image.mount()
        if _is_unused(image.mount_point):
            image.discard()


def _is_unused(place: Path) -> bool:
    """Whether neither workspace nor home has anything in it, or they are not there yet."""
    return not any(_has_entries(place / name) for name in FOLDERS)


def _has_entries(folder: Path) -> bool:
    """Whether there is anything in it; the folder itself may be missing, and is no link."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        with os.scandir(descriptor) as entries:
            return next(entries, None) is not None
    finally:
        os.close(descriptor)


def _renew(image: DiskImage, limit_bytes: int) -> None:
    """What can be done only while nobody uses it: mend it, and make it larger."""
    usage = image.usage()
    is_small = image.size_bytes() < image_bytes(limit_bytes)
    if is_small or (usage is not None and usage.is_sick):
        image.unmount()
        image.wait_until_free()
    if is_small:
        try:
            image.grow(limit_bytes)
        except DiskError as e:
            # It works as it is; the next new container tries again.
            logger.bind(action="disk.grow", room=image.path.parent.name, why=str(e)).warning(
                "the room's disk could not be made larger yet"
            )


def _folders(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in FOLDERS)
