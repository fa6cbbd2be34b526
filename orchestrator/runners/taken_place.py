"""Which room has taken a place that was made before the room was known, beside the room's files.

The database knows it, too; a copy of it from before does not, and the room's files are to be found
again all the same. Written once, before anything of the room is in the place: an upgraded room's
files are found by the room that had them first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.core.naming import room_slug
from orchestrator.errors import PreconditionError
from orchestrator.private_file import write_private
from orchestrator.store.api import RoomRow

_NAME: Final = "room-id"
_MAX_BYTES: Final = 1024


def note_taken_place(rooms: Path, room: RoomRow) -> None:
    """Say whose place it is, where its name does not. Idempotent; blocks.

    Raises:
        PreconditionError: it can't be written.
    """
    note = rooms / room.slug / _NAME
    if room.slug == room_slug(room.room_id) or room.moved_seq is not None or room.former:
        return
    try:
        if not note.exists():
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(note, room.room_id.encode())
    except OSError as e:
        msg = f"{note} can't be written: {e.strerror}"
        raise PreconditionError(msg) from e


def read_taken_places(rooms: Path) -> Mapping[str, str]:
    """The places' names, by room; what can't be read is none."""
    found: dict[str, str] = {}
    for note in sorted(rooms.glob(f"*/{_NAME}")):
        try:
            if not note.is_symlink() and note.stat().st_size <= _MAX_BYTES:
                found[note.read_text()] = note.parent.name
        except (OSError, UnicodeDecodeError):
            continue
    return found
