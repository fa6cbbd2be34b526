"""Budgets of rooms and people: looked at before a turn starts, warned of after it, kept all along.

The gateway keeps the money while a turn runs, so it is told what a room may spend and for whom its
requests are; here a turn that could get no answer any more is not begun at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.allowance import (
    Allowance,
    LimitName,
    Used,
    build_allowance,
    find_met,
    find_nearly_met,
)
from orchestrator.core.budget import seconds_left, utc_day
from orchestrator.core.texts import person as texts
from orchestrator.model import UserId
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.store.api import RoomRow, TurnRow

_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Allowances:
    """Stateless: settings, turns and what was spent are asked for each time."""

    kit: Kit

    async def of(self, room: RoomRow) -> Allowance:
        """A room's limits; the gateway knows them from here on."""
        profile = self.kit.config.profile(room.room_id, room.alias, room.former)
        settings = await self.kit.store.settings.of_room(room.room_id)
        allowance = build_allowance(profile.budget.amounts(), settings)
        self.kit.doors.set_allowance(room.slug, allowance)
        return allowance

    async def used(self, room: RoomRow, person: UserId) -> Used:
        """What the room and the person have used today; the person's in all rooms."""
        now = self.kit.wall_clock()
        of_room, mine = await self.kit.store.allowances.turns_since(
            room.room_id, person, midnight=now - (_DAY_S - seconds_left(now))
        )
        return Used(
            amounts={
                LimitName.USD: self.kit.spent_micro_usd(room.slug),
                LimitName.TURNS: of_room,
                LimitName.PERSON_USD: self.kit.person_micro_usd(person),
                LimitName.PERSON_TURNS: mine,
            }
        )

    async def begin(self, room: RoomRow, turn: TurnRow, *, is_new: bool) -> str | None:
        """Before a turn: the gateway learns for whom it is. A clause says why it may not start.

        A turn that runs already, or goes on by itself with what was begun, is not counted again.
        """
        self.kit.doors.set_payers(room.slug, (turn.sender,))
        now, allowance = self.kit.wall_clock(), await self.of(room)
        if not is_new:
            return None
        limits, used = allowance.on(utc_day(now)), await self.used(room, turn.sender)
        if turn.resumes:
            money = {n: v for n, v in used.amounts.items() if n.is_money}
            used = Used(amounts=money)
        met = find_met(limits, used)
        if met is not None:
            return texts.limit_met(met, limits.amounts[met], left_s=seconds_left(now))
        return await self._agents_in_a_row(room, turn)

    async def _agents_in_a_row(self, room: RoomRow, turn: TurnRow) -> str | None:
        agents = self.kit.config.agent_accounts
        if turn.sender not in agents or turn.resumes:
            return None
        profile = self.kit.config.profile(room.room_id, room.alias, room.former)
        most = profile.budget.agent_turns_in_a_row
        count, _ = await self.kit.store.people.agent_run(room.room_id, agents)
        return texts.agents_only(most).rstrip(".") if count >= most else None

    async def warn(self, room: RoomRow, person: UserId) -> None:
        """After a turn: the room is told, once a day, of limits that are nearly met."""
        now = self.kit.wall_clock()
        day, left_s = utc_day(now), seconds_left(now)
        limits = (await self.of(room)).on(day)
        if not limits.amounts:
            return
        for name in find_nearly_met(limits, await self.used(room, person)):
            limit = limits.amounts[name]
            who = person if name.is_personal else None
            what = f"{name}:{limit}:{who or ''}"
            rows = build_notice_rows(
                room.room_id,
                f"{room.room_id}:budget:{day}:{what}",
                texts.nearly_met(name, limit, who=who, left_s=left_s),
                max_event_bytes=self.kit.config.gateway.max_event_bytes,
            )
            if await self.kit.store.allowances.warn(day, room.room_id, what, rows, now=now):
                self.kit.notify_outbox()
