"""The listening unix socket of one room: made atomically, for one group, checked by peer uid."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import EgressError

SOCKET_NAME = "egress.sock"
# The shim opens one connection for each one of the CLI's; more wait in the kernel's queue.
_BACKLOG = 64
# One room can hold some 220: its connections to here, and those from here to others. The usual soft
# limit of 1,024 is used up by five such rooms, and then the store and the engine get none.
_FILES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening, non-blocking socket, and which file it is."""

    socket: socket.socket
    directory: Path
    inode: int

    def is_current(self) -> bool:
        """Whether the file in the directory is still this socket."""
        try:
            return (self.directory / SOCKET_NAME).lstat().st_ino == self.inode
        except OSError:
            return False

    def close(self) -> None:
        """Stop listening and remove the file, unless another socket took its place. Idempotent."""
        if self.is_current():
            with contextlib.suppress(OSError):
                (self.directory / SOCKET_NAME).unlink()
        self.socket.close()


def raise_file_limit() -> None:
    """Let this process have as many open files as it may, for the sake of all rooms. Idempotent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_listener(directory: Path, *, gid: int) -> Listener:
    """Listen on `directory/egress.sock`, mode 0660, for `gid`; what was there before is replaced.

    The socket gets its owner and mode before it listens, under another name, and is then renamed:
    no moment has a wrong mode, and a runner sees the old socket or the new one. The path may be
    longer than a socket's address, because the kernel is given /proc/self/fd/N/NAME.

    Raises:
        EgressError: the directory is not there, or not ours.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        inode = _bind(sock, directory, gid)
        sock.listen(_BACKLOG)
    except OSError as e:
        sock.close()
        msg = f"the egress socket could not be made in {directory}: {e.strerror or e}"
        raise EgressError(msg) from e
    return Listener(socket=sock, directory=directory, inode=inode)


def _bind(sock: socket.socket, directory: Path, gid: int) -> int:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # One name, not a random one: what a kill has left under it goes with the next binding.
    name = f".{SOCKET_NAME}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
        sock.bind(f"/proc/self/fd/{fd}/{name}")
        try:
            os.chown(name, -1, gid, dir_fd=fd, follow_symlinks=False)
            # The room can't write in this directory, so the name is still ours.
            os.chmod(name, 0o660, dir_fd=fd)
            os.rename(name, SOCKET_NAME, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            os.unlink(name, dir_fd=fd)
            raise
        return os.stat(SOCKET_NAME, dir_fd=fd, follow_symlinks=False).st_ino
    finally:
        os.close(fd)
