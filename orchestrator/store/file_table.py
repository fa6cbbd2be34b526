"""The files that came with turns: which they are, and where in the workspace each one goes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.piece import decode_pieces
from orchestrator.core.policy import Message
from orchestrator.model import EventId, TurnId
from orchestrator.store.database import Database


@dataclass(frozen=True, slots=True)
class FileTable:
    """Two columns of the table `turns`."""

    database: Database

    async def of_turn(self, turn_id: TurnId) -> Sequence[Message]:
        """The messages of a turn, with what they brought."""

        def work(db: sqlite3.Connection) -> tuple[Message, ...]:
            row = db.execute("SELECT pieces FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
            return decode_pieces(row[0]).messages if row else ()

        return await self.database.run(work)

    async def paths(self, turn_id: TurnId) -> Mapping[EventId, str]:
        """Where the files of a turn go, as far as that was chosen; by message."""
        return await self.database.run(lambda db: _paths(db, turn_id))

    async def choose_path(
        self,
        turn_id: TurnId,
        event_id: EventId,
        names: Iterable[str],
        choose: Callable[[Collection[str]], str],
    ) -> str:
        """Where one goes, from now on: as `choose` says, which is given what is taken.

        That are `names`, and where files of the room's turns go that have not ended.
        """

        def work(db: sqlite3.Connection) -> str:
            query = (
                "SELECT turn_id FROM turns WHERE state <> 'ended' AND room_id = "
                "(SELECT room_id FROM turns WHERE turn_id = ?)"
            )
            turns = [TurnId(row[0]) for row in db.execute(query, (turn_id,)).fetchall()]
            taken = {*names, *(path for turn in turns for path in _paths(db, turn).values())}
            path = choose(taken)
            paths = {**_paths(db, turn_id), event_id: path}
            db.execute("UPDATE turns SET files = ? WHERE turn_id = ?", (json.dumps(paths), turn_id))
            return path

        return await self.database.run(work)


def _paths(db: sqlite3.Connection, turn_id: TurnId) -> dict[EventId, str]:
    row = db.execute("SELECT files FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
    return {EventId(event): str(path) for event, path in json.loads(row[0]).items()} if row else {}
