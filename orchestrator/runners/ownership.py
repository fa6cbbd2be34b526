"""Whose the rooms' files are when an installation gets another engine.

A room has other uids under an engine with user namespaces than under one without. Rules: only a uid
that this very room had (a first uid of this installation, plus the room's index) is replaced; what
is inside is walked by a child process that follows no symlink and leaves every other owner alone;
the directory itself comes last, so that a kill in between is made good by the next start.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from orchestrator.core.naming import room_uid
from orchestrator.errors import PreconditionError
from orchestrator.model import InstallationId
from orchestrator.private_file import write_private

_NAME: Final = "first-uids.json"
# A million files take about 10 s.
_CHANGE_S: Final = 600.0
_CHOWN: Final = ("/usr/bin/chown", "/bin/chown")


def read_first_uids(state_dir: Path, installation: InstallationId) -> tuple[int, ...]:
    """The first rooms' uids on this host, of every engine that the installation had; newest first.

    The one without user namespaces is always among them: it follows from the installation.

    Raises:
        PreconditionError: the file that has them can't be read, or is damaged.
    """
    path = state_dir / _NAME
    try:
        known = json.loads(path.read_text()) if path.exists() else []
    except (OSError, ValueError) as e:
        msg = f"{path} can't be read: {e}"
        raise PreconditionError(msg) from e
    if not isinstance(known, list) or not all(type(n) is int and n > 0 for n in known):
        msg = f"{path} is damaged: expected a list of uids"
        raise PreconditionError(msg)
    return tuple(dict.fromkeys([*reversed(known), room_uid(installation, 0)]))


def note_first_uid(state_dir: Path, installation: InstallationId, first: int) -> frozenset[int]:
    """Remember that the rooms' files belong to uids from `first` on now; returns the others known.

    Raises:
        PreconditionError: it can't be read or written.
    """
    known = read_first_uids(state_dir, installation)
    if known[0] != first:
        ordered = [*(n for n in reversed(known) if n != first), first]
        _write(state_dir / _NAME, json.dumps(ordered))
    return frozenset(known) - {first}


def change_owner(folder: int, *, old: int, uid: int, gid: int) -> None:
    """Give everything below an open directory that is `old`'s, and the directory, to uid and gid.

    Blocks, for minutes at most.

    Raises:
        PreconditionError: it did not work, or took too long; the next try goes on.
    """
    program = next((path for path in _CHOWN if Path(path).exists()), _CHOWN[0])
    command = (program, "-R", "-P", "-h", f"--from={old}", f"{uid}:{gid}", "--", ".")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, numbers as arguments
            command,
            cwd=f"/proc/self/fd/{folder}",
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHANGE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        msg = f"the files of uid {old} could not be handed to {uid}: {type(e).__name__}"
        raise PreconditionError(msg) from e
    if done.returncode != 0 or os.fstat(folder).st_uid != uid:
        msg = f"the files of uid {old} could not all be handed to {uid}"
        raise PreconditionError(msg)


def _write(path: Path, text: str) -> None:
    try:
        write_private(path, text.encode())
    except OSError as e:
        msg = f"{path} can't be written: {e.strerror}"
        raise PreconditionError(msg) from e
