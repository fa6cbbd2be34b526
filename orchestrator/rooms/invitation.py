"""Invitations: accepted from those who may use the agent, declined from everybody else.

Rule: an invitation's row stays NEW until the homeserver has answered; a homeserver that does not is
asked again for as long as it takes, since nobody else would ask.
"""

from __future__ import annotations

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.config import AccessConfig
from orchestrator.errors import RequestRefusedError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.model import RoomId, UserId
from orchestrator.ports import Homeserver
from orchestrator.rooms.greeter import Greeter
from orchestrator.rooms.patience import Patience
from orchestrator.store.api import InboxRow, InboxState
from orchestrator.store.inbox_table import InboxTable


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Member(_Outside):
    membership: str


class _Stripped(_Outside):
    type: str
    sender: str
    state_key: str = ""
    content: dict[str, object] = {}


class _Invite(_Outside):
    events: list[_Stripped] = []


class Invitations:
    """Invariant: an invitation has one task from `start` until it was answered."""

    def __init__(
        self,
        *,
        access: AccessConfig,
        autojoin: str,
        me: UserId,
        homeserver: Homeserver,
        inbox: InboxTable,
        patience: Patience,
        greeter: Greeter,
    ) -> None:
        self._access = access
        self._autojoin = autojoin
        self._me = me
        self._homeserver = homeserver
        self._inbox = inbox
        self._patience = patience
        self._greeter = greeter

    def __repr__(self) -> str:
        return f"<Invitations {self._patience!r}>"

    def start(self, row: InboxRow) -> None:
        """Answer the invitation soon."""
        if row.room_id is None:
            msg = f"inbox row {row.seq} can't be answered"
            raise ValueError(msg)
        self._patience.start(self._contained(row, row.room_id), f"invite {row.room_id}")

    async def _contained(self, row: InboxRow, room_id: RoomId) -> None:
        log = logger.bind(room=room_id)
        try:
            welcome = self._is_welcome(_Invite.model_validate_json(row.raw))
            answer = self._homeserver.join if welcome else self._homeserver.leave
            if welcome:
                # Before: the room's first events may be here before the answer is.
                await self._greeter.plan(room_id)
            await self._patience.ask(lambda: answer(room_id))
            reach(FaultPoint.INVITE_ANSWERED)
        except (RequestRefusedError, ValidationError) as e:
            log.bind(action="intake.invite_failed", error=type(e).__name__).warning(
                "invitation not accepted"
            )
            await self._inbox.mark(row.seq, InboxState.FAILED, reason=type(e).__name__)
            return
        log.bind(action="intake.invite", accepted=welcome).info("invitation answered")
        reason = "accepted" if welcome else "declined"
        await self._inbox.mark(row.seq, InboxState.IGNORED, reason=reason)

    def _is_welcome(self, invite: _Invite) -> bool:
        inviter = next(
            (
                e.sender
                for e in invite.events
                if e.type == "m.room.member"
                and e.state_key == self._me
                and _Member.model_validate(e.content).membership == "invite"
            ),
            None,
        )
        return (
            self._autojoin == "allowed_users"
            and inviter is not None
            and self._access.is_allowed(inviter)
        )
