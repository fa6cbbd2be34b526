"""`!diff`: what changed in the workspace since before the last turns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orchestrator.core.chunking import split_for_event
from orchestrator.core.texts import workspace as texts
from orchestrator.core.workspace_copy import FILE, Change, CopyEntry, compare
from orchestrator.core.workspace_diff import (
    MAX_TEXT_BYTES,
    Changed,
    WorkspaceDiff,
    build_diff,
    fence,
    is_of_git,
)
from orchestrator.model import RoomSlug
from orchestrator.rooms.errand import Answer, ErrandWork, fail, refuse
from orchestrator.rooms.outgoing_file import OutFile
from orchestrator.store.copy_files import CopyFiles

_MOST_DIGITS = 3
# As many messages as an answer of a command may take; a longer diff is a file.
_MOST_MESSAGES = 2
# Of contents that are compared at once.
_MOST_BYTES = 32 << 20


async def diff(work: ErrandWork) -> Answer:
    """Compare, as the argument says."""
    argument = work.errand.argument or "1"
    if not (argument.isascii() and argument.isdecimal() and len(argument) <= _MOST_DIGITS):
        return refuse(texts.DIFF_USAGE)
    turns = int(argument)
    if turns == 0:
        return refuse(texts.DIFF_USAGE)
    if work.profile.snapshots.keep == 0:
        return refuse(texts.OFF)
    rows = await work.kit.store.copies.of_room(work.room.slug)
    if not rows:
        return refuse(texts.NO_TURN)
    if turns > len(rows):
        return refuse(texts.too_far(turns, len(rows)))
    row = rows[turns - 1]
    if row.manifest is None:
        return refuse(texts.no_copy(row.missing or "", what="!diff"))
    running = await work.kit.store.turns.get(row.turn_id)
    since = texts.since(turns, is_running=running is not None and running.ended_at is None)
    connection = await work.connect()
    async with work.copies.held():
        captured = await work.copies.capture(work.profile.snapshots, connection)
        files, slug = work.kit.copies, work.room.slug
        before = await asyncio.to_thread(files.get_manifest, slug, row.manifest)
        if before is None:
            return fail(texts.COPY_GONE)
        changes = compare(before, captured.manifest)
        found = await asyncio.to_thread(_compare, files, slug, changes, since)
    return await asyncio.to_thread(_render, found, work.kit.config.gateway.max_event_bytes)


def _compare(
    files: CopyFiles, slug: RoomSlug, changes: Sequence[Change], since: str
) -> WorkspaceDiff:
    left = _MOST_BYTES
    changed: list[Changed] = []
    for change in changes:
        sides = (change.before, change.after)
        size = sum(side.size_bytes for side in sides if side is not None)
        is_shown = size <= left and not is_of_git(change.path)
        left -= size if is_shown else 0
        before, after = (_read(files, slug, side) if is_shown else None for side in sides)
        changed.append(Changed(change=change, before=before, after=after))
    return build_diff(changed, since=since)


def _read(files: CopyFiles, slug: RoomSlug, entry: CopyEntry | None) -> bytes | None:
    if entry is None or entry.kind != FILE or entry.sha256 is None:
        return None
    return None if entry.size_bytes > MAX_TEXT_BYTES else files.get(slug, entry.sha256)


def _render(found: WorkspaceDiff, max_event_bytes: int) -> Answer:
    """As messages, or the summary as one and the diff as a file."""
    if not found.diff:
        return Answer(text=found.summary)
    whole = f"{found.summary}\n\n{fence(found.diff)}"
    is_short = len(whole) < _MOST_MESSAGES * max_event_bytes
    if is_short:
        contents = split_for_event(whole, max_event_bytes=max_event_bytes, notice=True)
        if len(contents) <= _MOST_MESSAGES:
            return Answer(text=whole)
    data = (found.diff + "\n").encode("utf-8", "replace")
    text = f"{found.summary}\n\n{texts.diff_in_file(len(data))}"
    file = OutFile(name="changes.diff", data=data)
    return Answer(text=text, file=file)
