"""What the CLI was answered, until the runner says that it has the answer.

Rule: a request counts as answered when its answer was applied, not when it was written: what was
written into a connection that is just ending is gone, and the CLI would wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.turn_view import TurnView
from orchestrator.model import Seq, SessionId, TurnId
from orchestrator.rooms.tool_asking import Reply
from orchestrator.runners.link import RunnerLink


class TurnReplies:
    """Invariant: holds the answers that were written and neither applied nor refused."""

    def __init__(self, turn_id: TurnId) -> None:
        self._turn_id = turn_id
        self._open: dict[str, tuple[str, str]] = {}

    def __repr__(self) -> str:
        return f"<TurnReplies {sorted(self._open)}>"

    async def send(
        self, link: RunnerLink, session: SessionId, seq: Seq, request_id: str, line: str
    ) -> None:
        """Answer the frame `seq`. Its number makes the id: what the CLI says can't be one."""
        command_id = self._note(seq, request_id, line)
        await link.send_line(command_id, session, line)

    def note_all(self, replies: Iterable[Reply]) -> None:
        """These are to be sent: where the connection is lost at one, a new attach sends each."""
        for reply in replies:
            self._note(reply.seq, reply.request_id, reply.line)

    def _note(self, seq: Seq, request_id: str, line: str) -> str:
        command_id = f"{self._turn_id}:reply:{seq}"
        self._open[command_id] = (request_id, line)
        return command_id

    async def send_again(self, link: RunnerLink, session: SessionId) -> None:
        """After a new attach: each is applied once, however often it is sent."""
        for command_id, (_, line) in self._open.items():
            await link.send_line(command_id, session, line)

    def settle(self, command_id: str, view: TurnView) -> None:
        """The runner has it, or never takes it (its session has ended)."""
        if command_id in self._open:
            view.answered(self._open.pop(command_id)[0])
