"""Whether a message is taken up again by itself after its turn ended without an answer, and how.

Rule: nothing is run twice in silence. Whoever takes a message up again, a person with `!retry` or
the room's settings, the model is told that it may have done part of it, and the room that it goes
on. A turn never goes back from RUNNING: what goes on is another turn, which names the one that it
continues.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.model import TurnOutcome

# In a row and for one message, whatever the reasons were: a message that ends its runner does it
# again, and a limit that is met four times is no matter of waiting. Then a person decides.
MAX_RESUMES = 3
# The API's clock and this host's need not agree to the second; nobody waits for hours and minds one
# minute more.
WAIT_MARGIN_S = 60.0
# The longest limit of a subscription is a week; a reset beyond it is a mistake of somebody's.
MAX_WAIT_S = 8 * 86400.0

_NOTE = (
    "[Note by the system that carries messages between the room and you; no person wrote it. The "
    "message below was given to you before, and that attempt was stopped before it was finished. "
    "Part of what it asks for may be done already: look at the state of things first, do nothing a "
    "second time, and finish what is missing. The message:]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """A message is taken up again: for the `resumes`-th time, not before that Unix time."""

    resumes: int
    not_before: float = 0.0


def decide_going_on(
    outcome: TurnOutcome,
    *,
    resumes: int,
    resumes_interrupted: bool,
    waits_for_limit: bool,
    limit_resets_at: float | None,
    now: float,
) -> GoOn | None:
    """What follows from the end of a turn; None: nothing by itself.

    An interruption is the loss of the runner: killed, gone, replaced, rebooted, or not to be
    reached in time. None of these is the turn's own doing. A cancel is a person's wish; a timeout
    and the memory limit are what the turn did itself and would most likely do again; a failure has
    a reason that somebody should read first.

    Args:
        outcome: how the turn ended.
        resumes: how often its message was taken up by itself before.
        resumes_interrupted: the room's `on_interrupt` is `resume`.
        waits_for_limit: the room's `on_usage_limit` is `wait`.
        limit_resets_at: when the usage limit resets that the turn failed with (Unix time).
        now: Unix time.
    """
    if resumes >= MAX_RESUMES:
        return None
    if outcome is TurnOutcome.INTERRUPTED and resumes_interrupted:
        return GoOn(resumes=resumes + 1)
    if outcome is not TurnOutcome.FAILED or not waits_for_limit or limit_resets_at is None:
        return None
    if not limit_resets_at <= now + MAX_WAIT_S:  # what is no number doesn't pass, either
        return None
    return GoOn(resumes=resumes + 1, not_before=max(limit_resets_at, now) + WAIT_MARGIN_S)


def build_prompt_again(prompt: str) -> str:
    """The message of a turn that was stopped, for the model that may have worked on it."""
    return f"{_NOTE}\n\n{prompt}"


def strip_note(prompt: str) -> str:
    """The message without the note before it, where there is one."""
    return prompt.removeprefix(_NOTE).lstrip() if prompt.startswith(_NOTE) else prompt
