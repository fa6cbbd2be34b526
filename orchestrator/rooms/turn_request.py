"""What a running turn's CLI asks for and waits for: of people by its tools, and to send a file.

Rule: none of it is waited for by whoever follows the turn. Frames go on being taken in, whatever a
person or a file takes; an answer is there for the follower when `is_due` says so.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.turn_view import FileWanted, PermissionAsked
from orchestrator.model import Seq
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.sending import RoomSending, Starter
from orchestrator.rooms.tool_asking import Reply, ToolAsking
from orchestrator.store.api import TurnRow


class TurnRequests:
    """Of one turn. Invariant: a request is answered once, by `begin` or by `look`."""

    def __init__(
        self,
        kit: Kit,
        profile: RoomProfile,
        turn: Callable[[], TurnRow],
        *,
        start: Starter,
        wake: Callable[[], None],
    ) -> None:
        """`start`s tasks beside the turn; `wake`s whoever follows it."""
        self.asking = ToolAsking(kit, profile, turn)
        self._sending = RoomSending(kit, profile.files, turn, start=start, wake=wake)

    def __repr__(self) -> str:
        return f"<TurnRequests {self.asking!r} {self._sending!r}>"

    @property
    def is_due(self) -> bool:
        """Whether `look` may have an answer."""
        return self.asking.is_due or self._sending.is_due

    def note_decided(self) -> None:
        """Something that the room was asked was decided."""
        self.asking.is_due = True

    async def begin(
        self, asked: PermissionAsked | FileWanted, seq: Seq, connection: Connection
    ) -> Reply | None:
        """Begin with it; its answer, where there is one at once."""
        if isinstance(asked, FileWanted):
            return self._sending.begin(asked, seq, connection)
        return await self.asking.begin(asked, seq)

    async def look(self) -> list[Reply]:
        """The answers that there are by now."""
        decided = await self.asking.look() if self.asking.is_due else []
        return [*decided, *self._sending.take_done()]

    async def withdraw(self, request_id: str) -> None:
        """The CLI took the request back."""
        self._sending.withdraw(request_id)
        await self.asking.withdraw(request_id)

    async def close(self) -> None:
        """The turn ends: nothing is sent from here on."""
        await self._sending.close()
