"""Run in a runner as the room's user: tries what must fail, and prints what did not, as JSON.

Standard library alone, and nothing of this package: its text is given to the runner's Python. It
leaves nothing behind, forks nothing, waits for nothing, and ends by itself after 10 s.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import platform
import signal
import socket
import stat
import sys

# x86_64, aarch64.
CALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "setns": (308, 268),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# Packet, Bluetooth, kernel crypto, vsock, XDP; netlink besides routes; raw.
SOCKETS = {
    "socket packet": (17, socket.SOCK_RAW, 0),
    "socket bluetooth": (31, socket.SOCK_RAW, 0),
    "socket alg": (38, socket.SOCK_SEQPACKET, 0),
    "socket vsock": (40, socket.SOCK_STREAM, 0),
    "socket xdp": (44, socket.SOCK_RAW, 0),
    "socket netlink audit": (16, socket.SOCK_RAW, 9),
    "socket netlink uevent": (16, socket.SOCK_RAW, 15),
    "socket raw": (socket.AF_INET, socket.SOCK_RAW, 1),
}
# A documentation address, a metadata service, a bridge's usual gateway.
PLACES = (("192.0.2.1", 80), ("169.254.169.254", 80), ("172.17.0.1", 2375))
WORDS = "/ /etc /etc/claude-code /usr/local/bin /opt/aiagentchat/shim /run /run/egress /dev /sys"
FORBIDDEN = [*WORDS.split(), "/proc/sys/kernel", "/var/cache"]
SETTINGS = "/etc/claude-code/managed-settings.json"
# Forbidden, or not there: other kernels and smaller ones say so.
NO = (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
LIBC = ctypes.CDLL(None, use_errno=True)


def is_allowed(number: int) -> bool:
    """Whether a call (with arguments that make it harmless) is served, or fails for those."""
    ctypes.set_errno(0)
    # For ptrace the first one is "get the registers" of process 0, which is nobody.
    result = LIBC.syscall(number, *[ctypes.c_long(value) for value in (12, 0, 0, 0, 0, 0)])
    return not (result == -1 and ctypes.get_errno() in NO)


def opens(family: int, kind: int, protocol: int) -> bool:
    """Whether such a socket can be made."""
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as e:
        return e.errno not in NO
    return True


def reaches(place: tuple[str, int]) -> bool:
    """Whether anything but "no network" comes of connecting there."""
    with socket.socket() as connection:
        connection.settimeout(0.5)
        try:
            connection.connect(place)
        except OSError as e:
            return e.errno not in (errno.ENETUNREACH, errno.EPERM)
    return True


def can_write(folder: str) -> bool:
    """Whether a file can be made in the directory; it is removed."""
    path = f"{folder}/.audit-{os.getpid()}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return False
    os.unlink(path)  # noqa: PTH108 - pathlib takes longer to load than all of this
    return True


def can_make_device() -> bool:
    """Whether a device node can be made."""
    path = f"/tmp/.audit-{os.getpid()}"  # noqa: S108 - the runner's own
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError as e:
        return e.errno != errno.EPERM
    os.unlink(path)  # noqa: PTH108 - pathlib takes longer to load than all of this
    return True


def digest() -> str | None:
    """Of the managed settings, as they are read here."""
    try:
        with open(SETTINGS, "rb") as file:  # noqa: PTH123 - the same
            return hashlib.sha256(file.read(1 << 20)).hexdigest()
    except OSError:
        return None


def main() -> None:
    """Try everything; the first argument is repeated, so that the answer is to this question."""
    signal.alarm(10)
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    allowed = [name for name, numbers in CALLS.items() if is_allowed(numbers[column])]
    allowed += [name for name, arguments in SOCKETS.items() if opens(*arguments)]
    allowed += ["device node"] if can_make_device() else []
    found = {
        "question": sys.argv[1],
        "allowed": allowed,
        "interfaces": [name for _, name in socket.if_nameindex()],
        "reached": [f"{host}:{port}" for host, port in PLACES if reaches((host, port))],
        "written": [folder for folder in FORBIDDEN if can_write(folder)],
        "uids": list(os.getresuid()),
        "gids": [*os.getresgid(), *os.getgroups()],
        "settings": digest(),
    }
    print(json.dumps(found))  # noqa: T201 - this is the answer


if __name__ == "__main__":
    main()
