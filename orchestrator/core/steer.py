"""How far a message has come that goes into a running turn."""

from __future__ import annotations

from enum import StrEnum


class SteerState(StrEnum):
    """In this order; a runner that refuses one takes it back to OPEN."""

    OPEN = "open"
    """It has not left this process."""
    OFFERED = "offered"
    """It may have reached the runner."""
    GIVEN = "given"
    """The runner has it."""
    ANSWERED = "answered"
    """A result of the CLI names it."""
