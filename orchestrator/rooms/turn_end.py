"""How a turn's end is told, and what follows from it by itself.

Also the whole end of a turn that no runner takes part in: refused, withdrawn, or lost with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.going_on import GoOn, decide_going_on
from orchestrator.core.quoting import quote
from orchestrator.core.texts import live as live_texts
from orchestrator.core.turn_view import Ended
from orchestrator.model import Epoch, Seq, TurnOutcome
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.turn_output import TurnOutput
from orchestrator.runners.event import SessionExited
from orchestrator.store.api import TurnRow

# Enough of a crashing program's last words to see what it was.
_STDERR_LINES = 12
_STDERR_CHARS = 600


class LastWords:
    """The end of what a CLI wrote to its stderr."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque(maxlen=_STDERR_LINES)

    def __repr__(self) -> str:
        return f"<LastWords {len(self._texts)}>"

    def add(self, text: str) -> None:
        """Some more."""
        self._texts.append(text[-_STDERR_CHARS:])

    def clear(self) -> None:
        """Another process begins."""
        self._texts.clear()

    def render(self) -> str:
        """Behind a sentence: a colon and the words, quoted; or nothing."""
        words = "\n".join(self._texts)[-_STDERR_CHARS:].strip()
        return f": {quote(words, max_chars=_STDERR_CHARS)}" if words else ""


def how_ended(event: SessionExited) -> str:
    """How a process ended, as a clause."""
    return f"signal {event.signal}" if event.signal else f"code {event.code}"


def render_footer(wishes: Collection[str], ended: Ended) -> str:
    """What stands below an answer, of what the room wishes and the CLI said; or nothing."""
    parts: list[str] = []
    if "duration" in wishes and ended.duration_s is not None:
        parts.append(texts.duration(round(ended.duration_s, 1)))
    if "tokens" in wishes and (usage := ended.usage) is not None:
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_creation_tokens
        parts.append(live_texts.tokens(read + usage.output_tokens))
    if "cost" in wishes and ended.cost_usd is not None:
        parts.append(texts.usd(round(ended.cost_usd * 1e6)))
    return f"*{' · '.join(parts)}*" if parts else ""


async def end_turn(
    turn: TurnRow, outcome: TurnOutcome, reason: str | None, *, kit: Kit, profile: RoomProfile
) -> TurnRow:
    """Store the end and the sentence that the room reads; returns the stored row."""
    # Its words may have been taken back since it was read.
    turn = await kit.store.turns.get(turn.turn_id) or turn
    output = TurnOutput(turn, kit=kit, epoch=Epoch(""), acked=Seq(0))
    end = plan_end(turn, outcome, reason, profile, now=kit.wall_clock())
    logger.bind(
        action="turn.end",
        room=turn.room_id,
        turn=turn.turn_id,
        outcome=outcome,
        reason=reason,
        audit=True,
    ).info("turn ended")
    return await output.end(
        outcome,
        reason=reason,
        # Of what its sender took back while it waited, nothing is said.
        sentence=end.sentence if turn.prompt else None,
        store_acked=False,
        go_on=end.go_on if turn.prompt else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitMet:
    """A usage limit ended the turn; `resets_at` is Unix time, where it was said."""

    resets_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEnd:
    """What the room is told of an end without an answer, and what follows by itself."""

    sentence: str
    go_on: GoOn | None


def plan_end(
    turn: TurnRow,
    outcome: TurnOutcome,
    reason: str | None,
    profile: RoomProfile,
    *,
    limit: LimitMet | None = None,
    now: float,
) -> PlannedEnd:
    """Pure. A reason may be a clause or a sentence."""
    reason = reason.strip().rstrip(".") if reason else reason
    go_on = decide_going_on(
        outcome,
        resumes=turn.resumes,
        resumes_interrupted=profile.on_interrupt == "resume",
        waits_for_limit=profile.on_usage_limit == "wait",
        limit_resets_at=limit.resets_at if limit else None,
        now=now,
    )
    if go_on is not None:
        told = texts.goes_on(outcome, go_on, reason=reason, prompt=turn.prompt)
        return PlannedEnd(sentence=told, go_on=go_on)
    sentence = texts.ended(
        outcome,
        reason=f"{reason}. `!retry` has another go when it has reset" if limit else reason,
        timeout_s=profile.timeout_s,
        ceiling_s=profile.ceiling_s,
        limits=profile.limits.limits(),
        prompt=turn.prompt,
        resumes=turn.resumes,
    )
    return PlannedEnd(sentence=sentence, go_on=None)
