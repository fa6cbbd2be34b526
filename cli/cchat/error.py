"""What can go wrong in `cchat` alone, and every exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from orchestrator.errors import (
    AiAgentChatError,
    ConfigError,
    ControlError,
    MatrixError,
    PreconditionError,
)


class UsageError(AiAgentChatError):
    """What was typed can't be done. Look at: cchat --help."""

    exit_code: ClassVar[int] = 2


class Exit(IntEnum):
    """Each code has one meaning, so that a script knows whether a turn ran."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    TIMED_OUT = 4
    INTERRUPTED = 5
    CANCELLED = 6
    OUT_OF_MEMORY = 7
    REFUSED = 8
    HOMESERVER = 9
    BUG = 70
    """EX_SOFTWARE of sysexits.h."""
    NO_END = 124
    """As timeout(1) has it."""
    CTRL_C = 130
    BROKEN_PIPE = 141


# The outcomes of `orchestrator.model.TurnOutcome`, as they come in a message.
_OUTCOMES = {
    "done": Exit.OK,
    "failed": Exit.FAILED,
    "timed_out": Exit.TIMED_OUT,
    "interrupted": Exit.INTERRUPTED,
    "cancelled": Exit.CANCELLED,
    "out_of_memory": Exit.OUT_OF_MEMORY,
    "refused": Exit.REFUSED,
}

EXIT_HELP = """\
\b
Exit codes:
  0    sent; with --wait: the turn, or the room command, is done
  1    it failed
  2    wrong usage or settings, an unknown or an encrypted room
  3    no orchestrator answers
  4    it met its time limit
  5    the turn was interrupted (its runner died)
  6    it was cancelled
  7    the turn ran out of memory
  8    it was refused (for instance: the queue is full, there is no such command)
  9    the homeserver does not answer, or refuses
  70   a bug in cchat
  124  the turn had no end within --timeout; it goes on
  130  Ctrl-C
"""


def exit_of_outcome(outcome: str) -> Exit:
    """Of a turn's or a command's outcome; one that a newer orchestrator invented is a failure."""
    return _OUTCOMES.get(outcome, Exit.FAILED)


def exit_of_error(error: AiAgentChatError) -> Exit:
    """The exit code of an error: nothing was answered."""
    match error:
        case UsageError() | ConfigError():
            return Exit.USAGE
        case PreconditionError() | ControlError():
            return Exit.NOT_RUNNING
        case MatrixError():
            return Exit.HOMESERVER
        case _:
            return Exit.BUG
