"""How following a turn can stop before its end: each says what its driver has to do."""

from __future__ import annotations

from orchestrator.errors import RunnerError


class ResumeFailedError(RunnerError):
    """The CLI could not resume the session; the turn did not start."""


class NotTakenError(RunnerError):
    """The session took no input: it ended before. The turn is offered again to another process."""


class StuckError(RunnerError):
    """The runner does not even react to a kill; it has to be replaced."""
