"""Copies of workspaces on the host: contents by their digest, manifests by theirs, a folder a room.

    STATE_DIR/snapshots/SLUG/blobs/ab/ab12…     a file's content
    STATE_DIR/snapshots/SLUG/manifests/cd34…    what a workspace held, naming contents

Rules: no room sees or reaches any of it; each file is made under another name and renamed, so that
what has its name is whole. Contents are not forced to the disk one by one (a repository has
thousands): one that a loss of power damaged has not its digest any more, counts as missing, and is
never given out. What no row of the table names is removed by `collect`. All of it blocks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.workspace_copy import Manifest, decode_manifest, encode_manifest
from orchestrator.model import RoomSlug
from orchestrator.private_file import write_private

_DIRECTORY_MODE = 0o700
_NEW = ".new"


@dataclass(frozen=True, slots=True)
class CopyFiles:
    """All rooms' copies below one directory. Every method may raise OSError."""

    root: Path

    def slugs(self) -> list[str]:
        """Rooms that have something here."""
        return sorted(entry.name for entry in self.root.iterdir()) if self.root.is_dir() else []

    def remove(self, slug: str) -> None:
        """All of a room's. Idempotent."""
        shutil.rmtree(self.root / slug, ignore_errors=True)

    def writer(self, slug: RoomSlug) -> BlobWriter:
        """For one content, in pieces."""
        return BlobWriter(self.root / slug / "blobs")

    def has(self, slug: RoomSlug, digest: str, size_bytes: int) -> bool:
        """Whether a content is here, as far as its size says."""
        return _is_whole(self._blob(slug, digest), size_bytes)

    def get(self, slug: RoomSlug, digest: str) -> bytes | None:
        """A content; None where it is missing or damaged."""
        try:
            data = self._blob(slug, digest).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def is_intact(self, slug: RoomSlug, digest: str) -> bool:
        """Whether a content is here, and what it was."""
        found = hashlib.sha256()
        try:
            for piece in self.pieces(slug, digest, size_bytes=1 << 20):
                found.update(piece)
        except FileNotFoundError:
            return False
        return found.hexdigest() == digest

    def pieces(self, slug: RoomSlug, digest: str, *, size_bytes: int) -> Iterator[bytes]:
        """A content, not checked, in pieces of this size."""
        with self._blob(slug, digest).open("rb") as file:
            while piece := file.read(size_bytes):
                yield piece

    def put_manifest(self, slug: RoomSlug, manifest: Manifest) -> str:
        """Keep a manifest, on the disk when it returns; its digest."""
        data = encode_manifest(manifest)
        digest = hashlib.sha256(data).hexdigest()
        path = self._manifest(slug, digest)
        if not _is_whole(path, len(data)):
            _ensure_directory(path.parent)
            write_private(path, data)
        return digest

    def get_manifest(self, slug: RoomSlug, digest: str) -> Manifest | None:
        """A manifest; None where it is missing or damaged."""
        try:
            data = self._manifest(slug, digest).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        try:
            return decode_manifest(data)
        except (ValueError, zlib.error):
            return None

    def collect(self, slug: RoomSlug, manifests: Collection[str]) -> None:
        """Remove what these manifests don't name, and what was left half made."""
        needed: set[str] = set()
        for digest in manifests:
            kept = self.get_manifest(slug, digest)
            needed |= kept.blobs if kept else frozenset()
        _remove_others(self._files(slug, "manifests/*"), manifests)
        _remove_others(self._files(slug, "blobs/*/*"), needed)
        _remove_others(self._files(slug, f"blobs/*{_NEW}"), ())

    def blob_bytes(self, slug: RoomSlug, manifests: Iterable[str]) -> int:
        """What the contents that these manifests name take, each counted once."""
        sizes: dict[str, int] = {}
        for digest in manifests:
            manifest = self.get_manifest(slug, digest)
            for entry in manifest.entries.values() if manifest else ():
                if entry.sha256:
                    sizes[entry.sha256] = entry.size_bytes
        return sum(sizes.values())

    def _files(self, slug: RoomSlug, pattern: str) -> list[Path]:
        return list((self.root / slug).glob(pattern))

    def _blob(self, slug: RoomSlug, digest: str) -> Path:
        return self.root / slug / "blobs" / digest[:2] / digest

    def _manifest(self, slug: RoomSlug, digest: str) -> Path:
        return self.root / slug / "manifests" / digest


class BlobWriter:
    """Takes a content in pieces; it exists once `keep` was called. All of it may raise OSError."""

    def __init__(self, folder: Path) -> None:
        _ensure_directory(folder)
        self._folder = folder
        self._new = folder / f"{secrets.token_hex(8)}{_NEW}"
        self._digest = hashlib.sha256()
        self._file = os.fdopen(
            os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        )
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<BlobWriter {self.size_bytes}>"

    def add(self, piece: bytes) -> None:
        """Some more."""
        self._digest.update(piece)
        self._file.write(piece)
        self.size_bytes += len(piece)

    def keep(self) -> str:
        """All of it is there; its digest."""
        self._file.close()
        digest = self._digest.hexdigest()
        path = self._folder / digest[:2] / digest
        if _is_whole(path, self.size_bytes):
            self._new.unlink()
        else:
            _ensure_directory(path.parent)
            self._new.replace(path)
        return digest

    def drop(self) -> None:
        """It comes to nothing."""
        self._file.close()
        self._new.unlink(missing_ok=True)


def _is_whole(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False


def _ensure_directory(path: Path) -> None:
    if not path.is_dir():
        _ensure_directory(path.parent)
        path.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)


def _remove_others(paths: Iterable[Path], kept: Collection[str]) -> None:
    for path in paths:
        if path.name not in kept:
            path.unlink(missing_ok=True)
