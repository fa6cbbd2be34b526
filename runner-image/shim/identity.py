"""A name for a uid that has none: git, ssh, npm and whoami ask for one.

The image's nsswitch.conf reads NSS_DIR (libnss-extrausers) beside /etc.
"""

from __future__ import annotations

import os

NSS_DIR = "/run/nss"
_NAME = "agent"
_HOME = "/home/agent"
_SHELL = "/bin/bash"


def write_identity(folder: str) -> bool:
    """Write passwd and group entries of our uid and gid; False when the folder can't be written."""
    uid, gid = os.getuid(), os.getgid()
    try:
        _write(f"{folder}/passwd", f"{_NAME}:x:{uid}:{gid}:{_NAME}:{_HOME}:{_SHELL}\n")
        _write(f"{folder}/group", f"{_NAME}:x:{gid}:\n")
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
