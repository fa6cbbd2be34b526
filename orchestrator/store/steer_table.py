"""The table `steers`: messages that go into a running turn.

Rules:
- one that has not left this process when its turn ends becomes a turn of its own, in the
  transaction that ends it;
- one that may have left is the turn's from then on: who takes the turn's message up again asks it
  too.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.naming import turn_id
from orchestrator.core.piece import Pieces, decode_pieces, encode_pieces
from orchestrator.core.steer import SteerState
from orchestrator.model import EventId, RoomId, TurnId, TurnState, UserId
from orchestrator.store.database import Database
from orchestrator.store.new_turn import NewTurn, insert_turn
from orchestrator.store.taken_back import find_taken_back, leave_turn

MOST = 20
"""Into one turn; what comes then waits as usual."""
SENDER = "json_extract(steers.pieces, '$.messages[0][1]')"
"""Whose message it is, in SQL, as `core.piece` writes pieces."""

# A turn that goes on by itself is its first one's people's still; a `!retry` is somebody else's.
_PARTS = """
    WITH RECURSIVE part (turn_id, before) AS (
        SELECT turn_id, iif(resumes > 0, continues, NULL) FROM turns WHERE turn_id = ?
        UNION
        SELECT turns.turn_id, iif(turns.resumes > 0, turns.continues, NULL)
        FROM turns JOIN part ON turns.turn_id = part.before
    )
    SELECT turn_id FROM part
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steer:
    """One message. `position` is its inbox row."""

    event_id: EventId
    turn_id: TurnId
    position: int
    pieces: Pieces
    state: SteerState

    @property
    def message_id(self) -> TurnId:
        """What its uuid is made of. A turn of its own has another one."""
        return TurnId(f"{self.turn_id}+{self.position}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSteer:
    """Messages for a running turn. `inbox` are the rows that they use up."""

    turn_id: TurnId
    pieces: str
    inbox: tuple[int, ...]


class SteerTable:
    """Messages on their way into running turns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: NewSteer) -> bool:
        """Store it and mark its inbox rows used; False: the turn does not run, or takes no more."""
        return await self._database.run(lambda db: add_steer(db, new))

    async def of_turn(self, turn_id: TurnId) -> Sequence[Steer]:
        """Those of a turn, in their order."""
        return await self._database.run(lambda db: _of_turn(db, turn_id))

    async def senders(self, turn_id: TurnId) -> frozenset[UserId]:
        """Whose messages went into a turn, or are to; or into the one that it goes on with."""

        def work(db: sqlite3.Connection) -> frozenset[UserId]:
            parts = [TurnId(part) for (part,) in db.execute(_PARTS, (turn_id,)).fetchall()]
            steers = [one for part in parts for one in _of_turn(db, part)]
            return frozenset(message.sender for one in steers for message in one.pieces.messages)

        return await self._database.run(work)

    async def move(self, steer: Steer, state: SteerState) -> bool:
        """How far it has come; False: it, or a part of it, was taken back since it was read.

        Once it may have left, the turn is asked by its sender, too; no more if it came back.
        """

        def work(db: sqlite3.Connection) -> bool:
            if state is SteerState.OFFERED and not _is_whole(db, steer):
                return False
            cursor = db.execute(
                "UPDATE steers SET state = ? WHERE event_id = ?", (state, steer.event_id)
            )
            if cursor.rowcount and state in (SteerState.OPEN, SteerState.OFFERED):
                _note_asked(db, steer, is_asked=state is SteerState.OFFERED)
            return cursor.rowcount == 1

        return await self._database.run(work)


def add_steer(db: sqlite3.Connection, new: NewSteer) -> bool:
    """Within the caller's transaction; see `SteerTable.add`."""
    running = db.execute(
        "SELECT 1 FROM turns WHERE turn_id = ? AND state IN (?, ?) AND cancelled_by IS NULL",
        (new.turn_id, TurnState.DELIVERING, TurnState.RUNNING),
    ).fetchone()
    (count,) = db.execute(
        "SELECT count(*) FROM steers WHERE turn_id = ?", (new.turn_id,)
    ).fetchone()
    if running is None or count >= MOST:
        return False
    first = decode_pieces(new.pieces).messages[0]
    db.execute(
        "INSERT OR IGNORE INTO steers VALUES (?, ?, ?, ?, ?)",
        (first.event_id, new.turn_id, min(new.inbox), new.pieces, SteerState.OPEN),
    )
    db.executemany(
        "UPDATE inbox SET state = 'used', turn_id = ?, raw = '' WHERE seq = ?",
        [(new.turn_id, seq) for seq in new.inbox],
    )
    return True


def withdraw_steer(db: sqlite3.Connection, turn: TurnId, event_id: EventId) -> bool:
    """A message to the turn that has not left was taken back; False: there is none."""
    for steer in _of_turn(db, turn):
        held = {message.event_id for message in steer.pieces.messages}
        if steer.state is not SteerState.OPEN or event_id not in held:
            continue
        left = steer.pieces.without(event_id)
        if left.messages:
            stored = encode_pieces(left.messages, name_senders=left.name_senders)
            db.execute("UPDATE steers SET pieces = ? WHERE event_id = ?", (stored, steer.event_id))
        else:
            db.execute("DELETE FROM steers WHERE event_id = ?", (steer.event_id,))
        leave_turn(db, event_id)
        return True
    return False


def requeue_steers(db: sqlite3.Connection, ended: TurnId, *, now: float) -> None:
    """What has not left when its turn ends waits as a turn of its own. What has left is over."""
    for steer in _of_turn(db, ended):
        if steer.state is SteerState.OPEN:
            if (left := _leave_out(db, steer)) is not None:
                _queue(db, left, now=now)
            db.execute("DELETE FROM steers WHERE event_id = ?", (steer.event_id,))


def take_over_steers(db: sqlite3.Connection, old: TurnId, new: TurnId) -> None:
    """The turn that takes up a message again asks what went into the running one, too."""
    steers = find_gone_in(db, old)
    if not steers:
        return
    prompt, stored = db.execute(
        "SELECT prompt, pieces FROM turns WHERE turn_id = ?", (new,)
    ).fetchone()
    pieces = decode_pieces(stored)
    messages = [*pieces.messages, *(m for one in steers for m in one.pieces.messages)]
    if prompt and not pieces.messages:
        # A turn that no message asked for, a schedule's say, has its words alone.
        words = "\n\n".join(one.pieces.prompt for one in steers)
        db.execute(
            "UPDATE turns SET prompt = prompt || char(10, 10) || ? WHERE turn_id = ?", (words, new)
        )
        return
    named = pieces.name_senders or any(one.pieces.name_senders for one in steers)
    whole = replace(pieces, messages=tuple(messages), name_senders=named)
    db.execute(
        "UPDATE turns SET prompt = ?, pieces = ? WHERE turn_id = ?",
        (whole.prompt, encode_pieces(whole.messages, name_senders=named), new),
    )


def find_gone_in(db: sqlite3.Connection, turn: TurnId) -> list[Steer]:
    """What went into a turn, or may have, less what was taken back since."""
    steers = [one for one in _of_turn(db, turn) if one.state is not SteerState.OPEN]
    ids = [message.event_id for one in steers for message in one.pieces.messages]
    taken_back = find_taken_back(db, ids)
    left = [replace(one, pieces=one.pieces.without(*taken_back)) for one in steers]
    return [one for one in left if one.pieces.messages]


def find_steered(db: sqlite3.Connection, turn: TurnId) -> frozenset[EventId]:
    """The messages that went into a turn, or were to."""
    return frozenset(m.event_id for one in _of_turn(db, turn) for m in one.pieces.messages)


def _is_whole(db: sqlite3.Connection, steer: Steer) -> bool:
    """Whether nothing of it was taken back since it was read."""
    query = "SELECT pieces FROM steers WHERE event_id = ?"
    found = db.execute(query, (steer.event_id,)).fetchone()
    return found is not None and decode_pieces(found[0]) == steer.pieces


def _queue(db: sqlite3.Connection, steer: Steer, *, now: float) -> None:
    room_id, session = db.execute(
        "SELECT room_id, session FROM turns WHERE turn_id = ?", (steer.turn_id,)
    ).fetchone()
    messages = steer.pieces.messages
    asked = tuple(message.event_id for message in messages)
    marks = ", ".join("?" * len(asked))
    rows = db.execute(f"SELECT seq FROM inbox WHERE event_id IN ({marks})", asked)  # noqa: S608 - question marks
    new = NewTurn(
        turn_id=turn_id(RoomId(room_id), steer.event_id),
        room_id=RoomId(room_id),
        session=session,
        prompt=steer.pieces.prompt,
        sender=messages[0].sender,
        asked=asked,
        inbox=tuple(seq for (seq,) in rows.fetchall()),
        pieces=encode_pieces(messages, name_senders=steer.pieces.name_senders),
    )
    insert_turn(db, new, refused_for=None, now=now)


def _leave_out(db: sqlite3.Connection, steer: Steer) -> Steer | None:
    """What is left of it without what was taken back since it came back; None: nothing."""
    taken_back = find_taken_back(db, [m.event_id for m in steer.pieces.messages])
    for event_id in taken_back:
        leave_turn(db, event_id)
    left = replace(steer, pieces=steer.pieces.without(*taken_back))
    return left if left.pieces.messages else None


def _note_asked(db: sqlite3.Connection, steer: Steer, *, is_asked: bool) -> None:
    (stored,) = db.execute("SELECT asked FROM turns WHERE turn_id = ?", (steer.turn_id,)).fetchone()
    own = [m.event_id for m in steer.pieces.messages]
    asked = [event_id for event_id in json.loads(stored) if event_id not in own]
    asked += own if is_asked else []
    db.execute("UPDATE turns SET asked = ? WHERE turn_id = ?", (json.dumps(asked), steer.turn_id))


def _of_turn(db: sqlite3.Connection, turn: TurnId) -> list[Steer]:
    found = db.execute(
        "SELECT event_id, position, pieces, state FROM steers WHERE turn_id = ? ORDER BY position",
        (turn,),
    ).fetchall()
    return [
        Steer(
            event_id=EventId(event_id),
            turn_id=turn,
            position=position,
            pieces=decode_pieces(pieces),
            state=SteerState(state),
        )
        for event_id, position, pieces, state in found
    ]
