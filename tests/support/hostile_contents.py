"""What a hostile room leaves in its directories, for whoever comes to read them."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

MANY = 10_000
# Each swaps a directory with a symlink for as long as it runs: a check and a use meet different
# ones.
SWAPS = """
import os, sys
folder, target = sys.argv[1:]
os.chdir(folder)
while True:
    os.mkdir("swap") if not os.path.lexists("swap") else None
    os.rename("swap", "swapped")
    os.symlink(target, "swap")
    os.unlink("swap")
    os.rmdir("swapped")
"""

_NAMES = (
    b"line\nbreak",
    "right\u202eto-left".encode(),
    "zero\u200bwidth".encode(),
    b"\xff\xfe-not-utf8",
    b"-rf",
    b"--help",
    b"$(touch x)",
    b"`touch x`",
    b"x" * 255,
    "\u2603".encode() * 80,
    b"managed-settings.json",
)


def fill(folder: Path, *, other_room: Path, uid: int, gid: int) -> None:
    """Put all of it into a directory of the room's, as the room's user."""
    links = {
        "shadow": "/etc/shadow",
        "state": "/proc/1/root",
        "environ": "/proc/self/environ",
        "fd": "/proc/self/fd/0",
        "endless": "/dev/zero",
        "up": "../../../..",
        "loop": "loop",
        "other": str(other_room),
        "gone": "nowhere",
        ".claude-link": "/root",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "answer.md")
    with socket.socket(socket.AF_UNIX) as made:
        inside = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        made.bind(f"/proc/self/fd/{inside}/egress.sock")
        os.close(inside)
    for odd in _NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + odd)).touch()
    with (folder / "terabyte").open("wb") as file:
        # As large as the file system takes: it has no block.
        os.truncate(file.fileno(), 1 << 40)
    os.link(folder / "--help", folder / "hard")
    many = folder / "many"
    many.mkdir()
    for number in range(MANY):
        (many / str(number)).touch()
    _deep(folder / "deep")
    _repository(folder / "repository")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)
    for name in ("none", "many/none"):
        (folder / name).mkdir(mode=0)
        os.chown(folder / name, uid, gid)


def _deep(folder: Path) -> None:
    for _ in range(60):
        folder.mkdir()
        folder = folder / ("d" * 40)


def _repository(folder: Path) -> None:
    """A repository that runs a program for whoever asks git anything about it."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    git = ["git", "-C", str(folder), "config"]
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "diff.external"):
        subprocess.run([*git, key, "touch /tmp/aiagentchat-ran-gits-program"], check=True)
    hook = folder / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch /tmp/aiagentchat-ran-gits-program\n")
    hook.chmod(0o755)
