"""What a workspace held at one moment, compared with another, and the way back. Pure.

Rule: a link is never followed, and what can't be restored (sockets, devices, pipes) is neither
copied nor removed. A path is the room's word: one that would lead out of the workspace is refused.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_ENTRIES = 50_000
"""A workspace with more has no copies: each turn would wait for its list."""
MAX_PATH_CHARS = 4096
# What changed so shortly before it was read may change again within the same tick of the clock.
_RACY_NS = 50_000_000
_UNKNOWN_NS = -1
# A manifest of MAX_ENTRIES, each with a long path.
_MAX_MANIFEST_BYTES = 512 << 20

_DAMAGED = "a manifest is damaged"

FILE, DIRECTORY, LINK, OTHER = "file", "directory", "link", "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyEntry:
    """One entry; `sha256` of a file whose content is kept."""

    path: str
    kind: str
    size_bytes: int
    modified_ns: int
    mode: int
    target: str | None = None
    sha256: str | None = None

    def looks_like(self, other: CopyEntry) -> bool:
        """Whether nothing says that the content differs."""
        return (
            self.kind == other.kind
            and self.size_bytes == other.size_bytes
            and self.modified_ns == other.modified_ns
            and self.mode == other.mode
            and self.target == other.target
        )

    def is_same(self, other: CopyEntry) -> bool:
        """Whether they are the same but for times."""
        if self.kind != other.kind or self.mode != other.mode:
            return False
        if self.kind == FILE and self.sha256 is not None and other.sha256 is not None:
            return self.sha256 == other.sha256
        return self.target == other.target and (self.kind != FILE or self.looks_like(other))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of a workspace, by path."""

    entries: Mapping[str, CopyEntry]

    @property
    def total_bytes(self) -> int:
        """Of its files."""
        return sum(entry.size_bytes for entry in self.entries.values() if entry.kind == FILE)

    @property
    def blobs(self) -> frozenset[str]:
        """The contents that it needs."""
        return frozenset(entry.sha256 for entry in self.entries.values() if entry.sha256)


def build_manifest(entries: Iterable[CopyEntry]) -> Manifest:
    """By path, in order."""
    return Manifest(entries={e.path: e for e in sorted(entries, key=lambda e: e.path)})


def encode_manifest(manifest: Manifest) -> bytes:
    """The same manifest always gives the same bytes."""
    rows = [
        [e.path, e.kind, e.size_bytes, e.modified_ns, e.mode, e.target, e.sha256]
        for e in manifest.entries.values()
    ]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode("ascii"), 1)


def decode_manifest(data: bytes) -> Manifest:
    """What was encoded.

    Raises:
        ValueError: it is damaged.
    """
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, _MAX_MANIFEST_BYTES)
        manifest = build_manifest(_entry(*row) for row in json.loads(text))
    except (zlib.error, ValueError, TypeError) as e:
        raise ValueError(_DAMAGED) from e
    if not unpacker.eof:
        raise ValueError(_DAMAGED)
    return manifest


def _entry(
    path: str,
    kind: str,
    size_bytes: int,
    modified_ns: int,
    mode: int,
    target: str | None,
    sha256: str | None,
) -> CopyEntry:
    return CopyEntry(
        path=path,
        kind=kind,
        size_bytes=size_bytes,
        modified_ns=modified_ns,
        mode=mode,
        target=target,
        sha256=sha256,
    )


def is_inside(path: str) -> bool:
    """Whether a path is a plain relative one, which can't lead out of its root."""
    if not 0 < len(path) <= MAX_PATH_CHARS or "\0" in path:
        return False
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False  # no name of a file reads like this
    return all(part not in {"", ".", ".."} for part in path.split("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePlan:
    """What is known of a list already, and which files have to be read."""

    known: Sequence[CopyEntry]
    wanted: Sequence[CopyEntry]


def plan_capture(listing: Iterable[CopyEntry], previous: Manifest | None) -> CapturePlan:
    """A file that looks as it did has the content that it had."""
    known: list[CopyEntry] = []
    wanted: list[CopyEntry] = []
    before = previous.entries if previous else {}
    for entry in listing:
        if entry.kind != FILE:
            known.append(entry)
            continue
        old = before.get(entry.path)
        if old is not None and old.sha256 is not None and old.looks_like(entry):
            known.append(old)
        else:
            wanted.append(entry)
    return CapturePlan(known=known, wanted=wanted)


def note_read(entry: CopyEntry, sha256: str, size_bytes: int, *, now_ns: int) -> CopyEntry:
    """The entry with the content that was read of it.

    Where that may be another one than was listed, or may still change unseen, its time is
    forgotten: the next look reads it again.
    """
    is_settled = size_bytes == entry.size_bytes and entry.modified_ns < now_ns - _RACY_NS
    modified_ns = entry.modified_ns if is_settled else _UNKNOWN_NS
    return replace(entry, sha256=sha256, size_bytes=size_bytes, modified_ns=modified_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that differs; None on the side where it does not exist."""

    path: str
    before: CopyEntry | None
    after: CopyEntry | None


def compare(before: Manifest, after: Manifest) -> list[Change]:
    """What differs, by path. Entries that can't be restored are not looked at."""
    changes: list[Change] = []
    for path in sorted(before.entries.keys() | after.entries.keys()):
        old, new = _restorable(before.entries.get(path)), _restorable(after.entries.get(path))
        if old is None and new is None:
            continue
        if old is None or new is None or not old.is_same(new):
            changes.append(Change(path=path, before=old, after=new))
    return changes


def _restorable(entry: CopyEntry | None) -> CopyEntry | None:
    return None if entry is None or entry.kind == OTHER else entry


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """The steps back, to be made in the order of the fields; each can be repeated."""

    opened: Sequence[tuple[str, int]]
    """Directories that must take changes first, with the mode that lets them."""
    removed: Sequence[str]
    directories: Sequence[tuple[str, int]]
    files: Sequence[CopyEntry]
    links: Sequence[CopyEntry]
    modes: Sequence[tuple[str, int]]
    """Directories' own modes, the deepest first: one that takes no changes gets it last."""


def plan_restore(target: Manifest, current: Manifest) -> RestorePlan:
    """From what is there to what was there; only what differs."""
    changes = compare(target, current)
    removed = _topmost(
        c.path for c in changes if c.before is None or (c.after and c.before.kind != c.after.kind)
    )
    gone = set(removed)
    differing = {c.path for c in changes}
    # Below what is removed everything is made anew, whether or not it differed.
    wanted = [
        entry
        for path, entry in target.entries.items()
        if entry.kind != OTHER and (path in differing or _has_ancestor(path, gone))
    ]
    folders = sorted((e for e in wanted if e.kind == DIRECTORY), key=lambda e: e.path)
    opened = _to_open(changes, current, gone)
    final = {e.path: e.mode for e in folders}
    final |= {p: target.entries[p].mode for p, _ in opened if p in target.entries}
    return RestorePlan(
        opened=opened,
        removed=removed,
        directories=[(e.path, e.mode | 0o700) for e in folders],
        files=[e for e in wanted if e.kind == FILE],
        links=[e for e in wanted if e.kind == LINK],
        modes=sorted(final.items(), key=lambda item: item[0], reverse=True),
    )


def _to_open(changes: Sequence[Change], current: Manifest, gone: set[str]) -> list[tuple[str, int]]:
    """Directories in which something changes, and which don't let us."""
    parents = {parent for c in changes for parent in _ancestors(c.path)}
    below = {path for path in current.entries if _has_ancestor(path, gone) or path in gone}
    found = [current.entries[p] for p in sorted(parents | below) if p in current.entries]
    return [
        (e.path, e.mode | 0o700) for e in found if e.kind == DIRECTORY and e.mode & 0o700 != 0o700
    ]


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _has_ancestor(path: str, paths: set[str]) -> bool:
    return bool(paths) and any(parent in paths for parent in _ancestors(path))


def _topmost(paths: Iterable[str]) -> list[str]:
    kept: set[str] = set()
    for path in sorted(paths):
        if not _has_ancestor(path, kept):
            kept.add(path)
    return sorted(kept)


def name_of(path: str) -> str:
    """A path as text that can be shown and encoded; bytes that are none are named."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def describe_mode(entry: CopyEntry) -> str:
    """`0644`, and so on."""
    return f"{entry.mode & 0o7777:04o}"


def parse_listed(row: Sequence[Any]) -> CopyEntry:
    """An entry as a runner lists it.

    Raises:
        ValueError: it is none, or its path leads out.
    """
    path, kind, size, modified, mode, target = row
    numbers = (size, modified, mode)
    is_typed = (
        isinstance(path, str)
        and kind in {FILE, DIRECTORY, LINK, OTHER}
        and all(type(n) is int and -(2**63) <= n < 2**63 for n in numbers)
        and size >= 0
        and (target is None or (isinstance(target, str) and len(target) <= MAX_PATH_CHARS))
    )
    if not is_typed or not is_inside(path):
        msg = "the runner listed something that is no entry"
        raise ValueError(msg)
    return CopyEntry(
        path=path,
        kind=kind,
        size_bytes=size,
        modified_ns=modified,
        mode=mode & 0o7777,
        target=target if kind == LINK else None,
    )
