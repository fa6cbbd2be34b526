"""The end of a turn that no runner takes part in: refused, withdrawn, or lost with its runner."""

from __future__ import annotations

from collections import deque

from loguru import logger

from orchestrator.config import RoomProfile
from orchestrator.core import texts
from orchestrator.model import Epoch, Seq, TurnOutcome
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.turn_output import TurnOutput
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
        """Behind a sentence: a colon and the words, or nothing."""
        words = "\n".join(self._texts)[-_STDERR_CHARS:].strip()
        return f": {words}" if words else ""


async def end_turn(
    turn: TurnRow, outcome: TurnOutcome, reason: str | None, *, kit: Kit, profile: RoomProfile
) -> TurnRow:
    """Store the end and the sentence that the room reads; returns the stored row."""
    output = TurnOutput(turn, kit=kit, epoch=Epoch(""), acked=Seq(0))
    sentence = render_end(outcome, reason, profile)
    logger.bind(
        action="turn.end", room=turn.room_id, turn=turn.turn_id, outcome=outcome, reason=reason
    ).info("turn ended")
    return await output.end(outcome, reason=reason, sentence=sentence, store_acked=False)


def render_end(outcome: TurnOutcome, reason: str | None, profile: RoomProfile) -> str:
    """The sentence that ends a turn without an answer. A reason may be a sentence, too."""
    return texts.ended(
        outcome,
        reason=reason.strip().rstrip(".") if reason else reason,
        timeout_s=profile.timeout_s,
        ceiling_s=profile.ceiling_s,
        limits=profile.limits.limits(),
    )
