"""Run inside a runner: named attempts to get at what isn't the room's; prints {name: result}.

Each attempt returns None when it got nothing, and else what it got. Standard library only, no
import of anything of ours: the program is copied into a container. Its argument is PATHS of
container_paths.py, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

Attempt = Callable[[], str | None]

# Where a room may write: its three places, and memory.
OWN = ("/workspace", "/home/agent", "/tmp", "/run/nss", "/dev/shm", "/dev/mqueue")
TMP_OPTIONS = ("nosuid", "nodev", "size=", "nr_inodes=")
# In /proc/1.
LOOKED_INTO = (
    *("auxv", "cwd", "environ", "exe", "fd", "io", "map_files", "maps", "mem", "pagemap", "root"),
    *("stack", "syscall"),
)
# Held where the engine has CAP_SYS_RESOURCE, which a rootless one has not.
LOWER_SCORE = "be killed later than it should"

DEVICES = {
    *("core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"),
    *("stdout", "tty", "urandom", "zero"),
}


def refused(work: Callable[[], object], what: str) -> str | None:
    """Nothing for an OSError (or the like of a shell's failure), else the words."""
    try:
        work()
    except (OSError, PermissionError, ValueError, subprocess.CalledProcessError):
        return None
    return what


def shell(script: str) -> str | None:
    """What a script that should fail printed when it succeeded."""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20)
    return (done.stdout or "it succeeded")[:200] if done.returncode == 0 else None


def shown(path: str) -> str | None:
    """What a path shows: None when it is not there, empty, or closed."""
    try:
        if Path(path).is_dir():
            return ", ".join(os.listdir(path)[:5]) or None
        with open(path, "rb") as file:
            return repr(file.read(80)) if file.read(1) or file.tell() else None
    except OSError:
        return None


def written(path: str) -> str | None:
    """Whether a path could be opened to be written; creates nothing that stays."""
    flags = os.O_WRONLY | (0 if Path(path).exists() else os.O_CREAT)
    return refused(lambda: os.close(os.open(path, flags, 0o600)), "it could be opened to write")


def there(path: str) -> str | None:
    return "it is there" if os.path.lexists(path) else None


def status(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def capabilities() -> str | None:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            value = status(pid).get(name, "0")
            if int(value, 16):
                return f"process {pid} has {name} {value}"
    return None


def no_new_privileges() -> str | None:
    mine = status("self")
    return None if (mine["NoNewPrivs"], mine["Seccomp"]) == ("1", "2") else "not set"


def root_files() -> Iterator[tuple[str, os.stat_result]]:
    """Every file of the image's file system."""
    device = os.lstat("/").st_dev
    stack = ["/"]
    while stack:
        folder = stack.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if found.st_dev != device:
                continue
            yield entry.path, found
            if stat.S_ISDIR(found.st_mode):
                stack.append(entry.path)


def setuid_files() -> str | None:
    kinds = stat.S_ISUID | stat.S_ISGID
    return next((p for p, s in root_files() if stat.S_ISREG(s.st_mode) and s.st_mode & kinds), None)


def file_capabilities() -> str | None:
    for path, found in root_files():
        if stat.S_ISREG(found.st_mode):
            try:
                os.getxattr(path, "security.capability", follow_symlinks=False)
            except OSError:
                continue
            return path
    return None


def own_files() -> str | None:
    me = os.getuid()
    return next((p for p, s in root_files() if s.st_uid == me), None)


def writable_directories() -> str | None:
    for path, found in root_files():
        if stat.S_ISDIR(found.st_mode) and not path.startswith(OWN):
            name = f"{path}/probe-{os.getpid()}"
            try:
                os.mkdir(name)
            except OSError:
                continue
            os.rmdir(name)
            return path
    return None


def device_files() -> str | None:
    more = set(os.listdir("/dev")) - DEVICES
    return ", ".join(sorted(more)) or None


def open_descriptors() -> str | None:
    """Descriptors that this process got and that lead to a file of somebody else's."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("/") and not target.startswith((*OWN, "/dev/", "/proc/")):
            return target
    return None


def mounts() -> list[tuple[str, set[str], list[str]]]:
    """Mount point, options of mount and file system, optional fields."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        options = set(fields[5].split(",")) | set(right.split()[2].split(","))
        found.append((fields[4], options, fields[6:]))
    return found


def shared_mounts() -> str | None:
    return next((point for point, _, more in mounts() if any("shared" in m for m in more)), None)


def writable_cgroups() -> str | None:
    """Below /sys/fs/cgroup; on cgroup v1 that itself is memory that belongs to root."""
    below = [(p, o) for p, o, _ in mounts() if p.startswith("/sys/fs/cgroup")]
    return next((p for p, o in below if "ro" not in o and os.access(p, os.W_OK)), None) or next(
        (p for p, o in below if "ro" not in o and p != "/sys/fs/cgroup"), None
    )


def options_of(point: str, *needed: str) -> Attempt:
    def attempt() -> str | None:
        for found, options, _ in reversed(mounts()):
            if found == point:
                missing = [n for n in needed if not any(o.startswith(n) for o in options)]
                return f"without {', '.join(missing)}" if missing else None
        return "no such mount"

    return attempt


def mounted_rw(path: str) -> str | None:
    return options_of(path, "ro")() if os.path.lexists(path) else None


def runs_from(folder: str) -> Attempt:
    def attempt() -> str | None:
        path = Path(folder) / f"probe-{os.getpid()}"
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
        try:
            return refused(lambda: subprocess.run([path], check=True), "it ran")
        finally:
            path.unlink()

    return attempt


def limit(kind: int, most: int) -> Attempt:
    def attempt() -> str | None:
        soft, hard = resource.getrlimit(kind)
        if max(soft, hard) > most or resource.RLIM_INFINITY in (soft, hard):
            return f"{soft}, {hard}"
        higher = (most + 1, most + 1)
        return refused(lambda: resource.setrlimit(kind, higher), "it could be raised")

    return attempt


def exactly(read: Callable[[], object], expected: object) -> Attempt:
    def attempt() -> str | None:
        value = read()
        return None if value == expected else repr(value)

    return attempt


def core_dump() -> str | None:
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp")
        # Refused whatever the value; a dump is tried for all the same.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(20)
    _, code = os.waitpid(pid, 0)
    return "a core was dumped" if os.WCOREDUMP(code) else None


def real_time() -> str | None:
    parameters = os.sched_param(1)
    return refused(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, parameters), "it got SCHED_FIFO")


def lower_oom_score(to: int) -> Attempt:
    def lower() -> None:
        Path("/proc/self/oom_score_adj").write_text(str(to))

    return lambda: refused(lower, "it could be lowered")


def kill_shim() -> str | None:
    started = status("1")["Name"], Path("/proc/1/stat").read_text().split()[21]
    os.kill(1, signal.SIGKILL)
    os.kill(1, signal.SIGSTOP)
    time.sleep(0.2)
    again = status("1")["Name"], Path("/proc/1/stat").read_text().split()[21]
    return None if started == again and status("1")["State"][0] in "SR" else "PID 1 was stopped"


def of_pid_1(name: str) -> Attempt:
    def attempt() -> str | None:
        path = f"/proc/1/{name}"

        def read() -> None:
            if name in {"cwd", "exe", "root"}:
                os.readlink(path)
            elif name in {"fd", "map_files"}:
                os.listdir(path)
            else:
                Path(path).read_bytes()[:1]

        return refused(read, "it could be read")

    return attempt


def as_user(uid: int) -> Attempt:
    return lambda: refused(lambda: os.setresuid(uid, uid, uid), f"it is uid {uid} now")


def groups() -> str | None:
    more = set(os.getgroups()) - {os.getgid()}
    return f"{more}" if more else None


def interfaces() -> str | None:
    more = [name for _, name in socket.if_nameindex() if name != "lo"]
    return ", ".join(more) or None


def routes() -> str | None:
    return "\n".join(Path("/proc/net/route").read_text().splitlines()[1:]) or None


def host_sockets() -> str | None:
    """Abstract sockets are the network namespace's; the shim has none."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return next((line for line in lines if "@" in line), None)


def connects(family: int, address: tuple[str, int]) -> Attempt:
    def attempt() -> str | None:
        def connect() -> None:
            with socket.socket(family, socket.SOCK_STREAM) as s:
                s.settimeout(3)
                s.connect(address)

        return refused(connect, "it connected")

    return attempt


def low_port() -> str | None:
    """Allowed on newer engines, where the whole namespace is the room's; then it is lo alone."""

    def bind() -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 8317))

    return refused(bind, "it took the forwarder's place")


def environment() -> str | None:
    more = set(os.environ) - {"HOME", "HOSTNAME", "LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    return ", ".join(sorted(more)) or None


def other_processes() -> str | None:
    """Only the room's own: every process is of its uid."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid not in {os.getuid(), 0}:
                return pid
            if status(pid)["Uid"].split()[0] != str(os.getuid()):
                return f"{pid} is of uid {status(pid)['Uid']}"
        except FileNotFoundError:
            continue
    return None


def cgroup_path() -> str | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        path = line.split(":", 2)[2]
        if path != "/":
            return path
    return None


def dumpable_shim() -> str | None:
    return None if os.stat("/proc/1/mem").st_uid == 0 else "PID 1 is its uid's to read"


def link_out(source: str) -> Attempt:
    def attempt() -> str | None:
        target = f"/tmp/probe-link-{os.getpid()}"
        return refused(lambda: os.link(source, target), "a hard link was made")

    return attempt


def build_attempts(paths: dict[str, list[str]]) -> dict[str, Attempt]:
    """Every attempt by its name: what is tried, after "the attempt to"."""
    found: dict[str, Attempt] = {}
    found |= {f"read {path}": partial(shown, path) for path in paths["hidden"]}
    found |= {f"write {path}": partial(written, path) for path in paths["unwritable"]}
    found |= {f"find {path}": partial(there, path) for path in paths["absent"]}
    found |= {f"use a writable {path}": partial(mounted_rw, path) for path in paths["read_only"]}
    found |= {
        f"look into PID 1 by {name}": of_pid_1(name)
        for name in [
            "auxv",
            "cwd",
            "environ",
            "exe",
            "fd",
            "io",
            "map_files",
            "maps",
            "mem",
            "pagemap",
            "root",
            "stack",
            "syscall",
        ]
    }
    found |= {f"become uid {uid}": as_user(uid) for uid in (0, 1, 65534)}
    found |= {
        "have a capability in any process": capabilities,
        "gain privileges by exec, or be unfiltered": no_new_privileges,
        "find a setuid or setgid program": setuid_files,
        "find a program with file capabilities": file_capabilities,
        "own a file of the image": own_files,
        "write in any directory of the image": writable_directories,
        "find a device beside the harmless ones": device_files,
        "inherit a descriptor": open_descriptors,
        "see a mount that the host's mounts reach": shared_mounts,
        "share memory with set-id or devices": options_of("/dev/shm", "nosuid", "nodev", "noexec"),
        "use /tmp with set-id or devices": options_of(
            "/tmp", "nosuid", "nodev", "size=", "nr_inodes="
        ),
        "use /run/nss with programs": options_of("/run/nss", "nosuid", "nodev", "noexec", "size="),
        "use queues with programs": options_of("/dev/mqueue", "nosuid", "nodev", "noexec"),
        "use an unbounded /dev": options_of("/dev", "nosuid", "size="),
        "write through the door's directory": options_of("/run/egress", "ro"),
        "use a writable root": options_of("/", "ro"),
        "use a writable cgroup tree": writable_cgroups,
        "use a writable /sys": options_of("/sys", "ro", "nosuid", "nodev", "noexec"),
        "run a program in /dev/shm": runs_from("/dev/shm"),
        "run a program in /run/nss": runs_from("/run/nss"),
        "open more files than the limit": limit(resource.RLIMIT_NOFILE, 8192),
        "lock more memory than the limit": limit(resource.RLIMIT_MEMLOCK, 64 << 10),
        "queue more messages than the limit": limit(resource.RLIMIT_MSGQUEUE, 819200),
        "leave more signals than the limit": limit(resource.RLIMIT_SIGPENDING, 1024),
        "raise the real-time limit": limit(resource.RLIMIT_RTPRIO, 0),
        "raise the priority's limit": limit(resource.RLIMIT_NICE, 0),
        "raise the core limit": limit(resource.RLIMIT_CORE, 1),
        "dump a core": core_dump,
        "run in real time": real_time,
        "run with a better priority": lambda: refused(lambda: os.nice(-1), "it did"),
        "be spared when memory is short": exactly(
            lambda: Path("/proc/self/oom_score_adj").read_text().strip(), "500"
        ),
        "be killed later than its host's programs": lower_oom_score(-1),
        LOWER_SCORE: lower_oom_score(499),
        "kill or stop PID 1": kill_shim,
        "trace PID 1 as its own uid": dumpable_shim,
        "join root's group": lambda: refused(lambda: os.setgroups([0]), "it did"),
        "be in another group": groups,
        "have another interface": interfaces,
        "have a route": routes,
        "see an abstract socket of the host": host_sockets,
        "reach a metadata service": connects(socket.AF_INET, ("169.254.169.254", 80)),
        "reach the host by the engine's bridge": connects(socket.AF_INET, ("172.17.0.1", 22)),
        "reach a public address": connects(socket.AF_INET, ("192.0.2.1", 443)),
        "reach an IPv6 address": connects(socket.AF_INET6, ("2001:db8::1", 443)),
        "reach a name server": connects(socket.AF_INET, ("127.0.0.1", 53)),
        "take the forwarder's place": low_port,
        "find a variable beside the known ones": environment,
        "see another user's process": other_processes,
        "see its place in the host's cgroups": cgroup_path,
        "have another host name": exactly(socket.gethostname, "runner"),
        "set the clock": lambda: refused(
            lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()), "it did"
        ),
        "link a file of the image": link_out("/etc/passwd"),
        "make a user namespace": lambda: shell("unshare -U true"),
        "make a mount namespace": lambda: shell("unshare -m true"),
        "make a network namespace": lambda: shell("unshare -rn true"),
        "enter PID 1's namespaces": lambda: shell("nsenter -t 1 -m -p true"),
        "mount over its own directory": lambda: shell("mount -t tmpfs none /workspace"),
        "remount the root": lambda: shell("mount -o remount,rw /"),
        "unmount a mask": lambda: shell("umount /proc/kcore || umount /sys/firmware"),
        "change root": lambda: refused(lambda: os.chroot("/tmp"), "it did"),
        "read the kernel's log": lambda: shell("dmesg | grep ."),
        "make a device": lambda: shell("mknod /tmp/probe-disk b 8 0"),
        "become root by su": lambda: shell("su -c true root </dev/null"),
        "make a set-id copy that works": lambda: shell(
            "cp /usr/bin/id /tmp/p-id && chmod u+s /tmp/p-id && /tmp/p-id -u | grep -x 0"
        ),
    }
    return found


def in_child(attempt: Attempt) -> str | None:
    """What an attempt got, made by a process of its own: it may become somebody else, or hang."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            result = attempt()
        except Exception as e:  # noqa: BLE001 - told, by the attempt's name
            result = f"the attempt itself failed: {type(e).__name__}: {e}"
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return str(json.loads(data)) if data not in {b"null", b""} else (None if data else "it hung")


def main() -> None:
    """Try everything; an attempt that fails in an unexpected way says so, which is a failure."""
    attempts = build_attempts(json.loads(sys.argv[1]))
    print(json.dumps({name: in_child(attempt) for name, attempt in attempts.items()}))


if __name__ == "__main__":
    main()
