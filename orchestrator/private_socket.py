"""A unix socket that only this process's user may connect to."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import PreconditionError

_BACKLOG = 16


@contextmanager
def private_listener(path: Path, *, what: str, hint: str) -> Iterator[socket.socket]:
    """Listen there, with mode 0600, for as long as the context lasts; the file goes with it.

    A socket that is there was left by a dead process, and is replaced; anything else is kept. The
    path may be longer than a socket's address: it is bound by its directory's descriptor.

    Raises:
        PreconditionError: it can't be made; says `what` that is, and in `hint` what to do.
    """

    def error(e: OSError) -> PreconditionError:
        return PreconditionError(f"{what} {path} can't be made: {e.strerror}. {hint}")

    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise error(e) from e
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                _bind(listener, directory, path.name)
            except OSError as e:
                raise error(e) from e
            try:
                yield listener
            finally:
                _remove_stale(directory, path.name)
    finally:
        os.close(directory)


def _bind(listener: socket.socket, directory: int, name: str) -> None:
    _remove_stale(directory, name)
    listener.bind(f"/proc/self/fd/{directory}/{name}")
    # Between bind and listen nobody can connect, so nobody sees the wider mode.
    os.chmod(name, 0o600, dir_fd=directory)
    listener.listen(_BACKLOG)
    listener.setblocking(False)


def _remove_stale(directory: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(17, "a file of that name is there that is not a socket")
    os.unlink(name, dir_fd=directory)
