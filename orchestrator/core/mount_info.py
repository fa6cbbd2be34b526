"""What /proc/PID/mountinfo says, line by line (proc_pid_mountinfo(5)). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# How a space, a tab, a newline and a backslash are written in a path.
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_FIELDS: Final = 6
_MORE_FIELDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MountLine:
    """One mount, as its namespace sees it."""

    device: str
    """Major and minor number: `8:1`."""
    root: str
    """What of the file system is mounted."""
    target: str
    options: tuple[str, ...]
    tags: tuple[str, ...]
    """How mounts below it propagate: `shared:1`, `master:2`."""
    kind: str
    super_options: tuple[str, ...]
    """Those of the file system, whoever mounted it."""


def parse_mounts(text: str) -> Iterator[MountLine]:
    """Its lines, in order; what is no such line is left out. Never raises."""
    # Not splitlines: the kernel escapes no other line end in a path than its own.
    for line in text.split("\n"):
        head, _, tail = line.partition(" - ")
        fields, more = head.split(" "), tail.split(" ")
        if len(fields) < _FIELDS or len(more) < _MORE_FIELDS:
            continue
        yield MountLine(
            device=fields[2],
            root=_unescape(fields[3]),
            target=_unescape(fields[4]),
            options=tuple(fields[5].split(",")),
            tags=tuple(fields[6:]),
            kind=more[0],
            super_options=tuple(more[2].split(",")),
        )


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
