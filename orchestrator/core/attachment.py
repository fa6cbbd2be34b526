"""Files in messages: what a content says of one, how it is called in a workspace, what it is. Pure.

All of it is somebody else's word: a name is made safe before it is a path, and what a file is is
said by its first bytes, never by its sender.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.core.quoting import one_line
from orchestrator.core.sanitise import sanitise

FILE_TYPES = ("m.file", "m.image", "m.audio", "m.video")
UPLOADS = "uploads"
# With what makes it unlike others it stays below the 255 bytes of a name.
_NAME_BYTES = 120
_MXC = re.compile(r"mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})")
_UNSAFE = re.compile(r"[^\w.,+=@()-]+")
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that somebody sent; with a `key` it is encrypted."""

    server: str
    media_id: str
    name: str
    size_bytes: int | None = None
    """As its sender says."""
    key: str | None = None
    iv: str | None = None
    sha256: str | None = None


def parse_attachment(content: Mapping[str, Any]) -> Attachment | None:
    """The file that a message's content names; None where it names none that can be fetched."""
    sealed = content.get("file")
    sealed = sealed if isinstance(sealed, Mapping) else {}
    found = _MXC.fullmatch(str(sealed.get("url") or content.get("url") or ""))
    if found is None:
        return None
    key, hashes = sealed.get("key"), sealed.get("hashes")
    secret = key.get("k") if isinstance(key, Mapping) else None
    digest = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    iv = sealed.get("iv")
    if sealed and not all(isinstance(part, str) for part in (secret, digest, iv)):
        return None
    info = content.get("info")
    size = info.get("size") if isinstance(info, Mapping) else None
    return Attachment(
        server=found[1],
        media_id=found[2],
        name=_text(content.get("filename")) or _text(content.get("body")) or "file",
        size_bytes=size if isinstance(size, int) and not isinstance(size, bool) else None,
        key=secret if sealed else None,
        iv=iv if sealed else None,
        sha256=digest if sealed else None,
    )


def parse_caption(content: Mapping[str, Any]) -> str:
    """What was said with a file: a body that is not its name, in clients that tell them apart."""
    body, name = _text(content.get("body")), _text(content.get("filename"))
    return body if name and body != name else ""


def encode_attachment(attachment: Attachment | None) -> dict[str, Any] | None:
    """As it is stored."""
    return None if attachment is None else asdict(attachment)


def decode_attachment(stored: Mapping[str, Any] | None) -> Attachment | None:
    """What was stored."""
    return None if stored is None else Attachment(**stored)


def build_safe_name(name: str) -> str:
    """A file's name as one part of a path: no sign that a shell or a person stumbles over.

    Letters of all alphabets stay; it is never empty, hidden, or an option.
    """
    clean = _UNSAFE.sub("_", sanitise(name)).strip("._-") or "file"
    stem, dot, suffix = clean.rpartition(".")
    if not dot or len(suffix) > 12:
        stem, dot, suffix = clean, "", ""
    most = _NAME_BYTES - len(f"{dot}{suffix}".encode())
    stem = stem.encode()[:most].decode("utf-8", "ignore")
    return f"{stem or 'file'}{dot}{suffix}".lstrip("-._") or "file"


def choose_path(name: str, taken: Collection[str]) -> str:
    """Where a file goes: under its own name, or with a number where that is taken."""
    safe = build_safe_name(name)
    stem, dot, suffix = safe.rpartition(".")
    if not dot:
        stem, suffix = safe, ""
    number, path = 1, f"{UPLOADS}/{safe}"
    while path in taken:
        number += 1
        path = f"{UPLOADS}/{stem}-{number}{dot}{suffix}"
    return path


def sniff(data: bytes) -> str:
    """What a file is, by its first bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return "audio/mp4" if data[8:11] == b"M4A" else "video/mp4"
    known = next((mime for start, mime in _STARTS if data.startswith(start)), None)
    if known is not None:
        return known
    try:
        # What follows may complete a sign that is cut here.
        codecs.getincrementaldecoder("utf-8")().decode(data[:4096], final=len(data) <= 4096)
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "application/octet-stream" if b"\0" in data[:4096] else "text/plain"


def msgtype_of(mimetype: str) -> str:
    """How a file of this kind is sent."""
    kind = mimetype.partition("/")[0]
    return f"m.{kind}" if kind in {"image", "audio", "video"} else "m.file"


def _text(value: object) -> str:
    return one_line(value, max_chars=255) if isinstance(value, str) else ""
