"""How far a runner's output has been taken in, within the transaction that took it in."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from orchestrator.model import Epoch, RoomId, Seq, TurnId


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """Frames up to `seq` of this epoch need not be replayed once the transaction is on disk."""

    room_id: RoomId
    epoch: Epoch
    seq: Seq
    turn_id: TurnId | None = None
    """The turn that needs them no more, where others of the room may."""


def store_acked(db: sqlite3.Connection, acked: Acked) -> None:
    """Remember it; nothing goes back within an epoch, and no further than each turn has come."""
    seq = acked.seq
    if acked.turn_id is not None:
        db.execute("UPDATE turns SET taken = ? WHERE turn_id = ?", (seq, acked.turn_id))
        (others,) = db.execute(
            "SELECT min(taken) FROM turns WHERE room_id = ? AND epoch = ? AND turn_id <> ? "
            "AND state <> 'ended' AND state <> 'queued'",
            (acked.room_id, acked.epoch, acked.turn_id),
        ).fetchone()
        seq = seq if others is None else Seq(min(seq, others))
    db.execute(
        "UPDATE runners SET acked = CASE WHEN epoch = ? THEN max(acked, ?) ELSE ? END, epoch = ? "
        "WHERE room_id = ?",
        (acked.epoch, seq, seq, acked.epoch, acked.room_id),
    )
