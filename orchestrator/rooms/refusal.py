"""What a room can't take: told once in a flood, and marked as ended for each that was refused.

A flood must not make more messages than the account may send, and yet whoever waits for one of its
turns (a program, by its mark) must learn that it has ended. So the first one gets a message. The
ones after it are collected in one refused turn, in the database, and a minute later one event that
clients don't show names all of them; it waits until the room has nothing else to be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from orchestrator.core import texts
from orchestrator.core.naming import turn_id
from orchestrator.core.policy import Message
from orchestrator.core.sender_limit import Episodes
from orchestrator.core.thread import conversation_in
from orchestrator.model import RoomId, TurnId, TurnOutcome
from orchestrator.rooms.flood import Flood
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import Final, build_refusal_mark_row, build_turn_notice_rows
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.turn_table import NewTurn, Refusal

QUEUE_FULL = "the queue is full"
# A program that waits for one of many refused turns waits so long at most, with an idle outbox.
MARK_AFTER_S = 60.0
_LOOK_S = 10.0
_FINAL = Final(outcome=TurnOutcome.REFUSED)


class Refusals:
    """Invariant: of a flood that goes on, one message says so."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._floods = Episodes()

    def __repr__(self) -> str:
        return f"<Refusals {self._floods!r}>"

    async def run(self) -> NoReturn:
        """Mark what was collected, until cancelled; what an earlier life collected, too."""
        while True:
            now = self._kit.wall_clock()
            for turn in await self._kit.store.turns.unmarked(until=now - MARK_AFTER_S):
                await self._kit.store.turns.advance(
                    turn.turn_id, None, rows=[build_refusal_mark_row(turn, _FINAL)], now=now
                )
                self._kit.notify_outbox()
            await asyncio.sleep(_LOOK_S)

    def queue_full(self, room_id: RoomId) -> Refusal:
        """How a turn is refused for which the queue has no place."""
        text = texts.queue_full(self._kit.config.gateway.max_queued_turns)
        return self._refusal(QUEUE_FULL, text, is_told=self._is_on(room_id, QUEUE_FULL))

    def note_queue_full(self, room_id: RoomId) -> None:
        """It was refused."""
        self._floods.note((room_id, QUEUE_FULL), now=self._kit.wall_clock())

    async def refuse(
        self, room_id: RoomId, seq: int, message: Message, why: Flood, *, cancels: bool = False
    ) -> TurnId | None:
        """Refuse one message, with its inbox row; one that `cancels` a turn does that at once.

        Returns the turn that it cancelled.
        """
        flood = (room_id, message.sender)
        turn = NewTurn(
            turn_id=turn_id(room_id, message.event_id),
            room_id=room_id,
            session=conversation_in(message.thread),
            prompt="",
            sender=message.sender,
            asked=(message.event_id,),
            inbox=(seq,),
        )
        refusal = self._refusal(why, self._words(why), is_told=self._is_on(*flood))
        cancelled, now = None, self._kit.wall_clock()
        if cancels:
            cancelled = await self._kit.store.refuse_cancel(turn, refusal, now=now)
        else:
            await self._kit.store.turns.refuse(turn, refusal, now=now)
        self._floods.note(flood, now=self._kit.wall_clock())
        self._kit.notify_outbox()
        return cancelled

    def _words(self, why: Flood) -> str:
        settings = self._kit.config.gateway
        if why is Flood.TOO_MUCH_TO_SAY:
            return texts.TOO_MUCH_TO_SAY
        return texts.too_fast(settings.sender_burst, settings.sender_per_minute)

    def _is_on(self, room_id: RoomId, what: str) -> bool:
        return self._floods.is_on((room_id, what), now=self._kit.wall_clock())

    def _refusal(self, reason: str, text: str, *, is_told: bool) -> Refusal:
        max_event_bytes = self._kit.config.gateway.max_event_bytes

        def notices(turn: TurnRow) -> Sequence[NewOutboxRow]:
            return build_turn_notice_rows(
                turn, "refused", text, max_event_bytes=max_event_bytes, final=_FINAL, replies=True
            )

        return Refusal(
            reason=reason,
            notices=None if is_told else notices,
            # Three quarters of it fit when it is encrypted; a batch's own events come on top.
            max_asked_chars=max_event_bytes // 2,
        )
