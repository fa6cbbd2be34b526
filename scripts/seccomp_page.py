"""Write docs/security/seccomp.md from the profile and from the engines' recorded defaults.

python -m scripts.seccomp_page
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.seccomp import allowed_groups, build_seccomp_profile

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "security" / "seccomp.md"
RECORDED = ROOT / "tests" / "recorded" / "engine-defaults"
OLD, NEW = "docker-20.10.24", "moby-profiles-2026"

WHY_ALLOWED: Mapping[str, str] = {
    "files": "Reading, writing, naming and listing files, with their attributes: every program."
    " What they may reach is decided by the mounts, the uid and the read-only root, not here."
    " `chown` and its like succeed only as far as one's own uid goes, without capabilities.",
    "waiting": "Pipes, polling, futexes, inotify: shells, Node.js, watchers. `ioctl` is needed for"
    " terminals and non-blocking pipes; no device is in `/dev` that it could be used on.",
    "memory": "Allocating, mapping and protecting one's own memory, shadow stacks and sealing"
    " included. `memfd_create` is what linkers, JITs and the CLI use.",
    "processes": "Starting programs, one's own ids, limits and priorities, and further filters on"
    " oneself (`seccomp`, Landlock). The `set*id` calls fail without capabilities, but must be"
    " there: programs call them to keep what they have. `pidfd_*` reaches the room's own processes"
    " alone.",
    "signals and time": "Signals within the room's process namespace, timers, reading clocks.",
    "communication": "Calls on sockets that exist, System V and POSIX queues and shared memory,"
    " which the runner's own IPC namespace confines.",
}

# Names that no 64-bit architecture of ours has; the filter knows no other.
_ONLY_32_BIT = """
    _llseek _newselect chown32 clock_adjtime64 clock_getres_time64 clock_gettime64
    clock_nanosleep_time64 fadvise64_64 fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64
    futex_time64 getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32
    io_pgetevents_time64 ipc lchown32 lstat64 mmap2 mq_timedreceive_time64 mq_timedsend_time64
    ppoll_time64 pselect6_time64 recv recvmmsg_time64 rt_sigtimedwait_time64
    sched_rr_get_interval_time64 semtimedop_time64 send sendfile64 setfsgid32 setfsuid32 setgid32
    setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigprocmask sigreturn
    socketcall stat64 statfs64 timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64
    truncate64 ugetrlimit utimensat_time64 waitpid
"""

WHY_NOT: Mapping[str, str] = {
    "io_uring_enter io_uring_register io_uring_setup": "Makes sockets and opens files without the"
    " calls that this filter sees, and was a steady source of ways into the kernel. Engines below"
    " 25 allow it.",
    "ptrace process_vm_readv process_vm_writev": "Looks into other processes, the shim's and the"
    " CLI's too, which have the room's uid. The price: `gdb` and `strace` don't work in a runner.",
    "io_setup io_submit io_cancel io_destroy io_getevents io_pgetevents": "One supply for the whole"
    " host (`fs.aio-max-nr`): a room could take all of it from the host's databases.",
    "memfd_secret": "Takes pages out of the kernel's own map of memory, which slows the whole host;"
    " nothing in the image uses it.",
    "vmsplice": "Lends a process's pages to a pipe; several kernel bugs went through it, and no"
    " ordinary program needs it.",
    "process_mrelease": "For daemons that act when memory runs out; the kernel does that here.",
    "adjtimex clock_adjtime": "Reads, and with a capability sets, the host's clock discipline.",
    "fanotify_mark": "Of no use without `fanotify_init`, which needs a capability.",
    "modify_ldt get_thread_area set_thread_area": "Segments for 16- and 32-bit code; the first was"
    " a way into the kernel more than once.",
    "name_to_handle_at": "One half of opening files by handle, past every mount (the other half,"
    " `open_by_handle_at`, needs a capability everywhere).",
    "listmount statmount": "Tell of mounts, as `/proc/self/mountinfo` does; nothing in the image"
    " uses them yet.",
    "uretprobe": "Made by the kernel when somebody traces a program from outside. On Linux 6.11 to"
    " 6.13 a host that puts such a probe into a runner's program ends that program.",
    "riscv_hwprobe": "Another architecture's.",
    _ONLY_32_BIT: "Only 32-bit programs have these. Their whole entrance is closed: `socketcall`"
    " passes its arguments by pointer, where no filter can see the address family.",
}

_HEAD = """\
# The system calls of a runner

Written by `python -m scripts.seccomp_page` from `orchestrator/core/seccomp.py` and from what two
generations of engines allow by default; a test compares them. Change those, not this page.

The profile is an allow-list, sent with every container, whatever the engine's own default is: what
is not named fails with `EPERM`. Only the two native 64-bit architectures are served; a 32-bit call
(`int 0x80`, x32) is not served. What needs a capability fails twice, since a runner has none.

```
 a call ─► our filter ─► not named: EPERM        (never reaches the kernel's code)
              │
              └─ named ─► no capability, no-new-privileges, own namespaces, masked paths
```

Under `runtime: runsc` this filter isn't used: gVisor answers the calls itself, in its own kernel,
and has a narrower filter of its own between itself and the host.
"""

# Call, what is allowed, why so.
CONDITIONS = (
    (
        "`socket`",
        "AF_UNIX; AF_INET and AF_INET6 with the protocols 0, TCP and UDP; AF_NETLINK with "
        "protocol 0 (routes)",
        "AF_VSOCK leads to a hypervisor past every network namespace; AF_ALG, AF_PACKET and "
        "raw sockets are kernel code that no agent needs; any other protocol number loads a "
        "module for the asking; the C library asks for interfaces by netlink",
    ),
    (
        "`socketpair`",
        "AF_UNIX",
        "TIPC and others make pairs, too",
    ),
    (
        "`clone`",
        "without any flag of 0x7E020000",
        "a user namespace of its own gives a process every capability in it, and with them "
        "most of the kernel's bugs of the last years",
    ),
    (
        "`clone3`",
        "answers `ENOSYS`",
        "its flags are behind a pointer; the C library falls back to `clone`",
    ),
    (
        "`prlimit64`, `setrlimit`",
        "for oneself (pid 0), all limits but that of core dumps; reading all of them",
        "with another's pid, a process could lower PID 1's limits and end it; with a limit of 0 for"
        " core dumps instead of 1, the host's handler of crashes would run",
    ),
    (
        "`personality`",
        "0, 8, 0x20000, 0x20008, 0xFFFFFFFF",
        "as in the engines' defaults: no READ_IMPLIES_EXEC, no ADDR_NO_RANDOMIZE",
    ),
    (
        "`mknod`, `mknodat`",
        "named pipes and plain files",
        "no devices",
    ),
)
_CONDITIONS_FOOT = (
    "The engines' defaults have the same conditions for `clone`, `clone3` and `personality`, none"
    " for `prlimit64`, `mknod` and `socketpair`, and for `socket`: none in A, in B all families but"
    " {families} and those above 45."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """What one generation of engines does for a container without capabilities."""

    engine: str
    allowed: frozenset[str]
    masked_paths: frozenset[str]
    readonly_paths: frozenset[str]
    socket_families_refused: tuple[int, ...]


def load_default(name: str) -> Default:
    """A recorded default."""
    data = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return Default(
        engine=data["engine"],
        # With a condition or without.
        allowed=frozenset(data["allowed"]) | {"clone", "personality", "socket"},
        masked_paths=frozenset(data["masked_paths"]),
        readonly_paths=frozenset(data["readonly_paths"]),
        socket_families_refused=tuple(data["socket_families_refused"]),
    )


def ours() -> frozenset[str]:
    """Every name that our profile allows, with a condition or without."""
    rules = build_seccomp_profile()["syscalls"]
    assert isinstance(rules, list)
    return frozenset(
        str(name)
        for rule in rules
        if isinstance(rule, dict) and rule["action"] == "SCMP_ACT_ALLOW"
        for name in _names(rule)
    )


def reasons() -> Mapping[str, str]:
    """Why each call that is not ours is not, by its name."""
    return {name: why for names, why in WHY_NOT.items() for name in names.split()}


def render() -> str:
    """The whole page."""
    old, new = load_default(OLD), load_default(NEW)
    families = ", ".join(str(number) for number in new.socket_families_refused)
    parts = [
        _HEAD,
        f"A is {old.engine}.\nB is {new.engine}.\n",
        _allowed_part(),
        _conditions_part(families),
        _not_ours_part(old, new),
        _only_ours_part(old, new),
    ]
    return "\n".join(parts)


def _allowed_part() -> str:
    lines = ["## Allowed", ""]
    for title, names in allowed_groups().items():
        lines += _wrapped(f"**{title.capitalize()}** ({len(names)}). {WHY_ALLOWED[title]}")
        lines += ["", *_code(names), ""]
    return "\n".join(lines)


def _conditions_part(families: str) -> str:
    lines = ["## Allowed with a condition", "", "| call | allowed | why so |", "|---|---|---|"]
    lines += [f"| {call} | {allowed} | {why} |" for call, allowed, why in CONDITIONS]
    return "\n".join([*lines, "", *_wrapped(_CONDITIONS_FOOT.format(families=families)), ""])


def _not_ours_part(old: Default, new: Default) -> str:
    lines = [
        "## What the engines allow and we don't",
        "",
        "| call | A | B | why not here |",
        "|---|---|---|---|",
    ]
    for names, why in WHY_NOT.items():
        if names == _ONLY_32_BIT:
            continue
        for name in names.split():
            marks = " | ".join("yes" if name in d.allowed else "no" for d in (old, new))
            lines.append(f"| `{name}` | {marks} | {why} |")
    thirty_two = sorted(_ONLY_32_BIT.split())
    lines += ["", *_wrapped(f"And {len(thirty_two)} more. {WHY_NOT[_ONLY_32_BIT]}"), ""]
    lines += [*_code(thirty_two), ""]
    return "\n".join(lines)


def _only_ours_part(old: Default, new: Default) -> str:
    newer = sorted(ours() - old.allowed)
    beyond = sorted(ours() - new.allowed)
    text = (
        f"Nothing that B does not allow{'' if not beyond else ' but ' + ', '.join(beyond)}. What A"
        " does not know yet is named by number only on kernels that have it, and is B's as well:"
    )
    lines = ["## What we allow and the engines don't", "", *_wrapped(text), "", *_code(newer), ""]
    return "\n".join(lines)


def _names(rule: Mapping[str, object]) -> Iterable[object]:
    names = rule["names"]
    assert isinstance(names, list)
    return names


def _code(names: Iterable[str]) -> list[str]:
    body = textwrap.wrap(" ".join(names), 96, break_on_hyphens=False)
    return ["```", *body, "```"]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_on_hyphens=False, break_long_words=False)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
