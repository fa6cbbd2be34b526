"""What is said of a room's conversations: those that it has had, and those that are shortened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.quoting import quote

STEER_FORM = "Say `!steer TEXT`; it goes into the turn that runs."
STEERED = "Passed on to the turn that runs."
NOTHING_TO_STEER = (
    "No turn runs here that could take it: send it as a message, and it is worked on next."
)
RESUME_FORM = "Say `!resume NUMBER`; `!sessions` lists the conversations of this room."
NO_SESSIONS = "This room has had no conversation yet. The next message begins one."
NOTHING_TO_COMPACT = "There is nothing to shorten: no conversation has begun here."
COMPACT_TIMED_OUT = (
    "The summary took too long and was given up; the conversation is as it was. `!compact` has "
    "another go."
)
NEW_IN_THREAD = (
    "The next message in this thread starts a new conversation, which knows nothing of the room's. "
    "The files stay as they are."
)


def not_steered(why: str) -> str:
    """As a turn would not be taken: a clause says why."""
    return f"Not taken: {why}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A conversation in the list."""

    number: int
    title: str
    turns: int
    age: str
    is_here: bool
    in_thread: bool


def sessions(listed: Sequence[Listed]) -> str:
    """The conversations that a room has had, the last used first."""
    lines = [
        f"- **{one.number}**: {one.title or '(its words are not kept any more)'} — "
        f"{one.turns} {'turn' if one.turns == 1 else 'turns'}, last {one.age}"
        f"{', in a thread' if one.in_thread else ''}{' — **this one**' if one.is_here else ''}"
        for one in listed
    ]
    return "\n".join([*lines, "", "`!resume NUMBER` goes on with one here."])


def no_session(number: int) -> str:
    """There is none of this number."""
    return f"This room has had no conversation {number}; `!sessions` lists them."


def resumed(number: int, title: str, *, is_busy: bool, is_copy: bool) -> str:
    """From now on, or soon, the conversation here is this one."""
    when = "After the running turn, messages here go" if is_busy else "The next message goes"
    how = " as a copy, because it goes on elsewhere too" if is_copy else ""
    return f"{when} on with conversation {number}{how}: {title or '…'}. The files stay as they are."


def already(number: int) -> str:
    """It is this one."""
    return f"Conversation {number} is the one here."


def compact_too_long(limit: int) -> str:
    """What the summary is to keep can be said shorter."""
    return f"Say in at most {limit:,} characters what the summary is to keep."


def compacted(before: int, after: int) -> str:
    """A summary took its place."""
    if not after:
        return (
            f"The conversation of {before:,} tokens is a summary now. The files stay as they are."
        )
    return (
        f"The conversation is a summary now: {after:,} tokens where there were {before:,}. "
        "The files stay as they are."
    )


def not_compacted(words: str) -> str:
    """The CLI's own words."""
    return f"The conversation is as it was. Claude Code says: {quote(words, max_chars=300)}"
