"""The tables `sessions` and `past_sessions`: the CLI's session behind each conversation of a room.

Rule: a session that has had a message keeps its number for as long as its room is known, so that
`!resume` means the same whenever it is said.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.quoting import quote
from orchestrator.core.thread import thread_of
from orchestrator.model import RoomId, SessionId
from orchestrator.store.api import SessionRow, TurnRow
from orchestrator.store.database import Database

_COLUMNS = "session, session_id, resumable, command, forks"
_PAST = "number, session_id, conversation, title, turns, used_at"
_TITLE_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class PastSession:
    """A session that has had a message."""

    number: int
    session_id: SessionId
    conversation: str
    """Where it was held at first."""
    title: str
    """The beginning of its first message, quoted for Markdown."""
    turns: int
    used_at: float
    """Unix time of its last turn's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What came of the wish to go on with a session."""

    past: PastSession
    is_here: bool = False
    """It is the conversation's already."""
    is_copy: bool = False


class SessionTable:
    """The sessions of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, room_id: RoomId, session: str) -> SessionRow | None:
        """The CLI's session behind a conversation of a room, or None before its first turn."""
        return (await self.of_room(room_id)).get(session)

    async def of_room(self, room_id: RoomId) -> Mapping[str, SessionRow]:
        """The sessions of all conversations of a room, by the conversation's name."""
        return await self._database.run(lambda db: _of_room(db, room_id))

    async def put(self, session: SessionRow) -> None:
        """Replace the session of a conversation."""
        await self._database.run(lambda db: _put(db, session))

    async def past(self, room_id: RoomId, *, limit: int) -> Sequence[PastSession]:
        """The sessions that a room has had, the last used first."""

        def work(db: sqlite3.Connection) -> list[PastSession]:
            query = (
                f"SELECT {_PAST} FROM past_sessions WHERE room_id = ? "  # noqa: S608 - constants
                "ORDER BY used_at DESC, number DESC LIMIT ?"
            )
            return [_past(*values) for values in db.execute(query, (room_id, limit))]

        return await self._database.run(work)


def drop_session(db: sqlite3.Connection, room_id: RoomId, session: str) -> None:
    """Forget a conversation's session: the next turn starts a new one.

    In a thread too, whose first one was a copy of the room's.
    """
    if thread_of(session) is None:
        db.execute("DELETE FROM sessions WHERE room_id = ? AND session = ?", (room_id, session))
    else:
        _put(db, _blank(room_id, session))


def resume_session(
    db: sqlite3.Connection, room_id: RoomId, session: str, number: int
) -> Resumed | None:
    """Go on with an earlier session in a conversation; None: the room has none of this number.

    Where another conversation goes on with it too, this one begins as a copy of it.
    """
    query = f"SELECT {_PAST} FROM past_sessions WHERE room_id = ? AND number = ?"  # noqa: S608 - constants
    found = db.execute(query, (room_id, number)).fetchone()
    if found is None:
        return None
    past, stored = _past(*found), _of_room(db, room_id)
    own = stored.pop(session, None)
    if own is not None and own.resumable and own.session_id == past.session_id:
        return Resumed(past=past, is_here=True)
    blank = _blank(room_id, session)
    is_copy = any(past.session_id in (other.session_id, other.forks) for other in stored.values())
    is_copy = is_copy or _is_worked_in(db, room_id, session, past.session_id)
    if is_copy:
        _put(db, replace(blank, forks=past.session_id))
    else:
        _put(db, replace(blank, session_id=past.session_id, resumable=True))
    return Resumed(past=past, is_copy=is_copy)


def _is_worked_in(
    db: sqlite3.Connection, room_id: RoomId, session: str, session_id: SessionId
) -> bool:
    """Whether a turn of another conversation has begun in it, and not ended."""
    query = (
        "SELECT 1 FROM turns WHERE room_id = ? AND state <> 'ended' AND state <> 'queued' "
        "AND session <> ? AND session_id = ?"
    )
    return db.execute(query, (room_id, session, session_id)).fetchone() is not None


def note_seen(db: sqlite3.Connection, turn: TurnRow, session_id: SessionId, *, now: float) -> None:
    """A session has a turn's message: it can be resumed, and is one that the room has had."""
    db.execute(
        "UPDATE sessions SET resumable = 1 WHERE room_id = ? AND session_id = ?",
        (turn.room_id, session_id),
    )
    db.execute(
        "INSERT INTO past_sessions (room_id, number, session_id, conversation, title, turns, "
        "began_at, used_at) VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM past_sessions "
        "WHERE room_id = ?1), ?2, ?3, ?4, 1, ?5, ?5) ON CONFLICT (room_id, session_id) "
        "DO UPDATE SET turns = turns + 1, used_at = excluded.used_at",
        (
            turn.room_id,
            session_id,
            turn.session,
            quote(turn.prompt, max_chars=_TITLE_CHARS),
            now,
        ),
    )


def _of_room(db: sqlite3.Connection, room_id: RoomId) -> dict[str, SessionRow]:
    query = f"SELECT {_COLUMNS} FROM sessions WHERE room_id = ?"  # noqa: S608 - constants
    rows = [_row(room_id, *values) for values in db.execute(query, (room_id,))]
    return {row.session: row for row in rows}


def _blank(room_id: RoomId, session: str) -> SessionRow:
    session_id = SessionId(str(uuid.uuid4()))
    return SessionRow(room_id=room_id, session=session, session_id=session_id, resumable=False)


def _row(
    room_id: RoomId,
    session: str,
    session_id: str,
    resumable: int,
    command: str,
    forks: str | None,
) -> SessionRow:
    return SessionRow(
        room_id=room_id,
        session=session,
        session_id=SessionId(session_id),
        resumable=bool(resumable),
        command=command,
        forks=None if forks is None else SessionId(forks),
    )


def _past(
    number: int, session_id: str, conversation: str, title: str, turns: int, used_at: float
) -> PastSession:
    return PastSession(
        number=number,
        session_id=SessionId(session_id),
        conversation=conversation,
        title=title,
        turns=turns,
        used_at=used_at,
    )


def _put(db: sqlite3.Connection, session: SessionRow) -> None:
    db.execute(
        "INSERT INTO sessions (room_id, session, session_id, resumable, command, forks) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (room_id, session) "
        "DO UPDATE SET session_id = excluded.session_id, resumable = excluded.resumable, "
        "command = excluded.command, forks = excluded.forks",
        (
            session.room_id,
            session.session,
            session.session_id,
            session.resumable,
            session.command,
            session.forks,
        ),
    )
