"""Giving memory back after a burst: what was spooled stays with the C library otherwise."""

from __future__ import annotations

import ctypes


def release() -> None:
    """Return freed memory to the kernel, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
