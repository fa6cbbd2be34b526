"""One turn on the runner: offered, followed to its end, stopped when asked or when its time is up.

A turn survives the loss of its connection: `follow` raises, the worker attaches again, and calls
`follow` anew; frames that were taken in are skipped, the others are replayed by the runner.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from loguru import logger

from orchestrator.config import RoomProfile
from orchestrator.core import texts
from orchestrator.core.cli_input import (
    build_interrupt,
    build_permission_deny,
    build_user_message,
    message_uuid,
)
from orchestrator.core.deadline import TurnClock
from orchestrator.core.ladder import KillLadder, LadderStep
from orchestrator.core.lifecycle import TurnEvent
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import (
    Ended,
    PermissionAsked,
    ReplyToCli,
    Show,
    TextReady,
    TurnView,
)
from orchestrator.errors import RunnerError, WireClosedError
from orchestrator.model import Limits, TurnId, TurnOutcome, TurnState
from orchestrator.rooms.connection import Connection, LinkLost
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.turn_output import TurnOutput
from orchestrator.runners.event import (
    Applied,
    CliLine,
    CliStderr,
    LineCut,
    Refused,
    SessionExited,
    UpEvent,
)
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import SessionRow, TurnRow

# Enough of a crashing program's last words to see what it was.
_STDERR_LINES = 12
_STDERR_CHARS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a turn is being stopped, and since when (loop time)."""

    outcome: TurnOutcome
    reason: str | None
    since: float


class ResumeFailedError(RunnerError):
    """The CLI could not resume the session; the turn did not start."""


class StuckError(RunnerError):
    """The runner does not even react to a kill; it has to be replaced."""


class TurnRun:
    """Invariant: `ended` is the stored row once the turn has ended, and None before."""

    def __init__(
        self,
        turn: TurnRow,
        *,
        kit: Kit,
        profile: RoomProfile,
        session: SessionRow,
        link: RunnerLink,
        output: TurnOutput,
        ran_for_s: float = 0.0,
    ) -> None:
        self._kit = kit
        self._profile = profile
        self._session = session
        self._link = link
        self._output = output
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._view = TurnView(
            message_uuid=message_uuid(turn.turn_id), now=now, text_shown=turn.parts > 0
        )
        self._clock = TurnClock(
            timeout_s=profile.timeout_s, ceiling_s=profile.ceiling_s, now=now - ran_for_s
        )
        self._clock.progress(now)
        self._ladder = KillLadder()
        self._stop: Stop | None = None
        self._steps_taken: set[LadderStep] = set()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._bytes = 0
        self._out_of_memory = False
        self._attempt = 0
        self.ended: TurnRow | None = None
        self._log = logger.bind(room=turn.room_id, turn=turn.turn_id)

    def __repr__(self) -> str:
        stop = self._stop.outcome if self._stop else "no"
        return f"<TurnRun {self._output!r} stop={stop} ended={self.ended is not None}>"

    @property
    def turn_id(self) -> TurnId:
        """The turn's id."""
        return self._output.turn.turn_id

    async def offer(self) -> None:
        """Send the turn. The same id is applied once by the runner, however often it is sent."""
        turn = self._output.turn
        if turn.state is TurnState.QUEUED:
            self._output.turn = await self._kit.store.turns.advance(
                turn.turn_id,
                TurnEvent.OFFERED,
                epoch=self._link.welcome.epoch,
                now=self._kit.wall_clock(),
            )
        command_id = turn.turn_id if self._attempt == 0 else f"{turn.turn_id}.{self._attempt}"
        await self._link.send_line(
            command_id,
            self._session.session_id,
            build_user_message(turn.prompt, message_uuid=message_uuid(turn.turn_id)),
        )

    async def offer_in_new_session(self, session: SessionRow) -> None:
        """Send the turn again after a ResumeFailedError: it reached no model."""
        self._session = session
        self._attempt += 1
        self._view = TurnView(
            message_uuid=message_uuid(self.turn_id), now=self._loop.time(), text_shown=False
        )
        self._stderr.clear()
        await self.offer()

    async def offer_again(self) -> None:
        """After a new attach: send it unless the runner has said that it has it."""
        if self._output.turn.state is not TurnState.RUNNING:
            await self.offer()

    def use_link(self, link: RunnerLink) -> None:
        """Go on over a new attach to the same runner."""
        self._link = link

    def stop(self, outcome: TurnOutcome, reason: str | None = None) -> None:
        """Ask for the end. The first reason counts."""
        if self._stop is None:
            self._stop = Stop(outcome=outcome, reason=reason, since=self._loop.time())
            self._log.bind(action="turn.stop", outcome=outcome, reason=reason).info("stopping")

    def note_out_of_memory(self) -> None:
        """The kernel ended a process of this runner for its memory."""
        self._out_of_memory = True

    async def follow(self, connection: Connection) -> TurnRow:
        """Take in frames until the turn has ended; returns its stored row.

        Raises:
            ResumeFailedError: send it with `offer_in_new_session`.
            StuckError: nothing helps but a new container; the turn has ended.
            RunnerError: the connection is lost; the turn goes on in the runner.
        """
        while True:
            await self._act_on_time()
            if self.ended is not None:
                return self.ended
            item = await connection.receive(self._next_deadline())
            if isinstance(item, LinkLost):
                raise item.error
            if item is not None and item.q > self._output.last_seen:
                self._output.saw(item.q)
                await self._take(item)
                await self._output.acknowledge(
                    self._link, self._loop.time(), needed_from=self._view.needs_replay_from
                )

    async def interrupted(self, reason: str) -> TurnRow:
        """End the turn because its runner is gone."""
        if self._out_of_memory:
            return await self._end(TurnOutcome.OUT_OF_MEMORY, None, lost=True)
        if self._stop is not None:
            return await self._end(self._stop.outcome, self._stop.reason, lost=True)
        return await self._end(TurnOutcome.INTERRUPTED, reason, lost=True)

    # What time brings...

    def _next_deadline(self) -> float | None:
        times = [self._output.due_at(), self._clock.next_deadline()]
        if self._stop is not None:
            step_at_s = self._ladder.next_step_at_s(self._loop.time() - self._stop.since)
            times[1] = None if step_at_s is None else self._stop.since + step_at_s
        return min((t for t in times if t is not None), default=None)

    async def _act_on_time(self) -> None:
        now = self._loop.time()
        due = self._output.due_at()
        if due is not None and due <= now:
            await self._output.flush(self._link, now)
        if self._stop is None and (why := self._clock.expired(now)) is not None:
            self.stop(TurnOutcome.TIMED_OUT, why)
        if self._out_of_memory:
            await self._output.notice("memory", texts.memory_limit_met(self._limits()))
        if self._stop is not None:
            await self._climb(self._ladder.step(now - self._stop.since), self._stop)

    async def _climb(self, step: LadderStep, stop: Stop) -> None:
        if step in self._steps_taken:
            return
        self._steps_taken.add(step)
        self._log.bind(action="turn.ladder", step=step).info("next step to stop it")
        turn_id, session = self._output.turn.turn_id, self._session.session_id
        match step:
            case LadderStep.INTERRUPT:
                line = build_interrupt(f"{turn_id}-interrupt")
                await self._link.send_line(f"{turn_id}:interrupt", session, line)
            case LadderStep.CLOSE:
                await self._link.close_session(f"{turn_id}:close", session)
                await self._link.signal_session(f"{turn_id}:terminate", session, "terminate")
            case LadderStep.KILL:
                await self._link.signal_session(f"{turn_id}:kill", session, "kill")
            case LadderStep.REMOVE:
                await self._end(stop.outcome, stop.reason, lost=True)
                raise StuckError

    # What the runner says...

    async def _take(self, event: UpEvent) -> None:
        match event:
            case CliLine() if event.session == self._session.session_id:
                await self._line(event)
            case CliStderr() if event.session == self._session.session_id:
                self._stderr.append(event.text)
            case LineCut() if event.session == self._session.session_id:
                await self._cut(event)
            case SessionExited() if event.session == self._session.session_id:
                await self._exited(event)
            case Applied() if event.command_id.startswith(self._output.turn.turn_id):
                await self._output.applied(self._session.session_id)
            case Refused() if event.command_id.startswith(self._output.turn.turn_id):
                if self._stop is None:
                    await self._end(TurnOutcome.FAILED, f"the runner refused it: {event.why}")
            case _:
                pass

    async def _line(self, event: CliLine) -> None:
        now = self._loop.time()
        self._bytes += len(event.line)
        if self._bytes > self._profile.limits.output_bytes:
            limit = texts.size(self._profile.limits.output_bytes)
            self.stop(TurnOutcome.FAILED, f"it met this room's output limit of {limit}")
        cli = parse_line(event.line)
        if cli.is_progress:
            self._clock.progress(now)
        for show in self._view.feed(cli, seq=event.q, now=now):
            await self._show(show, event, now)

    async def _show(self, show: Show, event: CliLine, now: float) -> None:
        match show:
            case TextReady():
                self._output.add_text(show.text, event.q, now)
            case PermissionAsked():
                await self._deny(show)
            case ReplyToCli():
                await self._reply(f"line:{event.q}", show.line)
            case Ended() if show.session_lost:
                raise ResumeFailedError
            case Ended():
                await self._result(show)
            case _:
                self._log.bind(action="turn.event", event=type(show).__name__).debug("noted")

    async def _deny(self, asked: PermissionAsked) -> None:
        await self._reply(
            asked.request_id, build_permission_deny(asked.request_id, texts.tool_denied(asked.tool))
        )
        self._view.answered(asked.request_id)
        await self._output.notice(
            f"denied:{asked.tool}",
            texts.tool_denied_notice([asked.tool], self._profile.permissions),
        )

    async def _reply(self, key: str, line: str) -> None:
        command_id = f"{self._output.turn.turn_id}:reply:{key}"
        await self._link.send_line(command_id, self._session.session_id, line)

    async def _result(self, ended: Ended) -> None:
        if self._stop is not None:
            await self._end(self._stop.outcome, self._stop.reason)
        else:
            await self._end(ended.outcome, ended.reason)

    async def _cut(self, event: LineCut) -> None:
        self._log.bind(action="turn.line_cut", size_bytes=event.size_bytes).warning("line too long")
        if event.head.startswith('{"type":"result"'):
            await self._end(TurnOutcome.FAILED, "its result was too long to read")
        elif event.head.startswith('{"type":"assistant"'):
            text = f"*[a part of {texts.size(event.size_bytes)} was left out: too long]*"
            self._output.add_text(text, event.q, self._loop.time())

    async def _exited(self, event: SessionExited) -> None:
        if self._stop is not None:
            await self._end(self._stop.outcome, self._stop.reason)
        elif self._out_of_memory:
            await self._end(TurnOutcome.OUT_OF_MEMORY, None)
        else:
            how = f"signal {event.signal}" if event.signal else f"code {event.code}"
            words = "\n".join(self._stderr)[-_STDERR_CHARS:].strip()
            reason = f"Claude Code ended by itself ({how})" + (f": {words}" if words else "")
            await self._end(TurnOutcome.FAILED, reason)

    # The end...

    async def _end(
        self,
        outcome: TurnOutcome,
        reason: str | None,
        *,
        lost: bool = False,
    ) -> TurnRow:
        sentence = None
        if outcome is not TurnOutcome.DONE or not self._output.has_shown_text:
            sentence = texts.ended(
                outcome,
                reason=reason,
                timeout_s=self._profile.timeout_s,
                ceiling_s=self._profile.ceiling_s,
                limits=self._limits(),
            )
        try:
            self.ended = await self._output.end(
                outcome,
                reason=reason,
                sentence=sentence,
                link=None if lost else self._link,
                now=self._loop.time(),
            )
        except WireClosedError:
            # Stored already; only the acknowledgement did not get through, and a replay is skipped.
            self.ended = self._output.turn
        self._log.bind(action="turn.end", outcome=outcome, reason=reason).info("turn ended")
        return self.ended

    def _limits(self) -> Limits:
        return self._profile.limits.limits()
