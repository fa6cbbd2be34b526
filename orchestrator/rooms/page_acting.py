"""What was asked for on the status page, done as if it had been said in the room.

It is a row of the inbox, and takes effect in the transaction that marks that row: by the functions
that carry out the room's commands and reactions. So it is done once, whatever crashes, and the room
is told who did it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loguru import logger

from orchestrator.core.page_action import DECISIONS, STATUS_PAGE, PageAction, PageVerb
from orchestrator.core.reason import LEFT_ROOM
from orchestrator.core.role import PERMISSIONS, Role
from orchestrator.core.thread import MAIN
from orchestrator.model import EventId, RoomId, TurnId
from orchestrator.rooms.commands.queue import cancel_turn, restart
from orchestrator.rooms.egress_asking import EgressAsking
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.patience import Patience
from orchestrator.rooms.room_command import RoomCommand
from orchestrator.rooms.worker import RoomWorker
from orchestrator.store.api import InboxRow, InboxState


@dataclass(frozen=True, slots=True, kw_only=True)
class PageActing:
    """Does them; holds nothing."""

    kit: Kit
    asking: EgressAsking
    errands: Patience
    ensure_worker: Callable[[RoomId], Awaitable[RoomWorker | None]]

    async def act(self, row: InboxRow) -> None:
        """Do what the row says, and mark it."""
        action = PageAction.model_validate_json(row.raw)
        room = await self.kit.store.rooms.current(row.room_id or RoomId(""))
        worker = None if room is None else await self.ensure_worker(room.room_id)
        if room is None or worker is None:
            await self.kit.store.inbox.mark(row.seq, InboxState.IGNORED, reason=LEFT_ROOM)
            return
        logger.bind(
            action=f"page.{action.verb}",
            room=room.room_id,
            subject=action.subject,
            sender=STATUS_PAGE,
            audit=True,
        ).info("asked for on the status page")
        if action.verb in (PageVerb.ALLOW, PageVerb.REFUSE):
            await self._decide(row, room.room_id, action)
        elif action.verb is PageVerb.CANCEL:
            await cancel_turn(self._command(row, worker), TurnId(action.subject))
        else:
            await restart(self._command(row, worker), "")
        self.kit.notify_outbox()

    async def _decide(self, row: InboxRow, room_id: RoomId, action: PageAction) -> None:
        approval = await self.kit.store.approvals.get(action.subject)
        event = None if approval is None else DECISIONS[approval.kind].get(action.verb)
        if approval is None or approval.room_id != room_id or event is None:
            await self.kit.store.inbox.mark(row.seq, InboxState.IGNORED, reason="no such question")
            return
        await self.asking.decide(row.seq, approval, event, by=STATUS_PAGE)

    def _command(self, row: InboxRow, worker: RoomWorker) -> RoomCommand:
        return RoomCommand(
            kit=self.kit,
            asking=self.asking,
            worker=worker,
            seq=row.seq,
            event_id=row.event_id or EventId(""),
            sender=STATUS_PAGE,
            name=None,
            conversation=MAIN,
            permissions=PERMISSIONS[Role.ADMIN],
            errands=self.errands,
            is_from_page=True,
        )
