"""`!queue`, `!restart`: what waits, the room's runner anew; how one turn is cancelled by its id."""

from __future__ import annotations

import re
import sqlite3
from functools import partial

from orchestrator.core import texts as room_texts
from orchestrator.core.command import Permission
from orchestrator.core.texts import setting as texts
from orchestrator.core.texts import status_page as page_texts
from orchestrator.model import TurnId, TurnState
from orchestrator.rooms.room_command import Refused, Reply, RoomCommand
from orchestrator.rooms.worker import RESTART
from orchestrator.store.api import TurnRow
from orchestrator.store.command_effect import number_turns, waiting_turns, withdraw_turn
from orchestrator.store.setting_table import store_setting
from orchestrator.store.turn_table import select_turns

_DROP = re.compile(r"drop\s+([0-9]{1,9})", re.IGNORECASE)


async def queue(doing: RoomCommand, argument: str) -> None:
    """What waits, in its order; or take one back."""
    if not argument:
        room_id = doing.worker.room_id
        turns = await doing.kit.store.turns.open_turns(room_id)
        numbers = await doing.kit.store.database.run(partial(number_turns, room_id=room_id))
        running = next((t.prompt for t in turns if t.state is not TurnState.QUEUED), None)
        waiting = [
            (numbers[t.turn_id], t.sender, t.prompt)
            for t in turns
            if _waits(t) and t.turn_id in numbers
        ]
        await doing.say(texts.queue(waiting, running=running))
        return
    found = _DROP.fullmatch(argument)
    if found is None:
        await doing.say(Refused(texts.QUEUE_FORM))
    else:
        await _drop(doing, int(found[1]))


async def _drop(doing: RoomCommand, number: int) -> None:
    is_admin = Permission.ADMINISTER in doing.permissions

    def effect(db: sqlite3.Connection) -> tuple[TurnRow | None, Reply]:
        numbers = number_turns(db, doing.worker.room_id)
        waiting = [t for t in waiting_turns(db, doing.worker.room_id) if _waits(t)]
        turn = next((t for t in waiting if numbers[t.turn_id] == number), None)
        if turn is None:
            return None, Refused(texts.no_such(number) if waiting else texts.QUEUE_EMPTY)
        if turn.sender != doing.sender and not is_admin:
            return None, Refused(texts.QUEUE_NOT_YOURS)
        withdraw_turn(db, turn.turn_id, command=doing.event_id)
        return turn, texts.dropped(turn.prompt)

    turn, _ = await doing.do(effect, lambda result: result[1])
    if turn is not None:
        doing.worker.cancel(turn.turn_id)


async def cancel_turn(doing: RoomCommand, turn_id: TurnId) -> None:
    """Cancel this turn of the room, wherever it is; one that has ended is left alone."""

    def effect(db: sqlite3.Connection) -> bool:
        where = "WHERE turn_id = ? AND room_id = ? AND state <> 'ended'"
        is_open = bool(select_turns(db, where, turn_id, doing.worker.room_id))
        if is_open:
            withdraw_turn(db, turn_id, command=doing.event_id)
        return is_open

    if await doing.do(effect, lambda is_open: _cancelled(is_open=is_open)):
        doing.worker.cancel(turn_id)


def _cancelled(*, is_open: bool) -> str:
    return room_texts.CANCEL_ASKED if is_open else page_texts.TURN_OVER


def _waits(turn: TurnRow) -> bool:
    return turn.state is TurnState.QUEUED and turn.cancelled_by is None


async def restart(doing: RoomCommand, _: str) -> None:
    """Replace the room's container before its next turn."""
    is_busy = doing.worker.current is not None
    effect = partial(
        store_setting,
        room_id=doing.worker.room_id,
        key=RESTART,
        value=doing.event_id,
        by=doing.sender,
        now=doing.now,
    )
    await doing.do(effect, lambda _: texts.RESTART_BUSY if is_busy else texts.RESTARTED)
    await doing.worker.read_settings()
    doing.worker.wake()
