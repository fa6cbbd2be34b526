"""`!queue` and `!restart`: what waits, and the room's runner anew."""

from __future__ import annotations

import re
import sqlite3
from functools import partial

from orchestrator.core.command import Permission
from orchestrator.core.texts import setting as texts
from orchestrator.model import TurnState
from orchestrator.rooms.room_command import RoomCommand
from orchestrator.rooms.worker import RESTART
from orchestrator.store.api import TurnRow
from orchestrator.store.command_effect import waiting_turns, withdraw_turn
from orchestrator.store.setting_table import store_setting

_DROP = re.compile(r"drop\s+(\d{1,4})", re.IGNORECASE)


async def queue(doing: RoomCommand, argument: str) -> None:
    """What waits, in its order; or take one back."""
    if not argument:
        turns = await doing.kit.store.turns.open_turns(doing.worker.room_id)
        running = next((t.prompt for t in turns if t.state is not TurnState.QUEUED), None)
        waiting = [(t.sender, t.prompt) for t in turns if _waits(t)]
        await doing.say(texts.queue(waiting, running=running))
        return
    found = _DROP.fullmatch(argument)
    if found is None:
        await doing.say(texts.QUEUE_FORM)
    else:
        await _drop(doing, int(found[1]))


async def _drop(doing: RoomCommand, number: int) -> None:
    is_admin = Permission.ADMINISTER in doing.permissions

    def effect(db: sqlite3.Connection) -> tuple[TurnRow | None, str]:
        waiting = [t for t in waiting_turns(db, doing.worker.room_id) if _waits(t)]
        if not 1 <= number <= len(waiting):
            return None, texts.no_such(number, len(waiting))
        turn = waiting[number - 1]
        if turn.sender != doing.sender and not is_admin:
            return None, texts.QUEUE_NOT_YOURS
        withdraw_turn(db, turn.turn_id, command=doing.event_id)
        return turn, texts.dropped(turn.prompt)

    turn, _ = await doing.do(effect, lambda result: result[1])
    if turn is not None:
        doing.worker.cancel(turn.turn_id)


def _waits(turn: TurnRow) -> bool:
    return turn.state is TurnState.QUEUED and turn.cancelled_by is None


async def restart(doing: RoomCommand, argument: str) -> None:
    """Replace the room's container before its next turn."""
    if argument:
        await doing.say(texts.RESTART_FORM)
        return
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
