"""How a running turn is stopped: why, since when, and which steps of the ladder were taken."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from loguru import logger

from orchestrator.core.cli_input import build_interrupt
from orchestrator.core.ladder import KillLadder, LadderStep
from orchestrator.model import SessionId, TurnId, TurnOutcome
from orchestrator.runners.link import RunnerLink

# A stop that meets one lost connection after the other must end all the same.
_MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a turn is being stopped."""

    outcome: TurnOutcome
    reason: str | None


class TurnStop:
    """Invariant: the first reason counts, and each step is taken once on a connection."""

    def __init__(self, turn_id: TurnId) -> None:
        self.asked: Stop | None = None
        self._turn_id = turn_id
        self._ladder = KillLadder()
        self._since = 0.0
        self._taken: set[LadderStep] = set()
        self._restarts = 0
        self.closes_session = False
        """Whether the CLI was told to end: it must not be given another turn."""

    def __repr__(self) -> str:
        return f"<TurnStop {self.asked} taken={sorted(self._taken)}>"

    @property
    def since(self) -> float:
        """When the stop was asked for, or began again after a new attach (loop time)."""
        return self._since

    def ask(self, outcome: TurnOutcome, reason: str | None) -> None:
        """Stop it. The first reason counts."""
        if self.asked is None:
            self.asked = Stop(outcome=outcome, reason=reason)
            self._since = asyncio.get_running_loop().time()
            logger.bind(
                action="turn.stop", turn=self._turn_id, outcome=outcome, reason=reason
            ).info("stopping")

    def restart(self, now: float) -> None:
        """After a new attach: what was said before may not have arrived."""
        if self.asked is not None and self._restarts < _MAX_RESTARTS:
            self._restarts += 1
            self._since = now
            self._taken.clear()

    def next_step_at(self, now: float) -> float | None:
        """When the next step is due (loop time)."""
        if self.asked is None:
            return None
        step_at_s = self._ladder.next_step_at_s(now - self._since)
        return None if step_at_s is None else self._since + step_at_s

    async def climb(self, now: float, link: RunnerLink, session: SessionId) -> bool:
        """Take the step that is due; True: only removing the runner is left.

        Raises:
            WireError: the link failed; the step counts as taken on it.
        """
        if self.asked is None:
            return False
        step = self._ladder.step(now - self._since)
        if step in self._taken:
            return step is LadderStep.REMOVE
        self._taken.add(step)
        self.closes_session = self.closes_session or step is not LadderStep.INTERRUPT
        logger.bind(action="turn.ladder", turn=self._turn_id, step=step).info("next step")
        # An id of its own for each attach: the shim applies one once.
        command = f"{self._turn_id}:{step}:{self._restarts}"
        match step:
            case LadderStep.INTERRUPT:
                await link.send_line(command, session, build_interrupt(command))
            case LadderStep.CLOSE:
                await link.close_session(f"{command}:stdin", session)
                await link.signal_session(command, session, "terminate")
            case LadderStep.KILL:
                await link.signal_session(command, session, "kill")
            case LadderStep.REMOVE:
                return True
        return False
