"""A room's disk in numbers: how large its file system is, when it is full, when a room has to stop.

Pure. A room either has a file system of its own, whose size the kernel enforces, or its files are
counted, and then the orchestrator has to act.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

# mke2fs's own ratio, and what a room with many small files (node_modules, git) needs: the average
# file of an unpacked npm tree is about 9 KiB with its directories.
_BYTES_PER_FILE: Final = 16384
_FEWEST_FILES: Final = 4096
# A journal of 4 MiB (its least, 1,024 blocks), inode tables, and something to write into.
_SMALLEST_IMAGE: Final = 16 << 20
# Told when less than this share is left, and again only after that much was free meanwhile.
_FULL_PERCENT: Final = 2
_FREE_PERCENT: Final = 5
# How far a counted room that is over its limit may go on growing while it cleans up, and where no
# turn can help any more.
_GROWTH_PERCENT: Final = 10
_HOPELESS: Final = 2


class Shortage(Enum):
    """What has run out, or nearly."""

    SPACE = "space"
    FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """One look at a room's disk: workspace and home together."""

    used_bytes: int
    limit_bytes: int
    files: int
    limit_files: int
    is_enforced: bool
    """Whether the kernel keeps the room within its limits; otherwise it is counted."""
    is_sick: bool = False
    """Whether its file system met an error and takes no more writes until it was checked."""

    def shortage(self, percent: int = _FULL_PERCENT) -> Shortage | None:
        """What of it has less than so much left."""
        if (self.limit_bytes - self.used_bytes) * 100 < self.limit_bytes * percent:
            return Shortage.SPACE
        if (self.limit_files - self.files) * 100 < self.limit_files * percent:
            return Shortage.FILES
        return None

    @property
    def is_over(self) -> bool:
        """Whether it holds more than it may, which only a counted room can."""
        return self.used_bytes > self.limit_bytes or self.files > self.limit_files

    @property
    def is_hopeless(self) -> bool:
        """Whether a counted room holds so much that no turn is run in it any more."""
        return not self.is_enforced and (
            self.used_bytes > _HOPELESS * self.limit_bytes
            or self.files > _HOPELESS * self.limit_files
        )


def image_bytes(limit_bytes: int) -> int:
    """The size of a room's file system: the limit in whole blocks, but never too small to work."""
    return max(limit_bytes, _SMALLEST_IMAGE) // 4096 * 4096


def most_files(limit_bytes: int) -> int:
    """How many files and directories a room may have."""
    return max(image_bytes(limit_bytes) // _BYTES_PER_FILE, _FEWEST_FILES)


class FullDisk:
    """Says once when a disk is full, and again after it was not.

    Invariant: between two answers of `note` there was a look that found 5 % free.
    """

    def __init__(self) -> None:
        self._told = False

    def __repr__(self) -> str:
        return f"<FullDisk told={self._told}>"

    def note(self, usage: DiskUsage) -> Shortage | None:
        """What to tell the room now, if anything."""
        if self._told:
            self._told = usage.shortage(_FREE_PERCENT) is not None
            return None
        shortage = usage.shortage()
        self._told = shortage is not None
        return shortage


class Allowance:
    """How much a counted room may hold during one turn, or while it is idle.

    A room that was within its limit has to stay there. One that was over it when this began may
    work, to clean up, but must not grow by more than a tenth of the limit.
    """

    def __init__(self) -> None:
        self._most: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<Allowance {self._most}>"

    def is_exceeded(self, usage: DiskUsage) -> bool:
        """Whether the room has to stop; the first look says what was there before."""
        if usage.is_enforced:
            return False
        if usage.is_hopeless:
            return True
        if self._most is None:
            self._most = (
                _most(usage.used_bytes, usage.limit_bytes),
                _most(usage.files, usage.limit_files),
            )
        return usage.used_bytes > self._most[0] or usage.files > self._most[1]


def _most(now: int, limit: int) -> int:
    return limit if now <= limit else now + limit * _GROWTH_PERCENT // 100
