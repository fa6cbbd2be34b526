"""What the machine says of itself and of its processes: cores, engine, memory by /proc."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker

_PROC = Path("/proc")
_KB_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one process has in memory, in bytes.

    RSS counts pages that it shares with other processes in full, PSS its share of them.
    """

    rss: int
    pss: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child process; `program` is its module or the file name of its executable."""

    program: str
    memory: Memory


def describe_machine(client: docker.DockerClient) -> str:
    """Cores, memory, engine, kernel, load: what figures depend on."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"machine: {os.cpu_count()} cores, {memory_gib:.1f} GiB memory, "
        f"Docker Engine {client.version()['Version']}, Linux {os.uname().release}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )


def parse_rollup(text: str) -> Memory:
    """The text of /proc/PID/smaps_rollup. Raises KeyError where a field is missing."""
    kb = {name: int(value) for name, value in _KB_LINE.findall(text)}
    return Memory(rss=kb["Rss"] << 10, pss=kb["Pss"] << 10)


def name_program(argv: list[str]) -> str:
    """A Python module that was started with -m by its name, anything else by its file name."""
    if "-m" in argv[:-1]:
        return argv[argv.index("-m") + 1]
    return Path(argv[0].split(" ")[0]).name if argv and argv[0] else "?"


def memory_of(pid: int, *, proc: Path = _PROC) -> Memory:
    """A process's memory now. Needs its owner's rights, or root's."""
    return parse_rollup((proc / str(pid) / "smaps_rollup").read_text())


def vm_rss(pid: int, *, proc: Path = _PROC) -> int:
    """VmRSS of /proc/PID/status, in bytes; it may lag behind the rollup by some pages."""
    status = (proc / str(pid) / "status").read_text()
    return next(int(kb) for name, kb in _KB_LINE.findall(status) if name == "VmRSS") << 10


def children_of(pid: int, *, proc: Path = _PROC) -> list[Child]:
    """The direct children of a process, without those that are only waited for."""
    found = ((child, memory) for child, memory in _children(pid, proc) if memory.rss)
    return [Child(program=name_program(child), memory=memory) for child, memory in found]


def _children(pid: int, proc: Path) -> Iterator[tuple[list[str], Memory]]:
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
            if f"\nPPid:\t{pid}\n" in status and "\nVmRSS:" in status:
                argv = (entry / "cmdline").read_text(errors="replace").split("\0")
                yield argv, parse_rollup((entry / "smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
