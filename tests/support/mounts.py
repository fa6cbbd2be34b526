"""What an orchestrator that was killed leaves mounted below a directory."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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
