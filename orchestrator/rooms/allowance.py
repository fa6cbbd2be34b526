"""Budgets of rooms and people: looked at before a turn starts, warned of after it, kept all along.

The gateway keeps the money while a turn runs, so it is told what a room may spend and for whom its
requests are; here a turn that could get no answer any more is not begun at all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.core.allowance import (
    Allowance,
    LimitName,
    Limits,
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

    def share(self, room: RoomRow, people: Collection[UserId]) -> None:
        """Requests of turns that run side by side count for all who asked for one of them.

        Between turns they count for whoever asked last.
        """
        if people:
            self.kit.doors.set_payers(room.slug, tuple(set(people)))

    async def begin(self, room: RoomRow, turn: TurnRow, *, is_new: bool) -> str | None:
        """Before a turn: a clause says why it may not start.

        A turn that runs already, or goes on by itself with what was begun, is not counted again.
        """
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
        return None if turn.resumes else await self._agents_in_a_row(room, turn.sender)

    async def begin_steer(self, room: RoomRow, person: UserId) -> str | None:
        """Before somebody's message goes into a running turn: a clause says why it may not.

        It is that person's as a turn would be. The room's own limits hold for the turn itself.
        """
        now = self.kit.wall_clock()
        limits = (await self.of(room)).on(utc_day(now)).amounts
        own = Limits(amounts={name: n for name, n in limits.items() if name.is_personal})
        met = find_met(own, await self.used(room, person))
        if met is not None:
            return texts.limit_met(met, own.amounts[met], left_s=seconds_left(now))
        return await self._agents_in_a_row(room, person)

    async def _agents_in_a_row(self, room: RoomRow, person: UserId) -> str | None:
        agents = self.kit.config.agent_accounts
        if person not in agents:
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
