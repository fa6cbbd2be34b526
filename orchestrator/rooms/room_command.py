"""What a room's commands share: who gave one, how it is answered, what it may touch.

What a command does stands in a module of `rooms.commands`. It takes effect in the transaction that
stores its answer: a crash before that repeats the whole command, a crash after it nothing of it;
what is left to do then (stopping the turn that was marked) follows from what is stored.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.core.reason import COMMAND
from orchestrator.core.role import Permissions
from orchestrator.core.texts import status_page as page_texts
from orchestrator.model import EventId, TurnOutcome, UserId
from orchestrator.rooms.egress_asking import EgressAsking
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.patience import Patience
from orchestrator.rooms.worker import RoomWorker
from orchestrator.store.api import NewOutboxRow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a command that changed nothing, and why: a program that waits fails by it."""

    text: str


Reply = str | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomCommand:
    """One command in one room: `seq` is its inbox row, `event_id` what the answer replies to."""

    kit: Kit
    asking: EgressAsking
    worker: RoomWorker
    seq: int
    event_id: EventId
    sender: UserId
    name: str | None
    """The sender's display name, cleaned."""
    conversation: str
    """Of the thread that it was given in (core.thread)."""
    permissions: Permissions
    """The sender's, in this room."""
    errands: Patience
    """For what asks the homeserver: other messages don't wait for it."""
    is_from_page: bool = False
    """Given on the status page: there is no message to reply to, and the room is told whose it is.
    """

    @property
    def now(self) -> float:
        """Unix time."""
        return self.kit.wall_clock()

    async def say(self, reply: Reply) -> None:
        """Answer, and change nothing."""
        await self.kit.store.answer(self.seq, self.rows(reply), reason=COMMAND, now=self.now)

    async def do(
        self, effect: Callable[[sqlite3.Connection], T], answer: Callable[[T], Reply]
    ) -> T:
        """Change something in the store, and answer with what came of it, in one transaction."""
        return await self.kit.store.answer_with(
            self.seq, effect, lambda result: self.rows(answer(result)), now=self.now
        )

    def rows(self, reply: Reply) -> list[NewOutboxRow]:
        """The answer, as a reply to the command."""
        is_refused = isinstance(reply, Refused)
        text = reply.text if isinstance(reply, Refused) else reply
        if self.is_from_page:
            text = page_texts.from_page(text)
        return build_notice_rows(
            self.worker.room_id,
            f"{self.event_id}:command",
            text,
            max_event_bytes=self.kit.config.gateway.max_event_bytes,
            reply_to=None if self.is_from_page else self.event_id,
            outcome=TurnOutcome.REFUSED if is_refused else TurnOutcome.DONE,
        )
