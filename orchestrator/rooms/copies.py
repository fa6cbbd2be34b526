"""A room's copies of its workspace: taken before each turn, looked at after it, led back to.

Rules: a turn is not offered before its copy is whole, or is known not to be; a turn never fails for
want of a copy, and waits for one only so long. What looks unchanged is not read again, so that a
turn mostly pays for a list. Old copies are let go after a turn, when nobody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loguru import logger

from orchestrator.core.texts import workspace as texts
from orchestrator.core.workspace_copy import (
    FILE,
    CopyEntry,
    Manifest,
    RestorePlan,
    build_manifest,
    note_read,
    plan_capture,
)
from orchestrator.errors import FileRefusedError, RunnerError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.model import RoomSlug
from orchestrator.room_profile import SnapshotsConfig
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.kit import Kit
from orchestrator.runners.file_client import PIECE_BYTES, FileClient, Piece
from orchestrator.store.api import RoomRow, SessionRow, TurnRow
from orchestrator.store.copy_files import BlobWriter, CopyFiles

# A warm workspace takes some 10 ms. What a turn left behind is read when it has ended; who writes
# again at once waits for it so long, and then goes without a copy.
BEFORE_S = 20.0
_AFTER_S = 900.0
_BATCH_BYTES = 8 << 20
_BATCH_PATHS = 200
_FLUSH_BYTES = 4 << 20
# Of all copies of a room together, of `snapshots.max_size`.
_MOST_SIZES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What a workspace holds now; `digest` names it in the store."""

    manifest: Manifest
    digest: str


class RoomCopies:
    """Invariant: one at a time reads, restores or lets go of a room's copies."""

    def __init__(self, room: RoomRow, kit: Kit) -> None:
        self._room_id = room.room_id
        self._slug = room.slug
        self._kit = kit
        self._files: CopyFiles = kit.copies
        self._lock = asyncio.Lock()
        self._limit: asyncio.Timeout | None = None
        self._seen = build_manifest([])
        self._ended: tuple[TurnRow, SnapshotsConfig, Connection] | None = None
        self._wake = asyncio.Event()
        self._log = logger.bind(room=room.room_id)

    def __repr__(self) -> str:
        return f"<RoomCopies {self._room_id} busy={self._lock.locked()}>"

    # Around a turn...

    async def take_before(
        self,
        turn: TurnRow,
        settings: SnapshotsConfig,
        *,
        session: SessionRow,
        connection: Connection | None,
        is_shared: bool = False,
    ) -> None:
        """Copy the workspace as it is before the turn; where that can't be, note why.

        It can't be of what another turn changes (`is_shared`).
        """
        self._ended = None
        if settings.keep == 0 or connection is None:
            return
        nothing: tuple[str | None, str | None] = (None, texts.COPY_SHARED)
        manifest, missing = nothing if is_shared else await self._try(settings, connection)
        reach(FaultPoint.COPY_TAKEN)
        await self._kit.store.copies.add(
            self._slug,
            turn.turn_id,
            session=turn.session,
            session_id=session.session_id,
            manifest=manifest,
            missing=missing,
            now=self._kit.wall_clock(),
        )
        reach(FaultPoint.COPY_STORED)

    async def _try(
        self,
        settings: SnapshotsConfig,
        connection: Connection,
    ) -> tuple[str | None, str | None]:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(BEFORE_S) as self._limit, self._lock:
                captured = await self.capture(settings, connection)
        except TimeoutError:
            return None, texts.COPY_TOO_SLOW
        except FileRefusedError as e:
            return None, str(e)
        except RunnerError as e:
            self._log.bind(action="copy.failed", error=type(e).__name__).warning("no copy")
            return None, texts.COPY_RUNNER
        except OSError as e:
            self._log.bind(action="copy.failed", error=type(e).__name__).error("no copy")
            return None, texts.COPY_HOST
        finally:
            self._limit = None
        took_s = asyncio.get_running_loop().time() - started
        self._log.bind(
            action="copy.taken", entries=len(captured.manifest.entries), seconds=round(took_s, 3)
        ).debug("copied")
        return captured.digest, None

    def hurry(self) -> None:
        """The turn is cancelled: whatever it waits for here, it waits no longer."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    @property
    def is_at_work(self) -> bool:
        """Whether one is being made, or about to be."""
        return self._lock.locked() or self._wake.is_set()

    def note_ended(
        self,
        turn: TurnRow,
        settings: SnapshotsConfig,
        connection: Connection | None,
    ) -> None:
        """The turn has ended: what it left is looked at beside what comes next."""
        if settings.keep and connection is not None and not connection.lost:
            self._ended = (turn, settings, connection)
            self._wake.set()

    async def run(self) -> None:
        """Look at what turns left, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._ended is not None:
                await self._look_after(*self._ended)

    async def _look_after(
        self, turn: TurnRow, settings: SnapshotsConfig, connection: Connection
    ) -> None:
        try:
            async with asyncio.timeout(_AFTER_S), self._lock:
                if self._ended is None:
                    return
                captured = await self.capture(settings, connection)
                if self._ended is not None:  # else another turn works on it by now
                    await self._kit.store.copies.note_after(
                        self._slug, turn.turn_id, captured.digest
                    )
                await self._let_go(settings, also=captured.digest)
        except (TimeoutError, FileRefusedError, RunnerError, OSError) as e:
            self._log.bind(action="copy.after", error=type(e).__name__).debug("not looked at")

    async def _let_go(self, settings: SnapshotsConfig, *, also: str) -> None:
        """Keep `also` and the last turns' copies, as far as they stay within their size."""
        table = self._kit.store.copies
        await table.keep_last(self._slug, settings.keep)
        rows = await table.of_room(self._slug)
        undone = await table.undone(self._slug)
        kept = {also, undone} if undone else {also}
        count = 0
        for row in rows:
            more = {digest for digest in (row.manifest, row.after) if digest}
            size = await asyncio.to_thread(self._files.blob_bytes, self._slug, kept | more)
            if count and size > _MOST_SIZES * settings.max_size:
                break
            kept |= more
            count += 1
        if count < len(rows):
            await table.keep_last(self._slug, count)
        await asyncio.to_thread(self._files.collect, self._slug, kept)

    # For whoever holds the copies...

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nobody else reads or changes them meanwhile."""
        async with self._lock:
            yield

    async def capture(self, settings: SnapshotsConfig, connection: Connection) -> Captured:
        """Copy what the workspace holds now. Only while the copies are held.

        Raises:
            FileRefusedError: it is too large to be copied.
            RunnerError: the runner does not answer.
            OSError: the host's disk does not take it.
        """
        files = files_of(connection)
        listing = await files.entries()
        total = sum(entry.size_bytes for entry in listing if entry.kind == FILE)
        if total > settings.max_size:
            raise FileRefusedError(texts.copy_too_large(total, settings.max_size))
        plan = plan_capture(listing, self._seen if self._seen.entries else await self._last())
        entries = list(plan.known)
        if plan.wanted:
            entries += await self._read(files, plan.wanted, settings.max_size)
        manifest = build_manifest(entries)
        digest = await asyncio.to_thread(self._files.put_manifest, self._slug, manifest)
        self._seen = manifest
        return Captured(manifest=manifest, digest=digest)

    async def _last(self) -> Manifest | None:
        rows = await self._kit.store.copies.of_room(self._slug)
        digest = next(
            (row.after or row.manifest for row in rows if row.after or row.manifest), None
        )
        if digest is None:
            return None
        return await asyncio.to_thread(self._files.get_manifest, self._slug, digest)

    async def _read(
        self, files: FileClient, wanted: Sequence[CopyEntry], max_size: int
    ) -> list[CopyEntry]:
        """The entries with their contents, as far as they can be read."""
        sink, now_ns = _Sink(self._files, self._slug), int(self._kit.wall_clock() * 1e9)
        try:
            for batch in _batches(wanted):
                by_path = {entry.path: entry for entry in batch}
                async for piece in files.pieces(list(by_path), max_bytes=max_size):
                    if sink.add(by_path[piece.path], piece):
                        await asyncio.to_thread(sink.flush)
            await asyncio.to_thread(sink.flush)
        finally:
            sink.close()
            found = [
                note_read(entry, sha256, size, now_ns=now_ns) for entry, sha256, size in sink.done
            ]
            # What was read is not read again, should it not come to a copy now.
            self._seen = build_manifest([*self._seen.entries.values(), *found])
        return [*found, *sink.unread]

    async def find_damaged(self, plan: RestorePlan) -> str | None:
        """A path whose content is not here, of those that the plan needs."""

        def look() -> str | None:
            for entry in plan.files:
                if entry.sha256 is None or not self._files.is_intact(self._slug, entry.sha256):
                    return entry.path
            return None

        return await asyncio.to_thread(look)

    async def restore(self, plan: RestorePlan, connection: Connection) -> None:
        """Make the steps, each of which can be repeated. Only while the copies are held."""
        files = files_of(connection)
        for path, mode in plan.opened:
            await files.make_directory(path, mode=mode)
        for path in plan.removed:
            await files.remove(path)
        for path, mode in plan.directories:
            await files.make_directory(path, mode=mode)
        for entry in plan.files:
            pieces = self._files.pieces(self._slug, entry.sha256 or "", size_bytes=PIECE_BYTES)
            await files.write_pieces(entry.path, pieces, mode=entry.mode)
        for entry in plan.links:
            await files.link(entry.path, entry.target or "")
        for path, mode in plan.modes:
            await files.make_directory(path, mode=mode)
        self._seen = build_manifest([])


class _Sink:
    """Gathers pieces, and writes many of them at once. `done` has entry, digest and size."""

    def __init__(self, files: CopyFiles, slug: RoomSlug) -> None:
        self.done: list[tuple[CopyEntry, str, int]] = []
        self.unread: list[CopyEntry] = []
        """What is there, and could not be read."""
        self._files = files
        self._slug = slug
        self._writer: BlobWriter | None = None
        self._waiting: list[tuple[CopyEntry, Piece]] = []
        self._bytes = 0

    def add(self, entry: CopyEntry, piece: Piece) -> bool:
        """Take a piece; whether it is time to write."""
        self._waiting.append((entry, piece))
        self._bytes += len(piece.data)
        return self._bytes >= _FLUSH_BYTES

    def flush(self) -> None:
        """Write what waits; blocks."""
        for entry, piece in self._waiting:
            if piece.refused is not None:
                self.close()
                self.unread.append(entry)
                continue
            self._writer = self._writer or self._files.writer(self._slug)
            self._writer.add(piece.data)
            if piece.is_last:
                writer, self._writer = self._writer, None
                self.done.append((entry, writer.keep(), writer.size_bytes))
        self._waiting.clear()
        self._bytes = 0

    def close(self) -> None:
        """Drop what is not whole."""
        if self._writer is not None:
            self._writer.drop()
            self._writer = None


def files_of(connection: Connection) -> FileClient:
    """The room's files.

    Raises:
        RunnerError: there is no connection.
    """
    if connection.files is None or connection.lost:
        msg = "there is no connection to the room's runner"
        raise RunnerError(msg)
    return connection.files


def _batches(entries: Sequence[CopyEntry]) -> Iterator[list[CopyEntry]]:
    """As much as may wait in memory at once; a file that is larger comes alone."""
    batch: list[CopyEntry] = []
    size = 0
    for entry in entries:
        if batch and (size + entry.size_bytes > _BATCH_BYTES or len(batch) >= _BATCH_PATHS):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size_bytes
    if batch:
        yield batch
