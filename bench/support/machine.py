"""What the machine says of itself and of its processes: cores, engine, memory by /proc."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import docker

_PROC = Path("/proc")
_KB_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one process has in memory, in bytes.

    RSS counts pages that it shares with other processes in full, PSS its share of them. `own` are
    the anonymous ones: no file's, and after an exec nobody else's.
    """

    rss: int
    pss: int
    own: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child process; `program` is its module or the file name of its executable."""

    program: str
    memory: Memory


def load() -> float:
    """How many processes wanted a core, on average over the last minute."""
    return os.getloadavg()[0]


def describe_machine(client: docker.DockerClient, load_before: float) -> str:
    """Cores, memory, engine, kernel, load then and now: what figures depend on."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"machine: {os.cpu_count()} cores, {memory_gib:.1f} GiB memory, "
        f"Docker Engine {client.version()['Version']}, Linux {os.uname().release}, "
        f"load {load_before:.1f} before, {load():.1f} after"
    )


def parse_rollup(text: str) -> Memory:
    """The text of /proc/PID/smaps_rollup. Raises KeyError where a field is missing."""
    kb = {name: int(value) for name, value in _KB_LINE.findall(text)}
    return Memory(rss=kb["Rss"] << 10, pss=kb["Pss"] << 10, own=kb["Anonymous"] << 10)


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


def reset_peak(pid: int, *, proc: Path = _PROC) -> None:
    """Let `peak_rss` begin anew, at what the process has now. Needs root's rights."""
    (proc / str(pid) / "clear_refs").write_text("5")


def peak_rss(pid: int, *, proc: Path = _PROC) -> int:
    """The most that VmRSS was since `reset_peak`, as the kernel counts it (VmHWM), in bytes."""
    status = (proc / str(pid) / "status").read_text()
    return next(int(kb) for name, kb in _KB_LINE.findall(status) if name == "VmHWM") << 10


def children_of(pid: int, *, proc: Path = _PROC) -> list[Child]:
    """The direct children of a process that have memory (not those that only wait to be reaped)."""
    entries = (entry for entry in proc.iterdir() if entry.name.isdigit())
    children = (_read_child(entry, pid) for entry in entries)
    return [child for child in children if child is not None]


def _read_child(entry: Path, parent: int) -> Child | None:
    try:
        status = (entry / "status").read_text()
        if f"\nPPid:\t{parent}\n" not in status or "\nVmRSS:" not in status:
            return None
        argv = (entry / "cmdline").read_text(errors="replace").split("\0")
        memory = parse_rollup((entry / "smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None  # it ended while we looked
    return Child(program=name_program(argv), memory=memory)
