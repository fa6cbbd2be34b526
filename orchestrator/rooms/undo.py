"""`!undo`: the workspace and the conversation as they were before the last turn.

In this order, so that a crash anywhere can be gone on from: look, and change nothing while anything
needed is missing; keep what is there now; take the message out of the conversation; bring the files
back; forget the turn's copy together with the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.cli_input import message_uuid
from orchestrator.core.rewind import Rewound, build_rewind, parse_rewound
from orchestrator.core.texts import workspace as texts
from orchestrator.core.thread import MAIN
from orchestrator.core.workspace_copy import (
    OTHER,
    Change,
    Manifest,
    RestorePlan,
    build_manifest,
    compare,
    plan_restore,
)
from orchestrator.errors import FileRefusedError, RunnerError
from orchestrator.model import SessionId
from orchestrator.rooms.cli_session import CliSessions
from orchestrator.rooms.connection import Connection, Item, LinkLost
from orchestrator.rooms.copies import files_of
from orchestrator.rooms.errand import Answer, ErrandWork, fail, refuse
from orchestrator.rooms.room_runner import TROUBLE
from orchestrator.runners.event import CliLine, SessionExited
from orchestrator.store.copy_table import CopyRow, drop_copy, note_undone

# A resumed CLI reads its whole session first.
_REWIND_S = 60.0
_REWOUND = "rewound:"
_ATTEMPTS = 4


async def undo(work: ErrandWork) -> Answer:
    """Take the last turn back, as the argument says."""
    argument = work.errand.argument
    if argument not in {"", "files", "back"}:
        return refuse(texts.UNDO_USAGE)
    if work.profile.snapshots.keep == 0:
        return refuse(texts.OFF)
    async with work.copies.held():
        if argument == "back":
            return await _bring_back(work)
        return await _take_back(work, keeps_conversation=argument == "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """From what is there to what was there."""

    changes: Sequence[Change]
    plan: RestorePlan
    kept: str | None
    """What is there now, as a copy; None where it can't be copied."""
    current: Manifest


async def _take_back(work: ErrandWork, *, keeps_conversation: bool) -> Answer:
    rows = await work.kit.store.copies.of_room(work.room.slug)
    if not rows:
        return refuse(texts.NOTHING_TO_UNDO)
    row = rows[0]
    if row.manifest is None:
        return refuse(texts.no_copy(row.missing or "", what="!undo"))
    connection = await work.connect()
    way = await _find_way(work, row.manifest, connection)
    if way is None:
        return fail(texts.COPY_GONE)
    others = await _changed_by_others(work, row, way)
    rewound = None if keeps_conversation else await _rewind_once(work, row, connection)
    if rewound is Rewound.REFUSED:
        return fail(texts.REWIND_REFUSED)
    if (partly := await _restore(work, way.plan, connection)) is not None:
        return partly
    turn = await work.kit.store.turns.get(row.turn_id)
    session = await work.kit.store.sessions.get(work.room.room_id, row.session)
    changed, removed = _names(way.changes)
    told = texts.Undone(
        prompt=turn.prompt if turn else "",
        changed=changed,
        removed=removed,
        others=others,
        rewound=rewound,
        is_new_conversation=session is None or session.session_id != row.session_id,
        can_go_back=way.kept is not None,
        has_threads=any(other.session != MAIN for other in rows),
    )
    slug, kept = work.room.slug, way.kept if changed or removed else None

    def effect(db: sqlite3.Connection) -> None:
        drop_copy(db, slug, row.turn_id, undone=kept)

    return Answer(text=texts.undone(told), effect=effect)


async def _bring_back(work: ErrandWork) -> Answer:
    digest = await work.kit.store.copies.undone(work.room.slug)
    if digest is None:
        return refuse(texts.NOTHING_TO_BRING_BACK)
    connection = await work.connect()
    way = await _find_way(work, digest, connection)
    if way is None:
        return fail(texts.COPY_GONE)
    if (partly := await _restore(work, way.plan, connection)) is not None:
        return partly
    slug = work.room.slug

    def effect(db: sqlite3.Connection) -> None:
        note_undone(db, slug, None)

    return Answer(text=texts.brought_back(*_names(way.changes)), effect=effect)


async def _find_way(work: ErrandWork, digest: str, connection: Connection) -> _Way | None:
    """None: the copy is not whole."""
    target = await asyncio.to_thread(work.kit.copies.get_manifest, work.room.slug, digest)
    if target is None:
        return None
    try:
        captured = await work.copies.capture(work.profile.snapshots, connection)
        current, kept = captured.manifest, captured.digest
    except FileRefusedError:
        # Grown too large to be copied: what it was is known all the same. The list must be.
        current, kept = build_manifest(await files_of(connection).entries()), None
    plan = plan_restore(target, current)
    if await work.copies.find_damaged(plan) is not None:
        return None
    return _Way(changes=compare(target, current), plan=plan, kept=kept, current=current)


async def _restore(work: ErrandWork, plan: RestorePlan, connection: Connection) -> Answer | None:
    """Make all steps, over another connection where one is lost; what is said where that fails."""
    for attempt in range(_ATTEMPTS):
        try:
            await work.copies.restore(plan, connection)
        except FileRefusedError as e:
            return fail(texts.undone_partly(str(e)))
        except TROUBLE as e:
            if attempt == _ATTEMPTS - 1:
                return fail(texts.undone_partly(str(e)))
            await asyncio.sleep(attempt + 1)
            with contextlib.suppress(*TROUBLE):
                connection = await work.connect()
        else:
            break
    return None


async def _changed_by_others(work: ErrandWork, row: CopyRow, way: _Way) -> list[str]:
    """Of what is led back, what was changed after the turn had ended, by nothing that we know."""
    if row.after is None:
        return []
    after = await asyncio.to_thread(work.kit.copies.get_manifest, work.room.slug, row.after)
    if after is None:
        return []
    later = {change.path for change in compare(after, way.current) if not _is_folder(change)}
    return [change.path for change in way.changes if change.path in later]


def _names(changes: Sequence[Change]) -> tuple[list[str], list[str]]:
    """What is made as it was, and what goes; folders where nothing else says so."""
    files = [change for change in changes if not _is_folder(change)] or list(changes)
    changed = [c.path for c in files if c.before is not None]
    removed = [c.path for c in files if c.before is None and c.after and c.after.kind != OTHER]
    return changed, removed


def _is_folder(change: Change) -> bool:
    sides = [side.kind for side in (change.before, change.after) if side is not None]
    return set(sides) == {"directory"}


# The conversation...


async def _rewind_once(work: ErrandWork, row: CopyRow, connection: Connection) -> Rewound:
    """Take the turn's message out, unless an earlier life of this errand did."""
    known = work.errand.progress
    if known.startswith(_REWOUND):
        return Rewound(known.removeprefix(_REWOUND))
    rewound = await _rewind(work, row, connection)
    if rewound is not Rewound.REFUSED:
        await work.note_progress(f"{_REWOUND}{rewound}")
    return rewound


async def _rewind(work: ErrandWork, row: CopyRow, connection: Connection) -> Rewound:
    session = await work.kit.store.sessions.get(work.room.room_id, row.session)
    if session is None or not session.resumable:
        return Rewound.UNKNOWN
    sessions = CliSessions(work.room.room_id, row.session, work.profile, work.kit, work.runner)
    link = await connection.ready()
    session = await sessions.ensure(link)
    request_id = f"rewind-{uuid.uuid4()}"
    line = build_rewind(request_id, message_uuid=message_uuid(row.turn_id))
    ear = _RewindEar(session.session_id, request_id)
    connection.listeners.add(ear.hear)
    try:
        await link.send_line(f"{request_id}:line", session.session_id, line)
        async with asyncio.timeout(_REWIND_S):
            return await ear.answered
    finally:
        connection.listeners.discard(ear.hear)


class _RewindEar:
    """Waits for the answer to one request."""

    def __init__(self, session: SessionId, request_id: str) -> None:
        self._session = session
        self._request_id = request_id
        self.answered: asyncio.Future[Rewound] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<_RewindEar {self._request_id}>"

    def hear(self, item: Item) -> None:
        """Whatever the runner says."""
        if self.answered.done():
            return
        match item:
            case CliLine() if item.session == self._session:
                rewound = parse_rewound(item.line, self._request_id)
                if rewound is not None:
                    self.answered.set_result(rewound)
            case SessionExited() if item.session == self._session:
                self.answered.set_exception(RunnerError("Claude Code ended before it answered"))
            case LinkLost():
                self.answered.set_exception(RunnerError("the connection to the runner was lost"))
            case _:
                pass
