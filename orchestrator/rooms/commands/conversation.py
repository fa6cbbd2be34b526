"""`!cancel`, `!steer`, `!new`, `!retry`, `!sessions`, `!resume`: what a conversation does next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from orchestrator.core import texts
from orchestrator.core.piece import encode_pieces
from orchestrator.core.policy import Message
from orchestrator.core.texts import conversation as conversation_texts
from orchestrator.core.thread import MAIN, thread_of
from orchestrator.rooms.outgoing import build_turn_notice_rows
from orchestrator.rooms.room_command import Refused, Reply, RoomCommand
from orchestrator.store.api import NewOutboxRow, TurnRow
from orchestrator.store.command_effect import Retry, RetryVerdict
from orchestrator.store.session_table import Resumed, resume_session
from orchestrator.store.steer_table import NewSteer, add_steer

# A screen of a phone.
_LISTED = 15
_NUMBER = re.compile(r"[0-9]{1,6}")


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
        doing.seq,
        doing.worker.room_id,
        doing.conversation,
        doing.event_id,
        rows,
        now=doing.now,
    )
    if turn is not None:
        doing.worker.cancel(turn.turn_id)


async def steer(doing: RoomCommand, argument: str) -> None:
    """Say something into the running turn of this conversation."""
    if not argument:
        await doing.say(Refused(conversation_texts.STEER_FORM))
        return
    current = doing.worker.current_in(doing.conversation)
    if current is None:
        await doing.say(Refused(conversation_texts.NOTHING_TO_STEER))
        return
    if (why := await doing.worker.why_not_steer(doing.sender)) is not None:
        await doing.say(Refused(conversation_texts.not_steered(why)))
        return
    message = Message(event_id=doing.event_id, sender=doing.sender, text=argument, name=doing.name)
    named = doing.worker.room.has_several_people
    new = NewSteer(
        turn_id=current.turn_id,
        pieces=encode_pieces([message], name_senders=named),
        inbox=(doing.seq,),
    )
    is_taken = await doing.do(
        partial(add_steer, new=new),
        lambda is_taken: (
            conversation_texts.STEERED if is_taken else Refused(conversation_texts.NOTHING_TO_STEER)
        ),
    )
    if is_taken:
        doing.worker.note_steered(current.turn_id, doing.sender)


async def begin_anew(doing: RoomCommand, _: str) -> None:
    """Forget the conversation; the next turn starts another."""
    text = texts.NEW_CONVERSATION_WHEN_IDLE if _is_busy(doing) else texts.NEW_CONVERSATION
    if doing.conversation != MAIN and not _is_busy(doing):
        text = conversation_texts.NEW_IN_THREAD
    await doing.kit.store.begin_anew(
        doing.seq, doing.worker.room_id, doing.conversation, doing.rows(text), now=doing.now
    )


def _is_busy(doing: RoomCommand) -> bool:
    """Whether a turn of this conversation runs."""
    return doing.worker.current_in(doing.conversation) is not None


async def list_sessions(doing: RoomCommand, _: str) -> None:
    """The conversations that the room has had."""
    sessions, room_id = doing.kit.store.sessions, doing.worker.room_id
    here = await sessions.get(room_id, doing.conversation)
    past = await sessions.past(room_id, limit=_LISTED)
    listed = [
        conversation_texts.Listed(
            number=one.number,
            title=one.title,
            turns=one.turns,
            age=f"{texts.duration(max(0, round(doing.now - one.used_at)))} ago",
            is_here=here is not None and here.resumable and here.session_id == one.session_id,
            in_thread=thread_of(one.conversation) is not None,
        )
        for one in past
    ]
    await doing.say(
        conversation_texts.sessions(listed) if listed else conversation_texts.NO_SESSIONS
    )


async def resume(doing: RoomCommand, argument: str) -> None:
    """Go on with an earlier conversation, here."""
    if not _NUMBER.fullmatch(argument):
        await doing.say(Refused(conversation_texts.RESUME_FORM))
        return
    number, is_busy = int(argument), _is_busy(doing)
    effect = partial(
        resume_session,
        room_id=doing.worker.room_id,
        session=doing.conversation,
        number=number,
    )

    def answer(resumed: Resumed | None) -> Reply:
        if resumed is None:
            return Refused(conversation_texts.no_session(number))
        if resumed.is_here:
            return conversation_texts.already(number)
        return conversation_texts.resumed(
            number, resumed.past.title, is_busy=is_busy, is_copy=resumed.is_copy
        )

    await doing.do(effect, answer)


async def retry(doing: RoomCommand, _: str) -> None:
    """Queue the message again whose turn was the last to end without an answer."""
    result = await doing.kit.store.retry(
        doing.seq,
        doing.worker.room_id,
        doing.conversation,
        doing.event_id,
        lambda result: _retry_rows(doing, result),
        by=doing.sender,
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
            return doing.rows(Refused(texts.RETRY_RUNS))
        case RetryVerdict.DONE:
            return doing.rows(Refused(texts.RETRY_DONE))
        case RetryVerdict.TOO_OLD:
            return doing.rows(Refused(texts.RETRY_TOO_OLD))
        case RetryVerdict.TAKEN_BACK:
            return doing.rows(Refused(texts.RETRY_TAKEN_BACK))
        case RetryVerdict.QUEUE_FULL:
            return doing.rows(Refused(texts.queue_full(gateway.max_queued_turns)))
        case _:
            return doing.rows(Refused(texts.RETRY_NOTHING))
