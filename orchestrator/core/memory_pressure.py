"""Whether the host has too little memory, by what its kernel says; with hysteresis. Pure.

Two measures, either of which is enough: the share of time in which something waited for memory
(PSI), and the share of memory that is available. A host without swap runs out within seconds of the
first wait, so the second is looked at where the first is known, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Over when the waiting is half of what began it ...
_STALLED_CLEAR: Final = 0.5
# ... and half as much again is available, or half of the way to all of it where that is less.
_AVAILABLE_CLEAR: Final = 1.5

_SOME = re.compile(r"^some avg10=(\d+(?:\.\d+)?)(?: |$)", re.MULTILINE)
_MEMINFO = re.compile(r"^(MemTotal|MemAvailable): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySight:
    """One look. None: not known here."""

    stalled_percent: float | None = None
    """Of the last 10 s, in which at least one task waited for memory."""
    available_percent: float | None = None
    """Of the memory, what can be had without swapping."""

    def worse_of(self, other: MemorySight) -> MemorySight:
        """The worse of two looks, at a host and at a limit within it."""
        stalled = [s.stalled_percent for s in (self, other) if s.stalled_percent is not None]
        available = [s.available_percent for s in (self, other) if s.available_percent is not None]
        return MemorySight(
            stalled_percent=max(stalled, default=None),
            available_percent=min(available, default=None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureLimits:
    """What is too much, in percent. None: not looked at."""

    stalled_percent: float | None
    available_percent: float | None


class MemoryPressure:
    """Invariant: once on, it is on until nothing that is known is near its limit."""

    def __init__(self, limits: PressureLimits) -> None:
        self._limits = limits
        self.is_on = False

    def __repr__(self) -> str:
        return f"<MemoryPressure {self.is_on} {self._limits}>"

    def note(self, sight: MemorySight) -> bool:
        """Whether there is pressure, after this look."""
        stalled, most = sight.stalled_percent, self._limits.stalled_percent
        available, least = sight.available_percent, self._limits.available_percent
        waits = has_little = False
        if stalled is not None and most is not None:
            waits = stalled > most * _STALLED_CLEAR if self.is_on else stalled >= most
        if available is not None and least is not None:
            clear = min(least * _AVAILABLE_CLEAR, (least + 100) / 2)
            has_little = available < (clear if self.is_on else least)
        self.is_on = waits or has_little
        return self.is_on


def parse_stalled_percent(text: str) -> float | None:
    """`some avg10` of a file of PSI; None: it has none."""
    found = _SOME.search(text)
    return None if found is None else float(found[1])


def parse_available_percent(meminfo: str) -> float | None:
    """`MemAvailable` of `MemTotal` in /proc/meminfo; None: it does not say."""
    found = {name: int(value) for name, value in _MEMINFO.findall(meminfo)}
    return _percent(found.get("MemAvailable"), found.get("MemTotal"))


def limited_available_percent(most: str, current: str, stat: str) -> float | None:
    """Of a cgroup's limit (`memory.max`), what is left; None: there is no limit.

    File pages that nobody used lately count as left (`inactive_file`), as Kubernetes counts them.
    """
    found = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    if found is None or not most.strip().isdigit() or not current.strip().isdigit():
        return None
    limit = int(most)
    return _percent(limit - int(current) + int(found[1]), limit)


def _percent(part: int | None, whole: int | None) -> float | None:
    if part is None or not whole:
        return None
    return min(100.0, max(0.0, 100 * part / whole))
