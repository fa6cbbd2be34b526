"""What an orchestrator that was killed leaves mounted below a directory."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

_LET_GO_S = 20.0
# How mountinfo writes a space, a tab, a newline and a backslash in a path.
_ESCAPED = re.compile(r"\\([0-7]{3})")


def mounts_below(path: Path) -> list[Path]:
    """The mount points below the path, the latest first."""
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), line.split()[4]))
        if point.is_relative_to(path.resolve()):
            found.append(point)
    return found[::-1]


def unmount_below(path: Path) -> None:
    """Unmount all of them, whoever still uses them."""
    for point in mounts_below(path):
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


def loop_files() -> list[str]:
    """The files that loop devices have now; of a deleted one its name says so."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return [file.read_text().strip() for file in files]


def wait_until_let_go(path: Path | str) -> None:
    """Until no loop device has a file of this name; a container that starts anywhere copies mounts.

    Raises:
        AssertionError: one still has it.
    """
    until = time.monotonic() + _LET_GO_S
    while any(str(path) in file for file in loop_files()):
        assert time.monotonic() < until, f"a loop device still has {path}"
        time.sleep(0.02)
