"""A room's directories on the host, as the runner's mounts need them.

Owns `workspace`, `home` and `egress` in a room's directory. Rules: root makes them and hands the
first two to the room's uid; their parents stay root's, so that a room can't replace one; no symlink
is followed; what is inside them is never looked at from here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import PreconditionError

_PRIVATE: Final = 0o700
# The room's group may enter and connect; it can't add, remove or rename a socket.
_EGRESS: Final = 0o750
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDirs:
    """Absolute paths, ready to be mounted."""

    workspace: Path
    home: Path
    egress: Path


def prepare_room_dirs(root: Path, uid: int, gid: int, *, disk: Path | None = None) -> RoomDirs:
    """Make the room's directories under `root`, or check those that are there. Idempotent; blocks.

    `disk`: the mounted file system under `root` that holds workspace and home, where the room has
    one. The usual names lead there; the links have the room's owner, as the directories would.

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
                _prepare(files, "workspace", uid, gid, _PRIVATE)
                _prepare(files, "home", uid, gid, _PRIVATE)
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
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)


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
