"""Width and height of an image, by the beginning of its file. Pure; nothing is decoded.

So that clients can leave room for it. A file that lies about itself is shown as it really is.
"""

from __future__ import annotations

import struct

_MOST_PIXELS = 1 << 24
# In a JPEG, segments of pictures and remarks may come before the one with the size.
_MOST_SEGMENTS = 100
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def read_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF, JPEG or WebP; None where that can't be told. Never raises."""
    try:
        size = _read(data)
    except (struct.error, IndexError):
        return None
    return size if size and all(0 < side < _MOST_PIXELS for side in size) else None


def _read(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack(">II", data[16:24])
    if data.startswith(b"GIF8"):
        return struct.unpack("<HH", data[6:10])
    if data.startswith(b"\xff\xd8"):
        return _read_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp(data)
    return None


def _read_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        marker, kind, length = struct.unpack(">BBH", data[at : at + 4])
        if marker != 0xFF:
            return None
        if kind in _FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _read_webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":
            sides = (data[24:27] + b"\0", data[27:30] + b"\0")
            width, height = (struct.unpack("<I", side)[0] + 1 for side in sides)
            return width, height
        case b"VP8L":
            bits = struct.unpack("<I", data[21:25])[0]
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack("<HH", data[26:30])
            return width & 0x3FFF, height & 0x3FFF
    return None
