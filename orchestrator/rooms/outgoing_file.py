"""A file as a message: what it is by its bytes, its size, and an image's dimensions."""

from __future__ import annotations

from orchestrator.core.attachment import build_safe_name, msgtype_of, sniff
from orchestrator.core.image_size import read_size
from orchestrator.core.quoting import one_line
from orchestrator.model import JsonObject

_CAPTION_CHARS = 1000


def build_file_content(name: str, data: bytes, *, caption: str = "") -> JsonObject:
    """The content of its message, without its address; it pings nobody."""
    mimetype = sniff(data)
    info: JsonObject = {"mimetype": mimetype, "size": len(data)}
    if (size := read_size(data)) is not None:
        info["w"], info["h"] = size
    shown = build_safe_name(name)
    return {
        "msgtype": msgtype_of(mimetype),
        "body": one_line(caption, max_chars=_CAPTION_CHARS) or shown,
        "filename": shown,
        "info": info,
        "m.mentions": {},
    }
