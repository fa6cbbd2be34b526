"""What this host must offer: Python, rights, room on the disk, a state directory that is ours."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.config import Config
from orchestrator.control.server import SOCKET_NAME
from orchestrator.core import texts
from orchestrator.core.diagnosis import Check, failed, passed, warned
from orchestrator.errors import StoreError, StoreTooNewError
from orchestrator.store.checking import check_file
from orchestrator.store.copying import COPIES_DIR
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.schema import MIGRATIONS

_PYTHON = (3, 11)
# The image takes 1.1 GB and each room's disk grows to limits.disk.
_SPARE_BYTES = 5 << 30
_NEEDED_BYTES = 1 << 30


def check_host(config: Config | None, state_dir: Path) -> Iterator[Check]:
    """All of it; without a configuration, what needs none."""
    yield check_python()
    yield check_root()
    yield from check_state_dir(state_dir)
    yield check_disk(state_dir)
    yield check_database(state_dir)
    if config is not None and config.observability.metrics is not None:
        yield check_address("metrics", config.observability.metrics, state_dir)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Recent enough."""
    found = ".".join(map(str, version))
    if version[:2] < _PYTHON:
        return failed("python", found, "install Python 3.11 or later, and run make up with it")
    return passed("python", found)


def check_root(uid: int | None = None) -> Check:
    """Each room's files get an owner of their own."""
    if (os.geteuid() if uid is None else uid) != 0:
        return failed("root", f"run as uid {uid or os.geteuid()}", "sudo orchestrator doctor …")
    return passed("root", "yes")


def check_state_dir(state_dir: Path) -> Iterator[Check]:
    """Only root may look into it, and what is in it is what we put there."""
    try:
        found = state_dir.stat()
    except FileNotFoundError:
        text = f"{state_dir} is not there; the first start makes it (--state-dir names another)"
        yield passed("state directory", text)
        return
    except OSError as e:
        yield failed("state directory", f"{state_dir}: {e.strerror}", "name another: --state-dir")
        return
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        yield failed("state directory", f"{state_dir} is no directory", "name another: --state-dir")
    elif mode & 0o077 or found.st_uid != os.geteuid():
        mend = _take(state_dir, 0o700)
        yield failed("state directory", f"mode {mode:o}, owner {found.st_uid}", mend)
    else:
        yield passed("state directory", str(state_dir))
        yield check_socket(state_dir)


def _take(path: Path, mode: int) -> str:
    """What to type so that a path is ours alone."""
    quoted = shlex.quote(str(path))
    return f"chown {os.geteuid()} {quoted} && chmod {mode:o} {quoted}"


def check_socket(state_dir: Path) -> Check:
    """The control socket: ours alone; there while an orchestrator runs."""
    path, is_held = state_dir / SOCKET_NAME, is_running(state_dir)
    try:
        found = path.lstat()
    except PermissionError as e:
        return failed("control socket", f"{path}: {e.strerror}", "sudo orchestrator doctor …")
    except FileNotFoundError:
        if is_held:
            mend = "restart the orchestrator; cchat can't reach this one"
            return failed("control socket", "an orchestrator runs without it", mend)
        return passed("control socket", "nothing runs")
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISSOCK(found.st_mode):
        return failed("control socket", f"{path} is no socket", f"rm {shlex.quote(str(path))}")
    if mode & 0o177 or found.st_uid != os.geteuid():
        mend = _take(path, 0o600)
        return failed("control socket", f"mode {mode:o}, owner {found.st_uid}", mend)
    return passed("control socket", "an orchestrator runs" if is_held else "left by a dead process")


def is_running(state_dir: Path) -> bool:
    """Whether an orchestrator holds the directory."""
    try:
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def check_disk(state_dir: Path, free_bytes: int | None = None) -> Check:
    """Room for the database, the rooms' disks, and copies."""
    place = next(one for one in (state_dir, *state_dir.parents) if _is_there(one))
    free = shutil.disk_usage(place).free if free_bytes is None else free_bytes
    found = f"{texts.size(free)} free at {place}"
    if free < _NEEDED_BYTES:
        return failed("disk", found, f"free some: {texts.size(_NEEDED_BYTES)} at least")
    if free < _SPARE_BYTES:
        mend = f"free some: rooms' disks grow to limits.disk each; {texts.size(_SPARE_BYTES)} help"
        return warned("disk", found, mend)
    return passed("disk", found)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def check_database(state_dir: Path) -> Check:
    """There, whole, and of a version that we can open. One in use was checked at the start."""
    path = state_dir / DATABASE_NAME
    try:
        path.stat()
    except FileNotFoundError:
        return passed("database", "will be made")
    except OSError as e:
        return failed("database", f"{path}: {e.strerror}", "sudo orchestrator doctor …")
    if is_running(state_dir):
        return passed("database", "in use by the running orchestrator, which has checked it")
    try:
        version = check_file(path)
    except StoreTooNewError as e:
        mend = "run the newer version again, or orchestrator restore a copy from before it"
        return failed("database", str(e), mend)
    except (StoreError, OSError) as e:
        mend = f"orchestrator restore FILE; copies are in {state_dir / COPIES_DIR}"
        return failed("database", str(e), mend)
    is_old = version < len(MIGRATIONS)
    older = f", migrated to {len(MIGRATIONS)} at the next start, after a copy" if is_old else ""
    return passed("database", f"whole, schema {version}{older}")


def check_address(name: str, address: str, state_dir: Path) -> Check:
    """Free to listen on, or ours."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, *_ = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, int(port)))
    except (OSError, OverflowError) as e:
        if getattr(e, "errno", None) == errno.EADDRINUSE and is_running(state_dir):
            return passed(name, f"{address} is in use, by the running orchestrator it seems")
        why = getattr(e, "strerror", None) or type(e).__name__
        return warned(name, f"{address}: {why}", f"name another: observability.{name}")
    return passed(name, address)
