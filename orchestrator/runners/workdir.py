"""A room's directories on the host, as the runner's mounts need them.

Owns `workspace`, `home`, `egress` and `policy-*` in a room's directory. Rules: root makes them and
hands the first two to the room's uid (as the host sees it: core/id_plan.py); their parents stay
root's, so that a room can't replace one; no symlink is followed; what is inside of those two is
never looked at from here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.core.cli_policy import policy_dir_name
from orchestrator.errors import PreconditionError
from orchestrator.runners.ownership import change_owner

_PRIVATE: Final = 0o700
# The room's group may enter and connect; it can't add, remove or rename a socket.
_EGRESS: Final = 0o750
# The CLI, as the room's user, reads what it is managed by; root alone can change it.
_POLICY: Final = 0o755
_POLICY_FILE: Final = "managed-settings.json"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDirs:
    """Absolute paths, ready to be mounted."""

    workspace: Path
    home: Path
    egress: Path


def prepare_room_dirs(
    root: Path,
    uid: int,
    gid: int,
    *,
    disk: Path | None = None,
    former: frozenset[int] = frozenset(),
) -> RoomDirs:
    """Make the room's directories under `root`, or check those that are there. Idempotent; blocks.

    `disk`: the mounted file system under `root` that holds workspace and home, where the room has
    one. The usual names lead there; the links have the room's owner, as the directories would.
    `former`: uids that this very room had on other engines. Files of theirs are handed to `uid`
    first (runners/ownership.py), which takes as long as there are files.

    Raises:
        PreconditionError: we are not root; one of them is a symlink, no directory, or belongs to
            another room's uid; or the file system refuses.
    """
    if os.geteuid() != 0:
        msg = (
            "each room's directory gets an owner of its own, which only root can set up."
            " Run the orchestrator as root"
        )
        raise PreconditionError(msg)
    with _readable_errors(root):
        root.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        with _opened(root, None) as parent:
            _own(parent, 0, 0, _PRIVATE)
            with _opened(root if disk is None else disk, None) as files:
                _own(files, 0, 0, _PRIVATE)
                for name in ("workspace", "home"):
                    _hand_over(files, name, uid, gid, former)
                    _prepare(files, name, uid, gid, _PRIVATE)
            if disk is not None:
                _link(parent, "workspace", disk.name, uid, gid)
                _link(parent, "home", disk.name, uid, gid)
            _prepare(parent, "egress", 0, gid, _EGRESS)
    resolved = root.resolve()
    place = resolved if disk is None else disk.resolve()
    return RoomDirs(workspace=place / "workspace", home=place / "home", egress=resolved / "egress")


def _link(parent: int, name: str, disk: str, uid: int, gid: int) -> None:
    """For people and their scripts; nothing here follows it. What is in its place stays."""
    with suppress(FileExistsError):
        os.symlink(f"{disk}/{name}", name, dir_fd=parent)
    there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    # A kill in between left it root's: `restore` learns by its owner whose number is taken.
    if stat.S_ISLNK(there.st_mode) and (there.st_uid, there.st_gid) != (uid, gid):
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)


def prepare_policy_dir(root: Path, text: str | None) -> Path | None:
    """A directory under `root` with these managed settings of the CLI; None for None. Blocks.

    Idempotent. It is named by what it holds: a room with other settings has another one, and a
    runner that still has this one keeps what it was started with.

    Raises:
        PreconditionError: it can't be made.
    """
    if text is None:
        return None
    data, name = text.encode(), policy_dir_name(text)
    with _readable_errors(root), _opened(root, None) as parent:
        _prepare(parent, name, 0, 0, _POLICY)
        with _opened(name, parent) as folder:
            _write_whole(folder, _POLICY_FILE, data)
    return root.resolve() / name


def remove_room_dir(root: Path) -> None:
    """Remove a room's directory, and its disk, which must not be mounted. Idempotent; blocks.

    Raises:
        PreconditionError: the disk is mounted, or the file system refuses.
    """
    if os.path.ismount(root / "disk"):
        msg = f"its disk is still mounted: umount {root / 'disk'}"
        raise PreconditionError(msg)
    try:
        if root.exists():
            shutil.rmtree(root)
    except OSError as e:
        msg = f"{root} can't be removed: {e.strerror}"
        raise PreconditionError(msg) from e


def _write_whole(folder: int, name: str, data: bytes) -> None:
    """The whole file or none: without it the CLI would have no managed settings at all."""

    def inside(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644, dir_fd=folder)

    with contextlib.suppress(FileNotFoundError), open(name, "rb", opener=inside) as there:
        if there.read() == data:
            return
    new = f".{name}.new"
    with open(new, "wb", opener=inside) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)


def _prepare(parent: int, name: str, uid: int, gid: int, mode: int) -> None:
    try:
        os.mkdir(name, _PRIVATE, dir_fd=parent)
        made = True
    except FileExistsError:
        made = False
    with _opened(name, parent) as folder:
        owner = os.fstat(folder).st_uid
        # Root's: made by us a moment ago, or by a run that was killed before it gave it away.
        if not made and owner not in {0, uid}:
            msg = f"{name} belongs to uid {owner}, expected {uid}: it is another room's"
            raise PreconditionError(msg)
        _own(folder, uid, gid, mode)


def _hand_over(parent: int, name: str, uid: int, gid: int, former: frozenset[int]) -> None:
    try:
        with _opened(name, parent) as folder:
            owner = os.fstat(folder).st_uid
            if owner != uid and owner in former:
                change_owner(folder, old=owner, uid=uid, gid=gid)
    except FileNotFoundError:
        return


def _own(folder: int, uid: int, gid: int, mode: int) -> None:
    now = os.fstat(folder)
    if (now.st_uid, now.st_gid) != (uid, gid):
        os.fchown(folder, uid, gid)
    if stat.S_IMODE(now.st_mode) != mode:
        os.fchmod(folder, mode)


@contextmanager
def _opened(path: Path | str, parent: int | None) -> Iterator[int]:
    folder = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _readable_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except PreconditionError as e:
        msg = f"{root}: {e}"
        raise PreconditionError(msg) from e
    except OSError as e:
        what = e.filename if isinstance(e.filename, str) else "a directory"
        msg = f"{root}: {what} can't be used as a room's directory: {e.strerror}"
        raise PreconditionError(msg) from e
