"""`!cost` and `!budget`: what was used, and what may be; admins change that."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from operator import attrgetter

from orchestrator.core.allowance import Order, TooMuchError, add_extra, build_allowance, parse_order
from orchestrator.core.budget import seconds_left, utc_day
from orchestrator.core.command import CommandName, Permission
from orchestrator.core.role import name_who_may
from orchestrator.core.texts import person as texts
from orchestrator.rooms.allowance import Allowances
from orchestrator.rooms.room_command import Refused, Reply, RoomCommand
from orchestrator.store.setting_table import read_settings, store_setting
from orchestrator.store.spending_table import Part, SpendingTable, Spent

_DAY_S = 86400.0
_DAYS = {"": (1, "today"), "day": (1, "today"), "week": (7, "in the last seven days")}


async def cost(doing: RoomCommand, argument: str) -> None:
    """What the room has cost, in all and by its parts."""
    if argument.lower() not in _DAYS:
        await doing.say(Refused(texts.COST_FORM))
        return
    days, words = _DAYS[argument.lower()]
    since = utc_day(doing.now - (days - 1) * _DAY_S)
    table, slug = SpendingTable(doing.kit.store.database), doing.worker.room.slug
    parts = await table.parts_of(slug, since=since)
    total = await table.total_of(slug, since=since)
    await doing.say(
        texts.cost(
            words,
            texts.Share(name="", requests=total.requests, micro_usd=total.micro_usd),
            _sums(parts, attrgetter("person")),
            _sums(parts, attrgetter("model")),
        )
    )


def _sums(parts: Mapping[Part, Spent], key: Callable[[Part], str]) -> list[texts.Share]:
    """By name, the dearest first; what nobody is known for is left out."""
    found: dict[str, Spent] = {}
    for part, spent in parts.items():
        name, before = key(part), found.get(key(part), Spent())
        if name:
            found[name] = Spent(
                before.requests + spent.requests, before.micro_usd + spent.micro_usd
            )
    shares = [
        texts.Share(name=name, requests=s.requests, micro_usd=s.micro_usd)
        for name, s in found.items()
    ]
    return sorted(shares, key=lambda share: (-share.micro_usd, share.name))


async def change_budget(doing: RoomCommand, argument: str) -> None:
    """Show what holds, or change it."""
    if not argument:
        await _show(doing)
        return
    try:
        order = parse_order(argument)
    except TooMuchError:
        await doing.say(Refused(texts.BUDGET_TOO_MUCH))
        return
    if order is None:
        await doing.say(Refused(texts.BUDGET_FORM))
    elif Permission.ADMINISTER not in doing.permissions:
        who = name_who_may(Permission.ADMINISTER)
        words = texts.may_not(f"{CommandName.BUDGET} {argument.split()[0]}", who)
        await doing.say(Refused(words))
    else:
        await _change(doing, order)


async def _show(doing: RoomCommand) -> None:
    allowances, room, day = Allowances(doing.kit), doing.worker.room, utc_day(doing.now)
    allowance = await allowances.of(room)
    used = await allowances.used(room, doing.sender)
    extra, left_s = allowance.extra_on(day), seconds_left(doing.now)
    await doing.say(texts.budget(allowance.on(day), used, extra=extra, left_s=left_s))


async def _change(doing: RoomCommand, order: Order) -> None:
    """Within the transaction of the answer: a command that is repeated after a crash adds once."""
    room, now, day = doing.worker.room, doing.now, utc_day(doing.now)
    configured = doing.worker.profile.budget.amounts()

    def effect(db: sqlite3.Connection) -> Reply:
        allowance = build_allowance(configured, read_settings(db, room.room_id))
        if order.is_extra:
            if order.name not in allowance.base:
                return Refused(texts.NO_LIMIT_TO_RAISE)
            key, value = add_extra(allowance, day, order.name, order.amount or 0)
            store_setting(db, room.room_id, key, value, by=doing.sender, now=now)
        else:
            text = (
                None if order.is_default else "off" if order.amount is None else str(order.amount)
            )
            store_setting(db, room.room_id, order.name.key, text, by=doing.sender, now=now)
        after = build_allowance(configured, read_settings(db, room.room_id))
        if order.is_extra:
            limit = after.on(day).amounts[order.name]
            return texts.budget_raised(order.name, order.amount or 0, limit)
        return texts.budget_set(order.name, after.base.get(order.name))

    await doing.do(effect, lambda reply: reply)
    # The gateway is told at once: a running turn's next request goes by it.
    await Allowances(doing.kit).of(room)
