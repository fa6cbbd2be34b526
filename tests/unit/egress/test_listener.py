"""A room's socket is the only thing in its directory, whatever was killed there before."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from orchestrator.egress.listener import SOCKET_NAME, open_listener


def test_what_a_kill_left_in_the_middle_goes_with_the_next_opening(tmp_path: Path) -> None:
    first = open_listener(tmp_path, gid=os.getgid())
    # Killed between the two names, and with the old socket's file still there.
    (tmp_path / SOCKET_NAME).rename(tmp_path / f".{SOCKET_NAME}.new")
    second = open_listener(tmp_path, gid=os.getgid())
    assert [entry.name for entry in tmp_path.iterdir()] == [SOCKET_NAME]
    assert second.is_current()
    assert not first.is_current()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(tmp_path / SOCKET_NAME))
    second.close()
    first.close()
    assert list(tmp_path.iterdir()) == []
