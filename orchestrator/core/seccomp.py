"""The system calls that a runner may make: an allow-list of our own, as the profile engines read.

Rules: what is not named here fails with EPERM. A name stands here because a shell, a compiler, git,
Python, Node.js or the CLI needs it as an ordinary user. What needs a capability, gets around the
network namespace (AF_VSOCK, io_uring), looks into other processes or makes namespaces does not, nor
what takes from a supply that the host has once for all rooms (io_setup: fs.aio-max-nr).
Only the two native 64-bit architectures are served: the 32-bit `socketcall` passes its arguments by
pointer, where no filter can see the address family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model import JsonObject, JsonValue

_EPERM: Final = 1
_ENOSYS: Final = 38

_FILES: Final = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate
    futimesat getcwd getdents getdents64 getxattr getxattrat lchown lgetxattr link linkat
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat newfstatat
    open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr
    setxattrat stat statfs statx symlink symlinkat sync sync_file_range syncfs truncate umask
    unlink unlinkat utime utimensat utimes write writev
"""
_WAITING: Final = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake
    get_robust_list inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl pipe
    pipe2 poll ppoll pselect6 select set_robust_list signalfd signalfd4 splice tee
"""
_MEMORY: Final = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall
    mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
    pkey_mprotect remap_file_pages
"""
_PROCESSES: Final = """
    arch_prctl capget capset execve execveat exit exit_group fork getcpu getegid geteuid getgid
    getgroups getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
    getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl
    rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp set_tid_address setfsgid setfsuid
    setgid setgroups setpgid setpriority setregid setresgid setresuid setreuid setsid
    setuid sysinfo times uname vfork wait4 waitid
"""
_SIGNALS_AND_TIME: Final = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause
    restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime tkill
"""
# Calls on sockets that exist; which ones can be made is decided by `socket` below. System V and
# POSIX queues are confined by the runner's own IPC namespace.
_COMMUNICATION: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
    recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt
    shmat shmctl shmdt shmget shutdown
"""

# <linux/socket.h>, <linux/in.h>, <linux/netlink.h>, <linux/stat.h>.
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_IPPROTO_DEFAULT, _IPPROTO_TCP, _IPPROTO_UDP = 0, 6, 17
_NETLINK_ROUTE = 0
_S_IFMT, _S_IFIFO, _S_IFREG = 0o170000, 0o010000, 0o100000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of <linux/sched.h>.
_CLONE_NAMESPACES = 0x7E020000
# <linux/resource.h>.
_RLIMIT_CORE, _RLIM_NLIMITS = 4, 16
_INT = 0xFFFFFFFF
# PER_LINUX, PER_LINUX32, both with UNAME26, and the query.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def build_seccomp_profile() -> JsonObject:
    """The profile in the engines' JSON, the same for x64 and arm64. A new object at each call."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": [
            _allow(*sorted(allowed_syscalls())),
            *_socket_rules(),
            *_process_rules(),
            *_node_rules(),
        ],
    }


def allowed_syscalls() -> frozenset[str]:
    """The names that are allowed whatever their arguments are."""
    return frozenset(name for names in allowed_groups().values() for name in names)


def allowed_groups() -> Mapping[str, tuple[str, ...]]:
    """The same names by what they are for; docs/security/seccomp.md is written from it."""
    groups = {
        "files": _FILES,
        "waiting": _WAITING,
        "memory": _MEMORY,
        "processes": _PROCESSES,
        "signals and time": _SIGNALS_AND_TIME,
        "communication": _COMMUNICATION,
    }
    return {title: tuple(sorted(names.split())) for title, names in groups.items()}


def _socket_rules() -> list[JsonValue]:
    # TCP and UDP by name: any other protocol number would load a kernel module for its asking.
    internet: list[JsonValue] = [
        _allow("socket", args=[_equal(0, family), _equal(2, protocol)])
        for family in (_AF_INET, _AF_INET6)
        for protocol in (_IPPROTO_DEFAULT, _IPPROTO_TCP, _IPPROTO_UDP)
    ]
    return [
        _allow("socket", "socketpair", args=[_equal(0, _AF_UNIX)]),
        *internet,
        _allow("socket", args=[_equal(0, _AF_NETLINK), _equal(2, _NETLINK_ROUTE)]),
    ]


def _process_rules() -> list[JsonValue]:
    # clone3 takes its flags by pointer: "not implemented" makes the C library fall back to clone.
    no_clone3 = _allow("clone3") | {"action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}
    return [
        _allow("clone", args=[_masked_equal(0, mask=_CLONE_NAMESPACES, value=0)]),
        no_clone3,
        *_limit_rules(),
        *(_allow("personality", args=[_equal(0, value)]) for value in _PERSONALITIES),
    ]


def _limit_rules() -> list[JsonValue]:
    """A process reads all of its limits and lowers its own, but for that of core dumps.

    Its own only: with another's pid, a process could lower those of PID 1 and end it. Core dumps:
    the limit that makes none is 1, and one that lowered it to 0 would have the host's handler run.
    """
    # The kernel takes the number's lower half; a comparison of the whole would be got around.
    others = [n for n in range(_RLIM_NLIMITS) if n != _RLIMIT_CORE]
    return [
        *(_allow("setrlimit", args=[_masked_equal(0, mask=_INT, value=n)]) for n in others),
        *(
            _allow("prlimit64", args=[_equal(0, 0), _masked_equal(1, mask=_INT, value=n)])
            for n in others
        ),
        _allow("prlimit64", args=[_equal(0, 0), _equal(2, 0)]),
    ]


def _node_rules() -> list[JsonValue]:
    # Named pipes and plain files; no devices.
    return [
        _allow(name, args=[_masked_equal(index, mask=_S_IFMT, value=kind)])
        for name, index in (("mknod", 1), ("mknodat", 2))
        for kind in (_S_IFIFO, _S_IFREG)
    ]


def _allow(*names: str, args: list[JsonValue] | None = None) -> JsonObject:
    rule: JsonObject = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    return rule | ({"args": args} if args else {})


def _equal(index: int, value: int) -> JsonValue:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked_equal(index: int, *, mask: int, value: int) -> JsonValue:
    # In the engines' format `value` is the mask and `valueTwo` what must be left.
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
