"""Commands that take their time: taken now, done and answered by the room's errands."""

from __future__ import annotations

import sqlite3

from orchestrator.core.texts import workspace as texts
from orchestrator.rooms.room_command import Refused, RoomCommand
from orchestrator.store.errand_table import Errand, ErrandKind, add_errand


async def begin_errand(kind: ErrandKind, doing: RoomCommand, argument: str) -> None:
    """Store it with the mark on the command's row; where too many wait, say so."""
    errand = Errand(
        event_id=doing.event_id,
        room_id=doing.worker.room_id,
        seq=doing.seq,
        kind=kind,
        argument=argument,
        sender=doing.sender,
    )

    def effect(db: sqlite3.Connection) -> bool:
        return add_errand(db, errand)

    await doing.kit.store.answer_with(
        doing.seq,
        effect,
        lambda is_taken: [] if is_taken else doing.rows(Refused(texts.TOO_MANY_ERRANDS)),
        now=doing.now,
    )
    doing.worker.errands.wake()
