"""Whether the engine sees what is mounted here: it may live in a mount namespace of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from orchestrator.core.mount_info import parse_mounts
from orchestrator.peer import read_peer
from orchestrator.runners.engine_http import EngineAddress

# struct ucred of <sys/socket.h>: pid, uid, gid.
_CONNECT_S: Final = 5.0


def sees_mount(address: EngineAddress, mount_point: Path) -> bool:
    """Whether it is mounted for whoever listens at the engine's socket, too. Blocks.

    With socket activation that is init, whose namespace is the engine's as a rule. True where it
    can't be known (another PID namespace, TCP): then a runner is refused by name of the missing
    directory, not made with an empty one.
    """
    pid = _listener(address)
    if pid is None:
        return True
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return True
    wanted = str(mount_point.resolve())
    return any(mount.target == wanted for mount in parse_mounts(mounts))


def _listener(address: EngineAddress) -> int | None:
    if address.socket is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(address.socket)
            pid = read_peer(connection).pid
        except OSError:
            return None
    return pid if pid > 0 and pid != os.getpid() else None
