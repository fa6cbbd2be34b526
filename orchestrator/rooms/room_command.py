"""What a room's commands do. Each takes effect in the transaction that stores its answer.

A crash before that transaction repeats the whole command, a crash after it nothing of it; what is
left to do then (stopping the turn that was marked) follows from what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core import texts
from orchestrator.core.command import Command, CommandName, UnknownCommand, render_help
from orchestrator.core.reason import COMMAND
from orchestrator.model import EventId, UserId
from orchestrator.rooms.egress_asking import EgressAsking
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows, build_turn_notice_rows
from orchestrator.rooms.status import render_status
from orchestrator.rooms.worker import MAIN, RoomWorker
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.command_effect import Retry, RetryVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomCommand:
    """One command in one room: `seq` is its inbox row, `event_id` what the answer replies to."""

    kit: Kit
    asking: EgressAsking
    worker: RoomWorker
    seq: int
    event_id: EventId
    sender: UserId

    async def execute(self, command: Command | UnknownCommand | None) -> None:
        """Do it and answer it. Only the store's errors come out."""
        if not isinstance(command, Command):
            name, nearest = (command.name, command.nearest) if command else ("", None)
            await self._say(texts.unknown_command(name, nearest))
            return
        match command.name:
            case CommandName.HELP:
                await self._say(render_help())
            case CommandName.STATUS:
                await self._say(await render_status(self.worker, self.kit))
            case CommandName.CANCEL:
                await self._cancel()
            case CommandName.NEW:
                await self._begin_anew()
            case CommandName.RETRY:
                await self._retry()
            case CommandName.EGRESS:
                await self.asking.obey(
                    self.worker.room_id,
                    self.seq,
                    self.event_id,
                    sender=self.sender,
                    argument=command.argument,
                )

    async def _cancel(self) -> None:
        """Cancel the first turn from before the command."""

        def rows(turn: TurnRow | None) -> Sequence[NewOutboxRow]:
            return self._rows(texts.CANCEL_ASKED if turn else texts.CANCEL_NOTHING)

        turn = await self.kit.store.cancel(
            self.seq, self.worker.room_id, self.event_id, rows, now=self.kit.wall_clock()
        )
        if turn is not None:
            self.worker.cancel(turn.turn_id)

    async def _say(self, text: str) -> None:
        store, now = self.kit.store, self.kit.wall_clock()
        await store.answer(self.seq, self._rows(text), reason=COMMAND, now=now)

    async def _begin_anew(self) -> None:
        is_idle = self.worker.current is None
        text = texts.NEW_CONVERSATION if is_idle else texts.NEW_CONVERSATION_WHEN_IDLE
        rows, now = self._rows(text), self.kit.wall_clock()
        await self.kit.store.begin_anew(self.seq, self.worker.room_id, MAIN, rows, now=now)

    async def _retry(self) -> None:
        retry = await self.kit.store.retry(
            self.seq,
            self.worker.room_id,
            self.event_id,
            self._retry_rows,
            max_queued=self.kit.config.gateway.max_queued_turns,
            now=self.kit.wall_clock(),
        )
        if retry.turn is not None:
            self.worker.wake()

    def _retry_rows(self, retry: Retry) -> Sequence[NewOutboxRow]:
        if retry.turn is not None:
            # Marked as the turn's and not a reply: whoever sent the command waits for the answer.
            text = texts.retrying(retry.turn.prompt, retry.ahead)
            limit = self.kit.config.gateway.max_event_bytes
            return build_turn_notice_rows(retry.turn, "retry", text, max_event_bytes=limit)
        match retry.verdict:
            case RetryVerdict.RUNS:
                return self._rows(texts.RETRY_RUNS)
            case RetryVerdict.DONE:
                return self._rows(texts.RETRY_DONE)
            case RetryVerdict.TOO_OLD:
                return self._rows(texts.RETRY_TOO_OLD)
            case RetryVerdict.QUEUE_FULL:
                return self._rows(texts.queue_full(self.kit.config.gateway.max_queued_turns))
            case _:
                return self._rows(texts.RETRY_NOTHING)

    def _rows(self, text: str) -> list[NewOutboxRow]:
        return build_notice_rows(
            self.worker.room_id,
            f"{self.event_id}:command",
            text,
            max_event_bytes=self.kit.config.gateway.max_event_bytes,
            reply_to=self.event_id,
        )
