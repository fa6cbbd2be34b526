"""Starting processes, and finding those that belong to a session. Linux only."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

SESSION_VARIABLE = "AIAGENTCHAT_SESSION"
_OWN_VARIABLES = "AIAGENTCHAT_"
# What a session's processes are worth to the out-of-memory killer, of 1000: not PID 1 but they go.
_OOM_SCORE_ADJ = "500"
# Python ignores two of them, and whatever started us may ignore others (nohup does): a program
# whose SIGHUP or SIGINT is ignored can't be stopped as people expect. Two can't be set.
_SIGNALS = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]
_ENVIRON_BYTES = 256 * 1024


class Child:
    """A started process, and our ends of its pipes."""

    __slots__ = ("pid", "stderr_fd", "stdin_fd", "stdout_fd")

    def __init__(self, pid: int, stdin_fd: int, stdout_fd: int, stderr_fd: int) -> None:
        self.pid = pid
        self.stdin_fd = stdin_fd
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd


def start(session: str, argv: list[str], env: Mapping[str, str], cwd: str) -> Child:
    """Start a process in a session and group of its own, with three pipes and no other descriptor.

    It gets this process's environment without the shim's own settings, with `env` over it.

    Raises:
        OSError: it can't be started; nothing is left open.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_VARIABLES)}
    full = {**inherited, **env, SESSION_VARIABLE: session}
    path = _find(argv[0], full.get("PATH", os.defpath))
    pipes: list[int] = []
    try:
        for _ in range(3):
            pipes.extend(os.pipe2(os.O_CLOEXEC))
        child_in, our_in, our_out, child_out, our_err, child_err = pipes
        pid = _spawn(path, argv, full, cwd, (child_in, child_out, child_err))
    except OSError:
        for fd in pipes:
            os.close(fd)
        raise
    for fd in (child_in, child_out, child_err):
        os.close(fd)
    _offer_to_oom_killer(pid)
    return Child(pid, our_in, our_out, our_err)


def _spawn(
    path: str, argv: list[str], env: Mapping[str, str], cwd: str, fds: tuple[int, int, int]
) -> int:
    # posix_spawn has no working directory of its own; there is one thread, so ours can serve.
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(cwd)
        return os.posix_spawn(
            path,
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)],
            setsid=True,
            setsigmask=[],
            setsigdef=_SIGNALS,
        )
    finally:
        os.fchdir(before)
        os.close(before)


def _find(name: str, search: str) -> str:
    if "/" in name:
        return name
    for folder in search.split(":"):
        candidate = f"{folder or '.'}/{name}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112 -- as above
            return candidate
    raise FileNotFoundError(2, os.strerror(2), name)


def _offer_to_oom_killer(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:  # noqa: PTH123 -- pathlib costs memory
            file.write(_OOM_SCORE_ADJ)
    except OSError:
        pass  # it has ended already, or /proc is read-only: only the order of victims is at stake


def reap() -> list[tuple[int, int]]:
    """All children that have ended, as (pid, exit code; minus the signal if one killed it)."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def read_parents() -> dict[int, int]:
    """Parent by pid, of all processes in sight.

    Those that look dead too: a process whose first thread has ended looks like that, and runs.
    """
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 -- pathlib costs memory
        if entry.isdigit():
            stat = _read(f"/proc/{entry}/stat", 1024)
            # pid (name, which may hold anything) state ppid …
            fields = stat[stat.rfind(b")") + 2 :].split(b" ", 2)
            if len(fields) > 1:
                parents[int(entry)] = int(fields[1])
    return parents


def read_session(pid: int) -> str | None:
    """The session that a process was started in, if its environment still says so."""
    wanted = f"{SESSION_VARIABLE}=".encode()
    for item in _read(f"/proc/{pid}/environ", _ENVIRON_BYTES).split(b"\0"):
        if item.startswith(wanted):
            return item[len(wanted) :].decode("ascii", "replace")
    return None


def find_victims(parents: Mapping[int, int], me: int, spared: Collection[int]) -> list[int]:
    """Descendants of `me` that are not one of `spared` nor descend from one."""
    verdicts: dict[int, bool] = {me: True, **dict.fromkeys(spared, False)}
    for pid in parents:
        path: list[int] = []
        while pid not in verdicts and pid in parents and pid not in path:
            path.append(pid)
            pid = parents[pid]
        verdict = verdicts.get(pid, False)
        verdicts.update(dict.fromkeys(path, verdict))
    return [pid for pid, is_victim in verdicts.items() if is_victim and pid != me]


def kill_all_but(spared_leaders: Collection[int], spared_sessions: Collection[str]) -> bool:
    """Kill every process under this one that is not provably part of a spared session.

    Part of one is what descends from its leader, or names it in its environment. Everything else
    goes: a process that left its group and lost its parent can't hide. One pass sees a moment; reap
    and call again until it returns False (nothing was there to kill).
    """
    me = os.getpid()
    if me == 1 and not spared_leaders:
        return _kill(-1)  # the kernel's own loop: nothing can be forked past it
    victims = find_victims(read_parents(), me, spared_leaders)
    marked = [
        pid for pid in victims if not spared_sessions or read_session(pid) not in spared_sessions
    ]
    return sum(map(_kill, marked)) > 0


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _read(path: str, max_bytes: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, max_bytes)
    except OSError:
        return b""
    finally:
        os.close(fd)
