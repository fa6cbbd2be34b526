"""A file as a message: what it is by its bytes, its size, and an image's dimensions.

A large image goes with a small picture of it, where its room's runner can make one.
"""

from __future__ import annotations

from dataclasses import dataclass

from loguru import logger

from orchestrator.core.attachment import build_safe_name, msgtype_of, sniff
from orchestrator.core.image_size import read_size
from orchestrator.core.quoting import one_line
from orchestrator.core.thumbnail import (
    HEIGHT,
    MOST_BYTES,
    WIDTH,
    Thumbnail,
    add_info,
    needs_thumbnail,
    parse_thumbnail,
)
from orchestrator.errors import FileRefusedError, RunnerError
from orchestrator.model import JsonObject
from orchestrator.runners.file_client import FileClient

_CAPTION_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutFile:
    """A file that leaves a room."""

    name: str
    data: bytes
    thumbnail: Thumbnail | None = None

    @property
    def waiting(self) -> bytes:
        """What is to be uploaded (`core.thumbnail`)."""
        return self.data + (self.thumbnail.data if self.thumbnail else b"")


async def read_out_file(files: FileClient, path: str, *, max_bytes: int) -> OutFile:
    """A file of the workspace, and its thumbnail where it needs one and one can be had.

    Raises:
        FileRefusedError, RunnerError: as `FileClient.read`.
    """
    data = await files.read(path, max_bytes=max_bytes)
    thumbnail = await _thumbnail(files, path, len(data)) if needs_thumbnail(data) else None
    return OutFile(name=path.rpartition("/")[2], data=data, thumbnail=thumbnail)


async def _thumbnail(files: FileClient, path: str, size_bytes: int) -> Thumbnail | None:
    try:
        made = await files.thumbnail(
            path, width=WIDTH, height=HEIGHT, most_bytes=MOST_BYTES, max_bytes=size_bytes
        )
    except (FileRefusedError, RunnerError) as e:
        logger.bind(action="file.thumbnail", error=type(e).__name__, why=str(e)).info("none")
        return None
    return parse_thumbnail(made)


def build_file_content(file: OutFile, *, caption: str = "") -> JsonObject:
    """The content of its message, without its address; it pings nobody."""
    mimetype = sniff(file.data)
    info: JsonObject = {"mimetype": mimetype, "size": len(file.data)}
    if (size := read_size(file.data)) is not None:
        info["w"], info["h"] = size
    if file.thumbnail is not None:
        info = add_info(info, file.thumbnail)
    shown = build_safe_name(file.name)
    return {
        "msgtype": msgtype_of(mimetype),
        "body": one_line(caption, max_chars=_CAPTION_CHARS) or shown,
        "filename": shown,
        "info": info,
        "m.mentions": {},
    }
