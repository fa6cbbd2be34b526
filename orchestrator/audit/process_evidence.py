"""A runner's processes, mounts, limits and network, as the host's kernel has them in /proc.

Rule: a process belongs to a runner when it shares any namespace of the runner's own, or is in its
cgroup: one that somebody put in from outside is found, whatever it calls itself. What ends while it
is looked at is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from orchestrator.core.isolation_confinement import ULIMITS
from orchestrator.core.isolation_evidence import (
    UNLIMITED,
    CgroupLimits,
    IdMap,
    Limit,
    Mount,
    Task,
)
from orchestrator.core.mount_info import parse_mounts

NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_LIMIT: Final = re.compile(r"Max (.+?)\s{2,}(\S+)\s+(\S+)")
_NANO: Final = 10**9
_ENVIRON_BYTES: Final = 256 << 10


def read_namespaces(pid: int | str) -> dict[str, str]:
    """The namespaces of a process (or `PID/task/TID`), by kind; what can't be read is left out."""
    found = {}
    for kind in NAMESPACES:
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")  # noqa: PTH115 - no path
        except OSError:
            continue
    return found


def host_namespaces() -> dict[str, str]:
    """Those of the host's first process, or, where it can't be seen, of this one."""
    return read_namespaces(1) or read_namespaces("self")


def is_runner(pid: int, container_id: str) -> bool:
    """Whether this process is of that container, and visible from here."""
    return any(container_id in path for path in _cgroups(pid))


def read_tasks(pid: int, container_id: str, host: Mapping[str, str]) -> tuple[Task, ...]:
    """Every thread of every process that has to do with the runner whose first process is `pid`."""
    own = read_namespaces(pid)
    shared = {kind: name for kind, name in own.items() if name != host.get(kind)}
    found: list[Task] = []
    for each in _processes():
        if _belongs(each, shared, container_id):
            found += _tasks(each)
    return tuple(found)


def read_mounts(pid: int) -> tuple[Mount, ...]:
    """What is mounted in the process's mount namespace."""
    return tuple(_mounts(f"/proc/{pid}/mountinfo"))


def read_interfaces(pid: int) -> tuple[str, ...]:
    """The network interfaces in the process's network namespace."""
    lines = _text(f"/proc/{pid}/net/dev").splitlines()[2:]
    return tuple(line.partition(":")[0].strip() for line in lines)


def read_id_map(pid: int, kind: str) -> IdMap:
    """How the process's uids (`uid_map`) or gids (`gid_map`) are seen from here."""
    rows = [_ints(line) for line in _text(f"/proc/{pid}/{kind}").splitlines()]
    return IdMap(ranges=tuple((first, here, count) for first, here, count in rows))


def read_cgroup_limits(pid: int) -> CgroupLimits:
    """What the kernel holds the process's cgroup to; version 1 and version 2."""
    mounts = list(_mounts("/proc/self/mountinfo"))
    paths = _cgroup_paths(pid)
    hierarchy = next((m.target for m in mounts if m.kind == "cgroup2"), None)
    folders = {
        name: f"{mount.target}{path}"
        for mount in mounts
        if mount.kind == "cgroup"
        for name, path in paths.items()
        if name and name in mount.super_options
    }
    if "memory" in folders:
        return _limits_v1(folders)
    return _limits_v2(f"{hierarchy}{paths.get('', '')}")


def read_words(pid: int) -> Iterator[tuple[str, str]]:
    """Where a secret could stand: the process's environment and its arguments, bounded."""
    for what in ("environ", "cmdline"):
        yield what, _text(f"/proc/{pid}/{what}")


def _belongs(pid: int, shared: Mapping[str, str], container_id: str) -> bool:
    names = read_namespaces(pid) or _of_threads(pid)
    if any(names.get(kind) == name for kind, name in shared.items()):
        return True
    return is_runner(pid, container_id)


def _of_threads(pid: int) -> dict[str, str]:
    """A process whose first thread has ended looks dead, and its other threads run."""
    for tid in _numbers(f"/proc/{pid}/task"):
        if found := read_namespaces(f"{pid}/task/{tid}"):
            return found
    return {}


def _tasks(pid: int) -> Iterator[Task]:
    for tid in _numbers(f"/proc/{pid}/task"):
        task = _task(pid, tid)
        if task is not None:
            yield task


def _task(pid: int, tid: int) -> Task | None:
    folder = f"/proc/{pid}/task/{tid}"
    status = dict(
        line.split(":\t", 1) for line in _text(f"{folder}/status").splitlines() if ":\t" in line
    )
    if not status or status.get("State", "Z")[0] in "ZX":
        return None
    try:
        return Task(
            pid=pid,
            tid=tid,
            parent=int(status["PPid"]),
            uids=_ints(status["Uid"]),
            gids=_ints(status["Gid"]),
            groups=_ints(status["Groups"]),
            capabilities=_joined(int(status[name], 16) for name in _CAPABILITIES),
            no_new_privileges=status["NoNewPrivs"] == "1",
            seccomp=int(status["Seccomp"]),
            namespaces=read_namespaces(f"{pid}/task/{tid}"),
            cgroups=frozenset(_cgroups(pid)),
            oom_score_adj=int(_text(f"/proc/{pid}/oom_score_adj") or "-1000"),
            limits=dict(_limits(_text(f"{folder}/limits"))),
        )
    except (KeyError, ValueError):
        return None


def _limits(text: str) -> Iterator[tuple[str, Limit]]:
    for line in text.splitlines():
        match = _LIMIT.match(line)
        if match is not None and match[1] in ULIMITS.values():
            yield match[1], (_limit(match[2]), _limit(match[3]))


def _limit(text: str) -> int:
    return UNLIMITED if text == "unlimited" else int(text)


def _mounts(path: str) -> Iterator[Mount]:
    for line in parse_mounts(_text(path)):
        yield Mount(
            target=line.target,
            root=line.root,
            kind=line.kind,
            options=frozenset(line.options),
            super_options=frozenset(line.super_options),
            is_shared=any(tag.startswith(("shared:", "master:")) for tag in line.tags),
        )


def _limits_v1(folders: Mapping[str, str]) -> CgroupLimits:
    memory = _number(f"{folders['memory']}/memory.limit_in_bytes")
    both = _number(f"{folders['memory']}/memory.memsw.limit_in_bytes")
    cpu, devices = folders.get("cpu", ""), folders.get("devices", "")
    return CgroupLimits(
        version=1,
        memory_bytes=memory,
        swap_bytes=None if memory is None or both is None else both - memory,
        pids=_number(f"{folders.get('pids', '')}/pids.max"),
        nano_cpus=_nano_cpus(_text(f"{cpu}/cpu.cfs_quota_us"), _text(f"{cpu}/cpu.cfs_period_us")),
        cpu_shares=_number(f"{cpu}/cpu.shares"),
        devices=tuple(_text(f"{devices}/devices.list").splitlines()),
    )


def _limits_v2(folder: str) -> CgroupLimits:
    quota, _, period = _text(f"{folder}/cpu.max").partition(" ")
    return CgroupLimits(
        version=2,
        memory_bytes=_number(f"{folder}/memory.max"),
        swap_bytes=_number(f"{folder}/memory.swap.max"),
        pids=_number(f"{folder}/pids.max"),
        nano_cpus=_nano_cpus(quota, period),
        # Runtimes differ in how they make a weight of shares, and its devices are a program.
        cpu_shares=None,
        devices=None,
    )


def _nano_cpus(quota: str, period: str) -> int | None:
    try:
        number = int(quota)
        return number * _NANO // int(period) if number > 0 else UNLIMITED
    except (ValueError, ZeroDivisionError):
        return None


def _number(path: str) -> int | None:
    """The number in a file; -1 for `max`, None where there is no such file."""
    text = _text(path).strip()
    try:
        return UNLIMITED if text == "max" else int(text)
    except ValueError:
        return None


def _cgroups(pid: int) -> list[str]:
    return _text(f"/proc/{pid}/cgroup").splitlines()


def _cgroup_paths(pid: int) -> dict[str, str]:
    """The path in each hierarchy, by controller; "" is version 2's."""
    found = {}
    for line in _cgroups(pid):
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), path))
    return found


def _processes() -> list[int]:
    return _numbers("/proc")


def _numbers(folder: str) -> list[int]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - 20 times as fast, and done for every process
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdigit())


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split())


def _joined(values: Iterator[int]) -> int:
    all_of_them = 0
    for value in values:
        all_of_them |= value
    return all_of_them


def _text(path: str) -> str:
    """What the kernel says there, bounded; nothing where it says nothing."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_ENVIRON_BYTES * 4).decode("utf-8", "replace")
    except OSError:
        return ""
