"""Reading a file of the workspace that anybody may have put there: bounded, and as it stands."""

from __future__ import annotations

import json
import math
import os
import stat

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 64 * 1024
"""Settings that people write have some hundred lines."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a named pipe would hold the CLI's start up for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class UnreadableError(Exception):
    """The file is there, but nothing in it counts. The text says why, and not what it says."""


def read_object(root: str, *path: str) -> dict[str, Any] | None:
    """The JSON object in a file below `root`; None where there is no such file.

    No symlink is followed below `root`, nothing but a plain file is read, and of that 64 KiB.

    Raises:
        UnreadableError: it is something else, or longer.
    """
    try:
        data = _read(root, path)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UnreadableError(e.strerror or type(e).__name__) from None
    return _parse(data)


def _read(root: str, path: tuple[str, ...]) -> bytes:
    folder = os.open(root, _DIRECTORY)
    try:
        for name in path[:-1]:
            inner = os.open(name, _DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        file = os.open(path[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            msg = "not a plain file"
            raise UnreadableError(msg)
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        msg = f"longer than {MAX_BYTES} bytes"
        raise UnreadableError(msg)
    return data


def _finite(text: str) -> float:
    """JSON has no infinity; Python's has, and writes what the CLI refuses to start with."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        # ValueError is that of invalid UTF-8, too, and of a number with too many digits.
        msg = "not JSON"
        raise UnreadableError(msg) from None
    if not isinstance(value, dict):
        msg = "not a JSON object"
        raise UnreadableError(msg)
    return value
