"""What the kernel says of this host's memory: PSI, /proc/meminfo, a limit that the host itself has.

A host that is a container has its limit at the root of its own cgroups, and the runners' cgroups
below that. A container of the orchestrator alone, beside the runners, has none below: its limit is
its own matter. Version 2 of cgroups only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.memory_pressure import (
    MemorySight,
    limited_available_percent,
    parse_available_percent,
    parse_stalled_percent,
)

_PRESSURE = "pressure/memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Reads only, without waiting for a disk."""

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")

    def read(self) -> MemorySight:
        """One look; what can't be read is not known."""
        host = MemorySight(
            stalled_percent=parse_stalled_percent(_read(self.proc / _PRESSURE)),
            available_percent=parse_available_percent(_read(self.proc / "meminfo")),
        )
        limit = _read(self.cgroup / "memory.max")
        if not limit.strip().isdigit() or not self._has_others_below():
            return host
        within = MemorySight(
            stalled_percent=parse_stalled_percent(_read(self.cgroup / "memory.pressure")),
            available_percent=limited_available_percent(
                limit, _read(self.cgroup / "memory.current"), _read(self.cgroup / "memory.stat")
            ),
        )
        return host.worse_of(within)

    def _has_others_below(self) -> bool:
        try:
            return any((below / "cgroup.procs").exists() for below in self.cgroup.iterdir())
        except OSError:
            return False


def _read(path: Path) -> str:
    """The text, or none: without PSI there is no such file, and with it switched off an error."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
