"""What connects one turn to its runner: an attach, and the line of the turn's session on it."""

from __future__ import annotations

import asyncio

from orchestrator.errors import WireClosedError
from orchestrator.model import Seq, SessionId
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.line import Line, LineItem
from orchestrator.runners.link import RunnerLink

# What the runner kept while nobody listened (8 MiB) is here within a second or two. Until it is,
# or this time is over, silence says nothing of the turn.
_REPLAY_S = 30.0


class TurnLink:
    """Invariant: an open line is one of `connection`."""

    def __init__(self, connection: Connection, link: RunnerLink) -> None:
        self.connection = connection
        """The one that the turn goes on over, or went on last."""
        self.link = link
        self.attached_at = asyncio.get_running_loop().time()
        self._line: Line | None = None
        self._lost_at: float | None = None

    def __repr__(self) -> str:
        return f"<TurnLink {self._line!r}>"

    def use(self, connection: Connection, link: RunnerLink, session: SessionId) -> Line | None:
        """Listen over this attach, which may be a new one; the line, where it is another."""
        self._lost_at = None
        if connection is not self.connection:
            self.attached_at = asyncio.get_running_loop().time()
        elif self._line is not None and self._line.session == session:
            return None
        self.close()
        self.connection, self.link = connection, link
        self._line = connection.open_line(session)
        return self._line

    def lost_at(self) -> float:
        """Since when (loop time) the turn is without a connection: since this was first asked."""
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()
        return self._lost_at

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._line is not None:
            self.connection.close_line(self._line)
            self._line = None

    def nudge(self) -> None:
        """Make a `receive` that is waiting return None now."""
        if self._line is not None:
            self._line.nudge()

    async def receive(self, deadline: float | None) -> LineItem | None:
        """The next item; as `Line.receive`.

        Raises:
            WireClosedError: nobody listens; then `use`.
        """
        if self._line is None:
            raise WireClosedError
        return await self._line.receive(deadline)

    def replay_ends_at(self, received: Seq, now: float) -> float | None:
        """Until when silence says nothing of the turn (loop time), if that is still to come."""
        ends_at = self.attached_at + _REPLAY_S
        is_behind = received + 1 < self.link.welcome.next
        return ends_at if is_behind and now < ends_at else None
