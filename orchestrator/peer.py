"""Who is at the other end of a unix socket, as the kernel recorded it (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

# struct ucred of the kernel.
_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected, or listens; `pid` is 0 where our namespace does not show it."""

    pid: int
    uid: int
    gid: int


def read_peer(connection: socket.socket) -> Peer:
    """The other end at the moment of the connection; for a client, who called `listen`.

    Raises:
        OSError: it is not a connected unix socket.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid=pid, uid=uid, gid=gid)
