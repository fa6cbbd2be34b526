"""Which of a room's messages are the answer to ours, and when it is complete. Pure.

The agent's messages arrive in the order of their parts: its outbox keeps the order within a room,
and so does the homeserver. They carry `org.aiagentchat.turn`, which names the events that asked;
an answer that takes the place of what showed the turn's progress is one like others. What is
answered without a turn, as a room command is, carries `org.aiagentchat.answer`: what it answers,
whether that is all of it, and what came of it (docs/protocol.md).
Others in the room can write that key, too: where the agent is known only its word counts, and where
it is not, the first one that answers is the one that is listened to.
"""

from __future__ import annotations

from dataclasses import dataclass

from cchat.event import AnswerMark, Kind, Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something to show. `is_answer` is False for what is said about the turn, or about no turn."""

    said: Said
    is_answer: bool


class Answer:
    """Listens for the answer to one event. Invariant: after `outcome` is set, nothing is taken."""

    def __init__(self, asked: str, *, me: str, agent: str | None) -> None:
        self._asked = asked
        self._me = me
        self._agent = agent
        self._seen: set[str] = set()
        self.outcome: str | None = None
        self.turn: str | None = None

    def __repr__(self) -> str:
        return f"Answer({self._asked!r}, agent={self._agent!r}, outcome={self.outcome!r})"

    def take(self, said: Said) -> Line | None:
        """What to show of one message, if anything; sets `outcome` at its end."""
        if self.outcome is not None or said.event_id in self._seen or not self._may_speak(said):
            return None
        self._seen.add(said.event_id)
        if said.mark is not None:
            return self._take_marked(said)
        if said.answers is not None:
            return self._take_answer(said, said.answers)
        return Line(said=said, is_answer=False) if said.kind is Kind.NOTICE else None

    def _take_answer(self, said: Said, mark: AnswerMark) -> Line | None:
        if mark.to != self._asked:
            return None
        self._agent = said.sender
        if mark.final:
            self.outcome = mark.outcome or "done"
        return Line(said=said, is_answer=not mark.live)

    def _take_marked(self, said: Said) -> Line | None:
        mark = said.mark
        if mark is None or self._asked not in mark.asked:
            return None
        self._agent, self.turn = said.sender, mark.turn
        if mark.final:
            self.outcome = mark.outcome or "failed"
        if said.kind is Kind.MARK:
            return None
        return Line(said=said, is_answer=said.kind is not Kind.NOTICE)

    def _may_speak(self, said: Said) -> bool:
        if said.is_edit or said.sender == self._me:
            return False
        return self._agent is None or said.sender == self._agent
