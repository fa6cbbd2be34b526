"""The listening unix socket of one room: made atomically, for one group, checked by peer uid."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import EgressError

SOCKET_NAME = "egress.sock"
# The shim opens one connection for each one of the CLI's; more wait in the kernel's queue.
_BACKLOG = 64
_UCRED = struct.Struct("3i")


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


def peer_uid(connection: socket.socket) -> int:
    """The uid of the process that connected, as the kernel saw it then."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(raw)
    return int(uid)
