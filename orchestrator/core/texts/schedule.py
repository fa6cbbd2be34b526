"""What is said of turns at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.core.quoting import quote
from orchestrator.core.schedule import (
    LEAST_EVERY_S,
    MAX_PER_ROOM,
    MAX_TEXT_CHARS,
    Fault,
    Hindrance,
)

_FORM = (
    'Say `!schedule "0 9 * * 1-5" TEXT`, `!schedule in 2h TEXT`, `!schedule at 2026-12-24T18:00 '
    "TEXT`, or `!schedule remove NUMBER`. Times are UTC."
)
FAULTS = {
    Fault.FORM: _FORM,
    Fault.CRON: "That is no pattern of cron with five fields (minute, hour, day, month, weekday), "
    'for instance `!schedule "0 9 * * 1-5" TEXT`. Times are UTC.',
    Fault.TOO_OFTEN: f"That is more often than every {LEAST_EVERY_S // 60} minutes.",
    Fault.PAST: "That time is over. Times are UTC.",
    Fault.TOO_FAR: "That is more than a year ahead.",
    Fault.TOO_LONG: f"The text is too long: {MAX_TEXT_CHARS:,} characters at most.",
}
TOO_MANY = f"There are {MAX_PER_ROOM} already; `!schedule remove NUMBER` makes place for another."
NONE = f"Nothing is scheduled here. {_FORM}"
NOT_YOURS = "That one is somebody else's: they can remove it, and so can an admin."


def when(at: float) -> str:
    """A time of a schedule, with its day of the week."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%a %Y-%m-%d %H:%M UTC")


_HINDRANCES = {
    Hindrance.LEFT: "has left this room",
    Hindrance.ROLE: "may not run turns here any more",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A schedule in the list. `hindrance`: why it is not run as things are."""

    text: str
    due_at: float
    cron: str | None
    by: str
    in_thread: bool
    hindrance: Hindrance | None


def listed(schedules: Sequence[Listed]) -> str:
    """Each with its number: text, next time, pattern, who made it."""
    lines = [
        f"{number}. {when(one.due_at)}"
        + (f" ({quote(one.cron)})" if one.cron else "")
        + (", in a thread" if one.in_thread else "")
        + f", {quote(one.by)}: {quote(one.text)}"
        + (f" — **not run**: {quote(one.by)} {_HINDRANCES[one.hindrance]}" if one.hindrance else "")
        for number, one in enumerate(schedules, start=1)
    ]
    return "\n".join([*lines, "", "`!schedule remove NUMBER` removes one."])


def made(due_at: float, cron: str | None) -> str:
    """It was stored."""
    again = f", and again as {quote(cron)} says" if cron else ""
    return f"⏰ Scheduled for {when(due_at)}{again}."


def removed(text: str) -> str:
    """It was taken away."""
    return f"Removed: {quote(text)}"


def no_such(number: int, count: int) -> str:
    """There is no such number."""
    return f"There is no number {number}: {count} are scheduled." if count else NONE


def begins(text: str, by: str) -> str:
    """Its time has come."""
    return f"⏰ Scheduled by {quote(by)}: {quote(text, max_chars=200)}"


def missed(text: str, due_at: float, following: float | None) -> str:
    """I was not running then."""
    after = f" Next time: {when(following)}." if following is not None else ""
    return f"⏰ Missed while I was away, and not made up for: {quote(text)}, {when(due_at)}.{after}"


def not_run(
    text: str, by: str, hindrance: Hindrance = Hindrance.ROLE, *, is_kept: bool = False
) -> str:
    """Nothing is run for whoever made it. `is_kept`: its next times are looked at, too."""
    why = f"{quote(by)} {_HINDRANCES[hindrance]}"
    if not is_kept:
        return f"⏰ Removed: {why}: {quote(text)}"
    return f"⏰ Not run while that is so: {why}: {quote(text)}. `!schedule` lists it."


def queue_full(text: str, following: float | None) -> str:
    """Too much waits."""
    after = f" Next time: {when(following)}." if following is not None else ""
    return f"⏰ Not run, for too many turns wait here already: {quote(text)}.{after}"
