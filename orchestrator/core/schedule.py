"""Turns at a time: how one is asked for, and when it is due. Pure; all times are UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice, pairwise

from cronsim import CronSim, CronSimError

from orchestrator.core.room_setting import parse_duration

# A turn has a cost: what is wanted more often than this is a program's work.
LEAST_EVERY_S = 300
MOST_AHEAD_S = 366 * 86_400
MAX_PER_ROOM = 20
MAX_TEXT_CHARS = 4000
# A time that was missed by less, by a restart say, is made up for; a later one is told instead.
GRACE_S = 240.0
# Times of a pattern that are looked at for the least distance: `0,1 9 * * *` has its pair early.
_LOOKED_AT = 400
# Telephones make their own quotation marks.
_CRON = re.compile(r"[\"'“”„«»]([^\"'“”„«»]{1,100})[\"'“”„«»]\s+(.+)", re.DOTALL)
_IN = re.compile(r"in\s+(\d{1,6}\s?[a-z]*)\s+(.+)", re.DOTALL | re.IGNORECASE)
_AT = re.compile(r"at\s+(\d{4}-\d\d-\d\d[T ]\d\d:\d\d)Z?\s+(.+)", re.DOTALL | re.IGNORECASE)
_REMOVE = re.compile(r"remove\s+(\d{1,4})", re.IGNORECASE)


class Fault(StrEnum):
    """Why a schedule is not taken."""

    FORM = "form"
    CRON = "cron"
    TOO_OFTEN = "too_often"
    PAST = "past"
    TOO_FAR = "too_far"
    TOO_LONG = "too_long"


class Hindrance(StrEnum):
    """Why nothing is run for whoever made a schedule."""

    LEFT = "left"
    """They are not in the room any more: they went, or were sent away."""
    ROLE = "role"
    """They may not run turns here any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A turn at a time; with `cron` again and again."""

    text: str
    due_at: float
    cron: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Of the schedule with that number in the room's list, from 1 on."""

    number: int


def parse_wish(argument: str, *, now: float) -> Wish | Removal | Fault:
    """What stands behind `!schedule`; `now` is Unix time."""
    argument = argument.strip()
    if (found := _REMOVE.fullmatch(argument)) is not None:
        return Removal(number=int(found[1]))
    for form, read in ((_CRON, _read_cron), (_IN, _read_in), (_AT, _read_at)):
        found = form.fullmatch(argument)
        if found is not None:
            wish = read(found[1].strip(), found[2].strip(), now)
            return _check(wish, now) if isinstance(wish, Wish) else wish
    return Fault.FORM


def next_due(cron: str, *, after: float) -> float | None:
    """The next time of a pattern, as Unix time; None where there is none any more."""
    try:
        return next(CronSim(cron, datetime.fromtimestamp(after, tz=UTC))).timestamp()
    except (CronSimError, StopIteration, OverflowError):
        return None


def _check(wish: Wish, now: float) -> Wish | Fault:
    if wish.due_at <= now:
        return Fault.PAST
    if wish.due_at > now + MOST_AHEAD_S:
        return Fault.TOO_FAR
    return Fault.TOO_LONG if len(wish.text) > MAX_TEXT_CHARS else wish


def _read_cron(cron: str, text: str, now: float) -> Wish | Fault:
    if len(cron.split()) != 5:
        return Fault.CRON  # a sixth field would be seconds
    try:
        times = list(islice(CronSim(cron, datetime.fromtimestamp(now, tz=UTC)), _LOOKED_AT))
    except (CronSimError, OverflowError):
        return Fault.CRON
    if not times:
        return Fault.CRON
    if any((after - before).total_seconds() < LEAST_EVERY_S for before, after in pairwise(times)):
        return Fault.TOO_OFTEN
    return Wish(text=text, due_at=times[0].timestamp(), cron=" ".join(cron.split()))


def _read_in(duration: str, text: str, now: float) -> Wish | Fault:
    seconds = parse_duration(duration)
    return Fault.FORM if seconds is None else Wish(text=text, due_at=now + seconds, cron=None)


def _read_at(time: str, text: str, now: float) -> Wish | Fault:
    try:
        at = datetime.fromisoformat(time).replace(tzinfo=UTC)
    except ValueError:
        return Fault.FORM
    return Wish(text=text, due_at=at.timestamp(), cron=None)
