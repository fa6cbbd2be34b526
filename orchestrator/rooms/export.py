"""`!export`: the conversation and the workspace as one archive, sent into the room.

Nothing goes in that the room does not have: its own workspace, and its own session's file as far as
it is a conversation. Made of the room's copies on the host, in a thread; bounded while it grows.
"""

from __future__ import annotations

import asyncio
import io
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.core.texts import workspace as texts
from orchestrator.core.transcript import Said, read_transcript, render_jsonl, render_markdown
from orchestrator.core.workspace_copy import DIRECTORY, FILE, LINK, CopyEntry, Manifest, name_of
from orchestrator.errors import FileRefusedError
from orchestrator.model import RoomSlug, TurnOutcome
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.copies import files_of
from orchestrator.rooms.errand import Answer, ErrandWork, fail, refuse
from orchestrator.rooms.outgoing_file import OutFile
from orchestrator.store.copy_files import CopyFiles

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Where the CLI keeps a session of /workspace, in the room's home.
_SESSION_FILE = ".claude/projects/-workspace/{}.jsonl"
_MAX_SESSION_BYTES = 32 << 20
"""A longer one's end is taken."""
_PIECE_BYTES = 1 << 20
_FIRST_YEAR = 1980


class _TooLargeError(Exception):
    """The archive met its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Archive:
    data: bytes
    files: int
    left_out: Sequence[str]


async def export(work: ErrandWork) -> Answer:
    """Make it, as the argument says."""
    if work.errand.argument not in {"", "chat"}:
        return refuse(texts.EXPORT_USAGE)
    connection = await work.connect()
    said = await _read_conversation(work, connection)
    async with work.copies.held():
        manifest, why_not = None, None
        if not work.errand.argument:
            try:
                captured = await work.copies.capture(work.profile.snapshots, connection)
                manifest = captured.manifest
            except FileRefusedError as e:
                why_not = str(e)
        if not said and not (manifest and manifest.entries):
            return fail(texts.not_now(why_not)) if why_not else refuse(texts.EXPORT_EMPTY)
        limit, now = work.profile.files.max_size, work.kit.wall_clock()
        try:
            archive = await asyncio.to_thread(
                _build, work.kit.copies, work.room.slug, manifest, said, limit=limit, now=now
            )
        except _TooLargeError:
            return fail(texts.export_too_large(limit))
    name = f"room-{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M}.zip"
    file = OutFile(name=name, data=archive.data)
    if manifest is None and why_not is not None:
        text = texts.export_without_files(why_not)
        return Answer(text=text, file=file, outcome=TurnOutcome.FAILED)
    words = sum(one.kind == "text" for one in said)
    text = texts.exported(files=archive.files, turns=words, left_out=archive.left_out)
    return Answer(text=text, file=file)


async def _read_conversation(work: ErrandWork, connection: Connection) -> list[Said]:
    session = await work.kit.store.sessions.get(work.room.room_id, work.conversation)
    if session is None:
        return []
    path = _SESSION_FILE.format(session.session_id)
    data = bytearray()
    pieces = files_of(connection).pieces(
        [path], max_bytes=_MAX_SESSION_BYTES, root="home", tail=True
    )
    async for piece in pieces:
        if piece.refused is not None:
            return []
        data += piece.data
    return await asyncio.to_thread(lambda: read_transcript(data.decode("utf-8", "replace")))


def _build(
    files: CopyFiles,
    slug: RoomSlug,
    manifest: Manifest | None,
    said: Sequence[Said],
    *,
    limit: int,
    now: float,
) -> _Archive:
    out = _Bounded(limit)
    left_out: list[str] = []
    count = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        if said:
            date = _date(int(now * 1e9))
            markdown = render_markdown(said, title="Conversation")
            for name, text in (("chat.md", markdown), ("chat.jsonl", render_jsonl(said))):
                archive.writestr(_info(name, date, stat.S_IFREG | 0o644), text.encode())
        for entry in manifest.entries.values() if manifest else ():
            if entry.kind == FILE:
                is_in = entry.sha256 is not None and _add_file(archive, files, slug, entry)
                count += is_in
                left_out += [] if is_in else [entry.path]
            elif entry.kind in {DIRECTORY, LINK}:
                _add_other(archive, entry)
    return _Archive(data=out.getvalue(), files=count, left_out=left_out)


def _add_file(archive: zipfile.ZipFile, files: CopyFiles, slug: RoomSlug, entry: CopyEntry) -> bool:
    digest = entry.sha256 or ""
    if not files.has(slug, digest, entry.size_bytes):
        return False
    info = _info(_name(entry), _date(entry.modified_ns), stat.S_IFREG | entry.mode)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.file_size = entry.size_bytes
    with archive.open(info, "w") as target:
        for piece in files.pieces(slug, digest, size_bytes=_PIECE_BYTES):
            target.write(piece)
    return True


def _add_other(archive: zipfile.ZipFile, entry: CopyEntry) -> None:
    date = _date(entry.modified_ns)
    if entry.kind == DIRECTORY:
        archive.writestr(_info(f"{_name(entry)}/", date, stat.S_IFDIR | entry.mode), b"")
    else:
        target = name_of(entry.target or "").encode()
        archive.writestr(_info(_name(entry), date, stat.S_IFLNK | 0o777), target)


def _name(entry: CopyEntry) -> str:
    return f"workspace/{name_of(entry.path)}"


def _info(name: str, date: tuple[int, int, int, int, int, int], mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date)
    info.create_system = 3  # Unix: the mode below counts
    info.external_attr = mode << 16
    return info


def _date(modified_ns: int) -> tuple[int, int, int, int, int, int]:
    """As a zip file can hold it."""
    try:
        when = datetime.fromtimestamp(modified_ns / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        when = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC)
    year = min(max(when.year, _FIRST_YEAR), 2107)
    return (year, when.month, when.day, when.hour, when.minute, when.second)


class _Bounded(io.BytesIO):
    """Raises instead of growing past its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Buffer, /) -> int:
        """As a file does."""
        view = memoryview(data)
        if self.tell() + view.nbytes > self._limit:
            raise _TooLargeError
        return super().write(view)
