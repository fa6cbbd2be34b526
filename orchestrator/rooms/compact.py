"""`!compact`: a summary takes the place of the conversation so far, in the CLI's own way.

What the CLI was told twice, because of a crash, makes a summary of the summary, and no harm.
"""

from __future__ import annotations

import asyncio
import uuid

from orchestrator.core.cli_event import AssistantMessage, CompactBoundary, Result, TextBlock
from orchestrator.core.cli_input import build_compact
from orchestrator.core.stream import parse_line
from orchestrator.core.texts import conversation as texts
from orchestrator.errors import RunnerError
from orchestrator.model import SessionId, TurnOutcome
from orchestrator.rooms.cli_session import CliSessions
from orchestrator.rooms.connection import Item, LinkLost
from orchestrator.rooms.errand import Answer, ErrandWork, fail, refuse
from orchestrator.runners.event import CliLine, SessionExited

# The model reads the whole conversation once more, and writes a page or two.
_COMPACT_S = 600.0
MAX_WISH_CHARS = 2000


async def compact(work: ErrandWork) -> Answer:
    """Summarise the conversation of the thread, or of the room."""
    if len(work.errand.argument) > MAX_WISH_CHARS:
        return refuse(texts.compact_too_long(MAX_WISH_CHARS))
    stored = await work.kit.store.sessions.get(work.room.room_id, work.conversation)
    if stored is None or not stored.resumable:
        return refuse(texts.NOTHING_TO_COMPACT)
    connection = await work.connect()
    link = await connection.ready()
    sessions = CliSessions(
        work.room.room_id, work.conversation, work.profile, work.kit, work.runner
    )
    session = await sessions.ensure(link)
    ear, message = _Ear(session.session_id), str(uuid.uuid4())
    connection.listeners.add(ear.hear)
    try:
        line = build_compact(" ".join(work.errand.argument.split()), message_uuid=message)
        await link.send_line(f"compact:{message}", session.session_id, line)
        async with asyncio.timeout(_COMPACT_S):
            await ear.ended
    except (TimeoutError, asyncio.CancelledError) as e:
        # The next turn resumes the conversation as it was.
        await link.signal_session(f"compact:{message}:stop", session.session_id, "kill")
        if isinstance(e, asyncio.CancelledError):
            raise
        return Answer(text=texts.COMPACT_TIMED_OUT, outcome=TurnOutcome.TIMED_OUT)
    finally:
        connection.listeners.discard(ear.hear)
    if ear.border is None:
        return fail(texts.not_compacted(ear.words))
    return Answer(text=texts.compacted(ear.border.pre_tokens, ear.border.post_tokens))


class _Ear:
    """Hears what the CLI says of one `/compact`. Invariant: `ended` is set once its result came."""

    def __init__(self, session: SessionId) -> None:
        self._session = session
        self.border: CompactBoundary | None = None
        self.words = ""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<_Ear {self._session}>"

    def hear(self, item: Item) -> None:
        """Whatever the runner says."""
        if self.ended.done():
            return
        match item:
            case CliLine() if item.session == self._session:
                self._line(item)
            case SessionExited() if item.session == self._session:
                self.ended.set_exception(RunnerError("Claude Code ended before it was done"))
            case LinkLost():
                self.ended.set_exception(RunnerError("the connection to the runner was lost"))
            case _:
                pass

    def _line(self, item: CliLine) -> None:
        match parse_line(item.line):
            case CompactBoundary() as border:
                self.border = border
            case AssistantMessage() as said:
                self.words = "".join(b.text for b in said.blocks if isinstance(b, TextBlock))
            case Result():
                self.ended.set_result(None)
            case _:
                pass
