"""Whether a room may spend more today: pure decisions, in micro-dollars.

A request is let through while what was spent and what is held back for the requests under way is
below the limit. What is held back is the most that each can cost, so at its worst one request, the
last that was let through, ends above the limit: the budget is kept to within one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from orchestrator.core import texts
from orchestrator.core.egress_http import Denial, DenialReason
from orchestrator.model import UserId

MICRO_PER_USD = 1_000_000


class Verdict(StrEnum):
    """What becomes of a request."""

    ADMIT = "admit"
    WAIT = "wait"
    """Others are under way that may use up what is left; when they have ended, it is known."""
    REFUSE = "refuse"


def decide(*, limit: int | None, spent: int, held_back: int) -> Verdict:
    """Without a limit everything is let through."""
    if limit is None or spent + held_back < limit:
        return Verdict.ADMIT
    return Verdict.REFUSE if spent >= limit else Verdict.WAIT


def micro_usd(usd: float) -> int:
    """An amount of the configuration; at least the smallest there is."""
    return max(1, round(usd * MICRO_PER_USD))


def share_out(amount: int, people: Sequence[UserId]) -> list[tuple[UserId, int]]:
    """In equal parts, to the smallest coin: what does not divide is the first ones'."""
    if not people:
        return []
    part, rest = divmod(amount, len(people))
    return [(person, part + (i < rest)) for i, person in enumerate(people)]


def utc_day(now: float) -> str:
    """The day of a Unix time, as it stands in the table."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def days_around(now: float) -> tuple[str, str, str]:
    """The day before, the day, and the day after: what a clock that is put right may come to."""
    day = timedelta(days=1).total_seconds()
    return utc_day(now - day), utc_day(now), utc_day(now + day)


def seconds_left(now: float) -> float:
    """Until the next day begins."""
    moment = datetime.fromtimestamp(now, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - moment).total_seconds()


def over_budget(*, limit: int, spent: int, left_s: float) -> Denial:
    """The refusal of a room that has spent its budget; the CLI shows its message and gives up."""
    return Denial(
        # To a 403 the CLI adds that it failed to authenticate.
        status=429,
        reason=DenialReason.BUDGET,
        message=texts.budget_spent(limit=limit, spent=spent, left_s=left_s),
        kind="rate_limit_error",
    )


def over_person_budget(*, limit: int, left_s: float) -> Denial:
    """The refusal of a request for somebody who has spent what one person may."""
    return Denial(
        status=429,
        reason=DenialReason.BUDGET,
        message=texts.person_budget_spent(limit=limit, left_s=left_s),
        kind="rate_limit_error",
    )


def not_now() -> Denial:
    """The refusal of a request that waited long for others; the CLI may ask again."""
    return Denial(
        status=429,
        reason=DenialReason.BUDGET,
        message=texts.BUDGET_HELD_BACK,
        kind="rate_limit_error",
        may_retry=True,
    )
