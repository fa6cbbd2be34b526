"""What keeps the other processes of the room's uid out of this one."""

from __future__ import annotations

import ctypes
import os

# include/uapi/linux/prctl.h
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def forbid_inspection() -> None:
    """Close this process to its own uid: /proc/PID/{mem,fd,environ,…}, ptrace, pidfd_getfd.

    Without this, any process of the room could open our stdout and write frames. Children get the
    default back when they call exec.

    Raises:
        OSError: the kernel did not do it.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    if _prctl(_PR_GET_DUMPABLE, 0) != 0:
        raise OSError(0, "the process is still dumpable")


def adopt_orphans() -> None:
    """Let orphans among our descendants come to us, as PID 1 has it anyway."""
    if os.getpid() != 1:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    result = int(libc.prctl(ctypes.c_int(option), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
