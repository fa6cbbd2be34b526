"""How a turn that must end is ended: first asked, then told, then killed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LadderStep(StrEnum):
    """What to do to a turn that must end; each step includes that the ones before didn't help."""

    INTERRUPT = "interrupt"
    """Ask the CLI by its control protocol; it ends the turn and lives on."""
    CLOSE = "close"
    """Close the CLI's input and send SIGTERM to its process group."""
    KILL = "kill"
    """SIGKILL to everything of the session; the shim lives on."""
    REMOVE = "remove"
    """Remove the container: its shim does not do what it is told. The last step; it can't fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillLadder:
    """The pace of the steps, in seconds each step is given before the next one.

    The sum of the defaults keeps a hung turn's end within 20 s of its detection: an interrupted CLI
    answers within a second, what takes longer than 5 s hangs; after SIGTERM the same holds.
    """

    interrupt_s: float = 5.0
    close_s: float = 5.0
    kill_s: float = 5.0

    def __post_init__(self) -> None:
        if min(self.interrupt_s, self.close_s, self.kill_s) < 0:
            msg = "a step can't take less than no time"
            raise ValueError(msg)

    def step(self, elapsed_s: float) -> LadderStep:
        """The step that is due `elapsed_s` after the stop was asked for."""
        due = LadderStep.INTERRUPT
        for starts_s, step in self._starts():
            if elapsed_s >= starts_s:
                due = step
        return due

    def next_step_at_s(self, elapsed_s: float) -> float | None:
        """When the next step starts, in seconds after the stop was asked for; None at the last."""
        return next((starts_s for starts_s, _ in self._starts() if starts_s > elapsed_s), None)

    def _starts(self) -> tuple[tuple[float, LadderStep], ...]:
        close_at_s = self.interrupt_s
        kill_at_s = close_at_s + self.close_s
        return (
            (0.0, LadderStep.INTERRUPT),
            (close_at_s, LadderStep.CLOSE),
            (kill_at_s, LadderStep.KILL),
            (kill_at_s + self.kill_s, LadderStep.REMOVE),
        )
