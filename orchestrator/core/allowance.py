"""What a room and its people may use in a UTC day: the limits, what raises them, what is met. Pure.

A limit is what the profile says, or what an admin of the room has set in its place; for one day an
admin can add to it. All are kept as texts among the room's settings. Money is in micro-dollars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from orchestrator.core.budget import MICRO_PER_USD

WARN_PERCENT = 80
MOST = 1_000_000
"""Dollars, or turns: what a command can ask for."""
_EXTRA = "budget.extra"
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")


class LimitName(StrEnum):
    """As in commands and settings."""

    USD = "usd"
    TURNS = "turns"
    PERSON_USD = "person-usd"
    PERSON_TURNS = "person-turns"

    @property
    def is_money(self) -> bool:
        """Else it counts turns."""
        return self in (LimitName.USD, LimitName.PERSON_USD)

    @property
    def is_personal(self) -> bool:
        """Each person's own, over all rooms; else the room's."""
        return self in (LimitName.PERSON_USD, LimitName.PERSON_TURNS)

    @property
    def key(self) -> str:
        """Where a room's setting of it stands."""
        return f"budget.{self}"


Amounts = Mapping[LimitName, int]
NO_AMOUNTS: Amounts = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For one day. A name that is not in it has none."""

    amounts: Amounts = field(default_factory=lambda: NO_AMOUNTS)

    def get(self, name: LimitName) -> int | None:
        """The limit, if there is one."""
        return self.amounts.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Of one room and one person, on one day."""

    amounts: Amounts = field(default_factory=lambda: NO_AMOUNTS)

    def get(self, name: LimitName) -> int:
        """How much."""
        return self.amounts.get(name, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A room's limits on any day."""

    base: Amounts = field(default_factory=lambda: NO_AMOUNTS)
    extra_day: str = ""
    extra: Amounts = field(default_factory=lambda: NO_AMOUNTS)

    def on(self, day: str) -> Limits:
        """The limits of a day (YYYY-MM-DD)."""
        extra = self.extra_on(day)
        return Limits(amounts={name: n + extra.get(name, 0) for name, n in self.base.items()})

    def extra_on(self, day: str) -> Amounts:
        """What was added for this day alone."""
        return self.extra if day == self.extra_day else NO_AMOUNTS


def build_allowance(configured: Amounts, settings: Mapping[str, str]) -> Allowance:
    """The configured limits under what the room's settings say; an unreadable setting is none."""
    base = dict(configured)
    for name in LimitName:
        text = settings.get(name.key)
        if text == "off":
            base.pop(name, None)
        elif text is not None and text.isascii() and text.isdecimal():
            base[name] = int(text)
    day, extra = parse_extra(settings.get(_EXTRA))
    return Allowance(base=base, extra_day=day, extra=extra)


def parse_extra(text: str | None) -> tuple[str, Amounts]:
    """A day and what was added for it."""
    try:
        held = json.loads(text or "{}")
        amounts = {LimitName(name): int(n) for name, n in held.get("amounts", {}).items()}
        return str(held.get("day", "")), amounts
    except (ValueError, TypeError, AttributeError):
        return "", NO_AMOUNTS


def add_extra(allowance: Allowance, day: str, name: LimitName, more: int) -> tuple[str, str]:
    """The setting (key and value) with so much more for this day."""
    amounts = dict(allowance.extra_on(day))
    amounts[name] = amounts.get(name, 0) + more
    return _EXTRA, json.dumps({"day": day, "amounts": amounts})


def find_met(limits: Limits, used: Used) -> LimitName | None:
    """The first limit that allows nothing more."""
    for name in LimitName:
        limit = limits.get(name)
        if limit is not None and used.get(name) >= limit:
            return name
    return None


def find_nearly_met(limits: Limits, used: Used) -> list[LimitName]:
    """Limits of which 80 % are used, and not all."""
    found = list[LimitName]()
    for name in LimitName:
        limit = limits.get(name)
        if limit is not None and limit * WARN_PERCENT <= used.get(name) * 100 < limit * 100:
            found.append(name)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a `!budget` asks for. `is_extra`: added for today; else set, None for no limit."""

    name: LimitName
    amount: int | None
    is_extra: bool = False
    is_default: bool = False


class TooMuchError(ValueError):
    """A number past MOST."""


def parse_order(argument: str) -> Order | None:
    """`+5`, `+5 turns`, `usd 20`, `turns off`, `person-usd default`; None: it is none of these.

    Raises:
        TooMuchError: the number is larger than any budget.
    """
    words = argument.lower().replace("$", "").replace(",", "").split()
    if words and words[0].startswith("+"):
        name = _name(words[1] if len(words) > 1 else "usd")
        value = None if name is None or len(words) > 2 else _amount(name, words[0][1:])
        if name is None or value is None:
            return None
        return Order(name=name, amount=value, is_extra=True)
    if len(words) != 2 or (name := _name(words[0])) is None:
        return None
    if words[1] in ("off", "default"):
        return Order(name=name, amount=None, is_default=words[1] == "default")
    value = _amount(name, words[1])
    return None if value is None else Order(name=name, amount=value)


def _name(word: str) -> LimitName | None:
    word = word.replace("_", "-")
    singular = {"dollar": "usd", "dollars": "usd", "turn": "turns", "person-turn": "person-turns"}
    word = singular.get(word, word)
    return LimitName(word) if word in LimitName.__members__.values() else None


def _amount(name: LimitName, word: str) -> int | None:
    if _NUMBER.fullmatch(word) is None:
        return None
    if float(word) > MOST:
        raise TooMuchError
    if name.is_money:
        return round(float(word) * MICRO_PER_USD) or None
    return int(word) or None if word.isdecimal() else None
