"""`!cancel`, `!new`, `!retry`: what a room's conversation does next."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core import texts
from orchestrator.rooms.outgoing import build_turn_notice_rows
from orchestrator.rooms.room_command import RoomCommand
from orchestrator.rooms.worker import MAIN
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.command_effect import Retry, RetryVerdict


async def cancel(doing: RoomCommand, _: str) -> None:
    """Cancel the first turn from before the command; where none runs, a command that takes time."""
    errands = doing.worker.errands
    if doing.worker.current is None and errands.can_cancel:
        await doing.say(texts.CANCEL_ASKED)
        errands.cancel()
        return

    def rows(turn: TurnRow | None) -> Sequence[NewOutboxRow]:
        return doing.rows(texts.CANCEL_ASKED if turn else texts.CANCEL_NOTHING)

    turn = await doing.kit.store.cancel(
        doing.seq, doing.worker.room_id, doing.event_id, rows, now=doing.now
    )
    if turn is not None:
        doing.worker.cancel(turn.turn_id)


async def begin_anew(doing: RoomCommand, _: str) -> None:
    """Forget the conversation; the next turn starts another."""
    is_idle = doing.worker.current is None
    text = texts.NEW_CONVERSATION if is_idle else texts.NEW_CONVERSATION_WHEN_IDLE
    await doing.kit.store.begin_anew(
        doing.seq, doing.worker.room_id, MAIN, doing.rows(text), now=doing.now
    )


async def retry(doing: RoomCommand, _: str) -> None:
    """Queue the message again whose turn was the last to end without an answer."""
    result = await doing.kit.store.retry(
        doing.seq,
        doing.worker.room_id,
        doing.event_id,
        lambda result: _retry_rows(doing, result),
        max_queued=doing.kit.config.gateway.max_queued_turns,
        now=doing.now,
    )
    if result.turn is not None:
        doing.worker.wake()


def _retry_rows(doing: RoomCommand, result: Retry) -> Sequence[NewOutboxRow]:
    gateway = doing.kit.config.gateway
    if result.turn is not None:
        # Marked as the turn's and not a reply: whoever sent the command waits for the answer.
        text = texts.retrying(result.turn.prompt, result.ahead)
        limit = gateway.max_event_bytes
        return build_turn_notice_rows(result.turn, "retry", text, max_event_bytes=limit)
    match result.verdict:
        case RetryVerdict.RUNS:
            return doing.rows(texts.RETRY_RUNS)
        case RetryVerdict.DONE:
            return doing.rows(texts.RETRY_DONE)
        case RetryVerdict.TOO_OLD:
            return doing.rows(texts.RETRY_TOO_OLD)
        case RetryVerdict.QUEUE_FULL:
            return doing.rows(texts.queue_full(gateway.max_queued_turns))
        case _:
            return doing.rows(texts.RETRY_NOTHING)
