"""Run inside a runner: tries what the seccomp profile forbids, prints {what: errno or 0} as JSON.

Standard library only; 0 means that the kernel did it. `socket 16/9` is family 16, protocol 9.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import socket
import stat

# Name: (x86_64, aarch64); None where the architecture has no such call.
CALLS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_mempolicy": (239, 236),
    "get_thread_area": (211, None),
    "init_module": (175, 105),
    "io_cancel": (210, 3),
    "io_destroy": (207, 1),
    "io_getevents": (208, 4),
    "io_pgetevents": (333, 292),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listmount": (458, 458),
    "lookup_dcookie": (212, 18),
    "lsm_get_self_attr": (459, 459),
    "lsm_list_modules": (461, 461),
    "lsm_set_self_attr": (460, 460),
    "mbind": (237, 235),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "set_thread_area": (205, None),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "ustat": (136, None),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
    "vserver": (236, None),
}
# All zeros means "be traced by my parent", which would stop this program at its next signal.
PTRACE_GETREGS = 12
CLONE = (56, 220)
CLONE3 = (435, 435)
PERSONALITY = (135, 92)
PRLIMIT64 = (302, 261)
NEW_NAMESPACES = {
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
LIBC = ctypes.CDLL(None, use_errno=True)
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]


def call(number: int, *arguments: int) -> int:
    """The errno of a system call, 0 when it succeeded."""
    ctypes.set_errno(0)
    result = LIBC.syscall(number, *[ctypes.c_long(argument) for argument in arguments])
    return ctypes.get_errno() if result == -1 else 0


def clone(flags: int) -> int:
    """The errno of a clone with these flags; a child that it makes ends at once."""
    ctypes.set_errno(0)
    pid = LIBC.syscall(CLONE[COLUMN], ctypes.c_long(flags | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return ctypes.get_errno() if pid == -1 else 0


def attempt(function: object, *arguments: object) -> int:
    """The errno of an OSError, 0 for none."""
    try:
        result = function(*arguments)  # type: ignore[operator]
    except OSError as e:
        return e.errno or -1
    for item in result if isinstance(result, tuple) else (result,):
        if isinstance(item, socket.socket):
            item.close()
    return 0


def main() -> None:
    """Try everything."""
    found: dict[str, int] = {}
    for name, numbers in CALLS.items():
        number = numbers[COLUMN]
        if number is not None:
            first = PTRACE_GETREGS if name == "ptrace" else 0
            found[name] = call(number, first, 0, 0, 0, 0, 0)
    for persona in (0x40000, 0x400000, 0x20008 | 0x400000):
        found[f"personality {persona:#x}"] = call(PERSONALITY[COLUMN], persona)
    found["prlimit64 of another process"] = call(PRLIMIT64[COLUMN], os.getppid() or 1, 7, 0, 0)
    found["clone3"] = call(CLONE3[COLUMN], 0, 0)
    found["clone"] = clone(0)
    for name, flag in NEW_NAMESPACES.items():
        found[f"clone new {name}"] = clone(flag)
    for family in range(46):
        found[f"socket {family}/0"] = attempt(socket.socket, family, socket.SOCK_DGRAM, 0)
    for protocol in range(1, 23):
        found[f"socket 16/{protocol}"] = attempt(
            socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, protocol
        )
    for family in (socket.AF_INET, socket.AF_INET6):
        found[f"tcp {family}"] = attempt(socket.socket, family, socket.SOCK_STREAM, 6)
        found[f"udp {family}"] = attempt(socket.socket, family, socket.SOCK_DGRAM, 17)
        found[f"raw {family}"] = attempt(socket.socket, family, socket.SOCK_RAW, 1)
        found[f"sctp {family}"] = attempt(socket.socket, family, socket.SOCK_STREAM, 132)
    found["socketpair unix"] = attempt(socket.socketpair)
    found["socketpair tipc"] = attempt(socket.socketpair, 30, socket.SOCK_SEQPACKET)
    found["fifo"] = attempt(os.mknod, f"/tmp/fifo-{os.getpid()}", stat.S_IFIFO | 0o600)
    found["character device"] = attempt(
        os.mknod, f"/tmp/null-{os.getpid()}", stat.S_IFCHR | 0o600, os.makedev(1, 3)
    )
    print(json.dumps(found))  # noqa: T201 - this is how the test hears of it


if __name__ == "__main__":
    main()
