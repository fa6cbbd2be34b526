"""Small pictures of images: which images need one, what counts as one, how one is sent. Pure.

One is made in its room's runner and is that room's word: it is bounded, what it is is said by its
first bytes, its dimensions by its header, and nobody decodes it here. Rule: a thumbnail's bytes
wait behind those of its message's file, as many as its `thumbnail_info` says; the content says what
was uploaded, so that each is uploaded in a step of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.core.attachment import sniff
from orchestrator.core.image_size import read_size
from orchestrator.model import JsonObject, JsonValue

# The largest that Matrix' specification recommends for thumbnails.
WIDTH: Final = 800
HEIGHT: Final = 600
MOST_BYTES: Final = 256 << 10
_TYPES: Final = frozenset({"image/jpeg", "image/png"})
_OF: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """Invariant: a JPEG or PNG, by its beginning, within the limits above."""

    data: bytes
    mimetype: str
    width: int
    height: int


def needs_thumbnail(image: bytes) -> bool:
    """Whether it is an image that is larger than a thumbnail would be."""
    size = read_size(image)
    return sniff(image) in _OF and size is not None and (size[0] > WIDTH or size[1] > HEIGHT)


def parse_thumbnail(data: bytes) -> Thumbnail | None:
    """What a runner gave as one; None where it is none."""
    mimetype, size = sniff(data), read_size(data)
    if mimetype not in _TYPES or size is None or not 0 < len(data) <= MOST_BYTES:
        return None
    if size[0] > WIDTH or size[1] > HEIGHT:
        return None
    return Thumbnail(data=data, mimetype=mimetype, width=size[0], height=size[1])


def add_info(info: JsonObject, thumbnail: Thumbnail) -> JsonObject:
    """An image's `info` with its thumbnail, and its sides as the thumbnail was turned."""
    width, height = info.get("w"), info.get("h")
    turned: JsonObject = {}
    if isinstance(width, int) and isinstance(height, int):
        is_sideways = (width - height) * (thumbnail.width - thumbnail.height) < 0
        turned = {"w": height, "h": width} if is_sideways else {}
    of_thumbnail: JsonObject = {
        "mimetype": thumbnail.mimetype,
        "size": len(thumbnail.data),
        "w": thumbnail.width,
        "h": thumbnail.height,
    }
    return {**info, **turned, "thumbnail_info": of_thumbnail}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is to be uploaded next of a message's bytes, and what is left then."""

    data: bytes
    mimetype: str
    rest: bytes | None
    is_thumbnail: bool


def next_upload(content: JsonObject, waiting: bytes) -> Upload:
    """Of the bytes that still wait for a message: first its file, then its thumbnail."""
    info = content.get("info")
    info = info if isinstance(info, dict) else {}
    of_thumbnail = info.get("thumbnail_info")
    if not isinstance(of_thumbnail, dict):
        return Upload(data=waiting, mimetype=_type(info), rest=None, is_thumbnail=False)
    if waits_for_thumbnail(content):
        return Upload(data=waiting, mimetype=_type(of_thumbnail), rest=None, is_thumbnail=True)
    size = of_thumbnail.get("size")
    at = len(waiting) - (size if isinstance(size, int) else 0)
    return Upload(
        data=waiting[:at], mimetype=_type(info), rest=waiting[at:] or None, is_thumbnail=False
    )


def waits_for_thumbnail(content: JsonObject) -> bool:
    """Whether a message's file is uploaded, and its thumbnail is not."""
    info = content.get("info")
    has_thumbnail = isinstance(info, dict) and "thumbnail_info" in info
    return has_thumbnail and ("url" in content or "file" in content)


def name_upload(content: JsonObject, upload: Upload, address: JsonObject) -> JsonObject:
    """The message's content with where it was uploaded to: `url`, or a sealed `file`."""
    if not upload.is_thumbnail:
        return {**content, **address}
    info = content.get("info")
    named: JsonObject = {f"thumbnail_{key}": value for key, value in address.items()}
    return {**content, "info": {**(info if isinstance(info, dict) else {}), **named}}


def drop_thumbnail(content: JsonObject) -> JsonObject:
    """The message's content without one."""
    info = content.get("info")
    if not isinstance(info, dict):
        return content
    return {**content, "info": {k: v for k, v in info.items() if not k.startswith("thumbnail_")}}


def _type(info: dict[str, JsonValue]) -> str:
    mimetype = info.get("mimetype")
    return mimetype if isinstance(mimetype, str) else "application/octet-stream"
