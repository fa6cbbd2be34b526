"""`!schedule`: turns at a time, listed, made and removed."""

from __future__ import annotations

import sqlite3

from orchestrator.core.command import Permission
from orchestrator.core.schedule import Removal, Wish, parse_wish
from orchestrator.core.texts import schedule as texts
from orchestrator.rooms.room_command import RoomCommand
from orchestrator.store.schedule_table import add_schedule, read_schedules, remove_schedule


async def schedule(doing: RoomCommand, argument: str) -> None:
    """Show what is scheduled, or change it."""
    if not argument:
        found = await doing.kit.store.schedules.of_room(doing.worker.room_id)
        listed = [(s.text, s.due_at, s.cron, s.made_by) for s in found]
        await doing.say(texts.listed(listed) if listed else texts.NONE)
        return
    wish = parse_wish(argument, now=doing.now)
    match wish:
        case Wish():
            await _add(doing, wish)
        case Removal():
            await _remove(doing, wish.number)
        case fault:
            await doing.say(texts.FAULTS[fault])


async def _add(doing: RoomCommand, wish: Wish) -> None:
    def effect(db: sqlite3.Connection) -> bool:
        return add_schedule(db, doing.worker.room_id, wish, by=doing.sender, now=doing.now)

    made = texts.made(wish.due_at, wish.cron)
    await doing.do(effect, lambda is_added: made if is_added else texts.TOO_MANY)


async def _remove(doing: RoomCommand, number: int) -> None:
    is_admin = Permission.ADMINISTER in doing.permissions

    def effect(db: sqlite3.Connection) -> str:
        found = read_schedules(db, doing.worker.room_id)
        if not 1 <= number <= len(found):
            return texts.no_such(number, len(found))
        chosen = found[number - 1]
        if chosen.made_by != doing.sender and not is_admin:
            return texts.NOT_YOURS
        remove_schedule(db, chosen.schedule_id)
        return texts.removed(chosen.text)

    await doing.do(effect, lambda text: text)
