"""`!schedule`: turns at a time, listed, made and removed."""

from __future__ import annotations

import sqlite3

from orchestrator.core.command import Permission
from orchestrator.core.schedule import Removal, Wish, parse_wish
from orchestrator.core.texts import schedule as texts
from orchestrator.core.thread import thread_of
from orchestrator.rooms.people import People
from orchestrator.rooms.room_command import Refused, Reply, RoomCommand
from orchestrator.store.schedule_table import add_schedule, read_schedules, remove_schedule


async def schedule(doing: RoomCommand, argument: str) -> None:
    """Show what is scheduled, or change it."""
    if not argument:
        found = await doing.kit.store.schedules.of_room(doing.worker.room_id)
        people = People.build(doing.kit.config, doing.kit.store)
        listed = [
            texts.Listed(
                text=s.text,
                due_at=s.due_at,
                cron=s.cron,
                by=s.made_by,
                in_thread=thread_of(s.session) is not None,
                hindrance=await people.find_hindrance(s.room_id, s.made_by),
            )
            for s in found
        ]
        await doing.say(texts.listed(listed) if listed else texts.NONE)
        return
    wish = parse_wish(argument, now=doing.now)
    match wish:
        case Wish():
            await _add(doing, wish)
        case Removal():
            await _remove(doing, wish.number)
        case fault:
            await doing.say(Refused(texts.FAULTS[fault]))


async def _add(doing: RoomCommand, wish: Wish) -> None:
    def effect(db: sqlite3.Connection) -> bool:
        room_id, session = doing.worker.room_id, doing.conversation
        return add_schedule(db, room_id, wish, session=session, by=doing.sender, now=doing.now)

    made = texts.made(wish.due_at, wish.cron)
    await doing.do(effect, lambda is_added: made if is_added else Refused(texts.TOO_MANY))


async def _remove(doing: RoomCommand, number: int) -> None:
    is_admin = Permission.ADMINISTER in doing.permissions

    def effect(db: sqlite3.Connection) -> Reply:
        found = read_schedules(db, doing.worker.room_id)
        if not 1 <= number <= len(found):
            return Refused(texts.no_such(number, len(found)))
        chosen = found[number - 1]
        if chosen.made_by != doing.sender and not is_admin:
            return Refused(texts.NOT_YOURS)
        remove_schedule(db, chosen.schedule_id)
        return texts.removed(chosen.text)

    await doing.do(effect, lambda reply: reply)
