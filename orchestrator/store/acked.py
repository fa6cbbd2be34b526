"""How far a runner's output has been taken in, within the transaction that took it in."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from orchestrator.model import Epoch, RoomId, Seq


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """Frames up to `seq` of this epoch need not be replayed once the transaction is on disk."""

    room_id: RoomId
    epoch: Epoch
    seq: Seq


def store_acked(db: sqlite3.Connection, acked: Acked) -> None:
    """Remember it; nothing goes back within an epoch."""
    db.execute(
        "UPDATE runners SET acked = CASE WHEN epoch = ? THEN max(acked, ?) ELSE ? END, epoch = ? "
        "WHERE room_id = ?",
        (acked.epoch, acked.seq, acked.seq, acked.epoch, acked.room_id),
    )
