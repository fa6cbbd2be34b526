"""One turn on the runner: offered, followed to its end, stopped when asked or when its time is up.

A turn survives the loss of its connection: `follow` raises, the driver attaches again and calls it
anew; frames that were taken in are skipped, the others are replayed by the runner.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.cli_input import build_control_error, message_uuid
from orchestrator.core.deadline import take_up_clock
from orchestrator.core.failure import explain_refusal
from orchestrator.core.running_tools import RunningTools
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import (
    Ended,
    FileWanted,
    PermissionAsked,
    PermissionWithdrawn,
    ReplyToCli,
    Retrying,
    Show,
    SteersAnswered,
    TextReady,
    TurnView,
)
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.log import AUDIT_ONLY
from orchestrator.model import Seq, SessionId, TurnOutcome, TurnState
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.attachments import NOTHING, Brought
from orchestrator.rooms.connection import Connection, LinkLost
from orchestrator.rooms.cut_line import CutKind, parse_cut
from orchestrator.rooms.deaf import DeafWatch
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.line import PassedOver
from orchestrator.rooms.sending import Starter
from orchestrator.rooms.steering import TurnSteering
from orchestrator.rooms.tool_asking import Reply
from orchestrator.rooms.turn_end import LastWords, LimitMet, how_ended, plan_end, render_footer
from orchestrator.rooms.turn_error import NotTakenError, ResumeFailedError, StuckError
from orchestrator.rooms.turn_link import TurnLink
from orchestrator.rooms.turn_output import TurnOutput
from orchestrator.rooms.turn_reply import TurnReplies
from orchestrator.rooms.turn_request import TurnRequests
from orchestrator.rooms.turn_stop import TurnStop
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

# The engine tells of an out-of-memory kill within milliseconds, but not in order with the wire.
_OOM_NEWS_S = 1.0
# A stop takes 15 s (core.ladder).
_STOP_WITHOUT_LINK_S = 20.0
# Notices about tools that were not run; a turn that asks for more is not helped by more.
_MAX_DENIED_NOTICES = 8
# The first repeats come within two seconds and mostly help; from here on people wonder.
_TELL_RETRY = 3
_RESULT_TOO_LONG = "its result was too long to read"


class TurnRun:
    """Invariant: `ended` is the stored row once the turn has ended, and None before."""

    def __init__(
        self,
        turn: TurnRow,
        *,
        kit: Kit,
        profile: RoomProfile,
        session: SessionRow,
        connection: Connection,
        link: RunnerLink,
        start: Starter,
        asked_s: float = 0.0,
        brought: Brought = NOTHING,
    ) -> None:
        self._kit = kit
        self._profile = profile
        self._session = session
        self.at = TurnLink(connection, link)
        self._brought = brought
        epoch, acked = link.welcome.epoch, Seq(link.welcome.first - 1)
        parts = profile.stream == "messages"
        self._output = TurnOutput(turn, kit=kit, epoch=epoch, acked=acked, shows_parts=parts)
        self._loop = asyncio.get_running_loop()
        now, wall = self._loop.time(), kit.wall_clock()
        self._view = self._new_view(text_shown=self._output.has_shown_text)
        ran_for_s = wall - (turn.started_at or wall) - asked_s
        self._clock = take_up_clock(profile.timeout_s, profile.ceiling_s, now, ran_for_s=ran_for_s)
        self._deafness = DeafWatch(kit.store.database, turn)
        self._stop = TurnStop(turn.turn_id)
        self._stderr = LastWords()
        self._bytes, self._is_over_limit = 0, False
        self._out_of_memory = False
        self._memory_told = False
        self._denied: set[str] = set()
        # RUNNING in a session that has no message yet: it was being started over.
        self._attempt = int(turn.state is TurnState.RUNNING and not session.resumable)
        self._is_applied = turn.state is TurnState.RUNNING and not self._attempt
        self._why_not_opened: str | None = None
        self._replies = TurnReplies(turn.turn_id)
        self.steering = TurnSteering(kit, turn.turn_id, is_new=turn.state is TurnState.QUEUED)
        self.requests = TurnRequests(
            kit, profile, lambda: self._output.turn, start=start, wake=self.at.nudge
        )
        self.tools = RunningTools()
        self._live = kit.lives.open(turn, profile, now=now)
        self._footer = ""
        self._result: tuple[TurnOutcome, str | None] | None = None
        self._limit: LimitMet | None = None
        self._exited_early: str | None = None
        self._killed_at: float | None = None
        self._held_from: Seq | None = None
        self.turn_id = turn.turn_id
        self.ended: TurnRow | None = None
        self.had_result = False
        """Whether the CLI did what it should: it brought the turn to a result, good or bad."""
        self.leaves_work = False
        """Whether the CLI goes on with a message of the turn's after its end."""
        self.was_abandoned = False
        """Whether the CLI ended by itself in the turn."""
        self._log = logger.bind(room=turn.room_id, turn=turn.turn_id)

    def __repr__(self) -> str:
        return f"<TurnRun {self._output!r} {self._stop!r} ended={self.ended is not None}>"

    @property
    def epoch(self) -> str | None:
        """The life of the shim that the turn was offered to; None before."""
        return self._output.turn.epoch

    @property
    def session_id(self) -> SessionId:
        """The session that it is in."""
        return self._session.session_id

    @property
    def is_offered(self) -> bool:
        """Whether something of it may have left this process."""
        return self._output.turn.state is not TurnState.QUEUED

    @property
    def may_start_over(self) -> bool:
        """Whether a session that can't be resumed has not been replaced yet."""
        return self._attempt == 0

    @property
    def give_up_at(self) -> float:
        """When there is no sense in waiting for a connection any longer (loop time)."""
        if self._stop.asked is not None:
            return self._stop.since + _STOP_WITHOUT_LINK_S
        return self._clock.next_deadline() or self.at.lost_at() + self._profile.timeout_s

    # What the driver does with it...

    async def offer(self) -> None:
        """Send the turn, unless the runner said that it has it.

        The same id is applied once by the runner, however often it is sent.
        """
        turn = self._output.turn
        if turn.state is TurnState.QUEUED or turn.session_id != self.session_id:
            reach(FaultPoint.OFFER_STORING)
            turn = self._output.turn = await self._kit.store.turns.offer(
                turn.turn_id,
                session_id=self.session_id,
                epoch=self.at.link.welcome.epoch,
                taken=self._output.seen,
                now=self._kit.wall_clock(),
            )
            reach(FaultPoint.OFFER_STORED)
        if not self._is_applied:
            line = self._brought.line(turn)
            await self.at.link.send_line(self._offer_id, self.session_id, line)
            reach(FaultPoint.OFFER_WRITTEN)
        await self._replies.send_again(self.at.link, self.session_id)
        await self.steering.send_again(self.at.link, self.session_id)

    def use_session(self, session: SessionRow, *, start_over: bool = False) -> None:
        """Go on in this session; `start_over` after a ResumeFailedError: it reached no model."""
        self._session = session
        self._is_applied = False
        self._stderr.clear()
        self._exited_early = None
        if start_over:
            self._attempt += 1
            self._view = self._new_view(text_shown=False)

    def use(self, connection: Connection, link: RunnerLink) -> None:
        """Go on over this attach to the same runner, which may be a new one; idempotent."""
        is_new = connection is not self.at.connection
        line = self.at.use(connection, link, self.session_id)
        if line is not None:
            self._output.use_line(connection, line)
        if is_new:
            self._stop.restart(self._loop.time())

    def stop(self, outcome: TurnOutcome, reason: str | None = None) -> None:
        """Ask for the end. The first reason counts."""
        self._stop.ask(outcome, reason)

    def note_out_of_memory(self) -> None:
        """The kernel ended a process of this runner for its memory."""
        self._out_of_memory = True

    async def follow(self) -> TurnRow:
        """Take in frames until the turn has ended; returns its stored row. After `use`.

        Raises:
            ResumeFailedError, NotTakenError: give it another session and offer it again.
            StuckError: nothing helps but a new container; then call `interrupted`.
            RunnerError: the connection is lost; the turn goes on in the runner.
        """
        while True:
            self._note_deaf(None)
            await self._act_on_time()
            if self.ended is not None:
                return self.ended
            deadline = self._next_deadline()
            item = await self.at.receive(deadline)
            self._note_deaf(deadline)
            if isinstance(item, LinkLost):
                raise item.error
            if item is not None and self._output.receive(item.q):
                if not isinstance(item, PassedOver):
                    await self._take(item)
                if self.ended is None:
                    now = self._loop.time()
                    await self._output.acknowledge(now, needed_from=self._needed_from)

    async def interrupted(self, reason: str) -> TurnRow:
        """End the turn because its runner is gone, or can't be reached in time."""
        if (why := self._clock.expired(self._loop.time())) is not None:
            self.stop(TurnOutcome.TIMED_OUT, why)
        if self._out_of_memory:
            return await self._end(TurnOutcome.OUT_OF_MEMORY, None, lost=True)
        return await self._end(TurnOutcome.INTERRUPTED, reason, lost=True)

    async def failed(self, reason: str) -> None:
        """End the turn for a reason in words."""
        await self._end(TurnOutcome.FAILED, reason)

    @property
    def _needed_from(self) -> Seq | None:
        """The first frame without which another life would not know what this one knows."""
        needed = [s for s in (self._view.needs_replay_from, self._held_from) if s is not None]
        return min(needed, default=None)

    @property
    def _offer_id(self) -> str:
        return self.turn_id if self._attempt == 0 else f"{self.turn_id}.{self._attempt}"

    def _new_view(self, *, text_shown: bool) -> TurnView:
        uuid, now = message_uuid(self._output.turn.turn_id), self._loop.time()
        return TurnView(message_uuid=uuid, now=now, text_shown=text_shown)

    # What time brings...

    def _note_deaf(self, deadline: float | None) -> None:
        deaf_s = self._deafness.measure_s(deadline)
        if deaf_s > 0:
            self._clock.deaf(deaf_s, self._loop.time())

    def _next_deadline(self) -> float | None:
        now = self._loop.time()
        clock = self._clock.next_deadline() if self._stop.asked is None else None
        if clock is not None and (ends_at := self._replay_ends_at(now)) is not None:
            clock = max(clock, ends_at)
        times = [self._output.due_at(), clock, self._stop.next_step_at(now)]
        times += [self._killed_at + _OOM_NEWS_S] if self._killed_at is not None else []
        is_due = self.requests.is_due or (self.steering.is_due and self._is_applied)
        times += [now] if is_due else []
        return min((t for t in times if t is not None), default=None)

    def _replay_ends_at(self, now: float) -> float | None:
        return self.at.replay_ends_at(self._output.received, now)

    async def _act_on_time(self) -> None:
        if self.requests.is_due:
            answered = await self.requests.look()
            self._replies.note_all(answered)
            self._pace_clock()
            for reply in answered:
                await self._answer(reply)
        if self.steering.is_due and self._is_applied:
            sends, own = self._stop.asked is None, self.session_id
            await self.steering.look(self._view, self.at.link, own, sends=sends)
        now = self._loop.time()
        due = self._output.due_at()
        if due is not None and due <= now:
            await self._output.flush(now, needed_from=self._needed_from)
        is_told = self._out_of_memory or (self._killed_at or 0.0) + _OOM_NEWS_S <= now
        if self._killed_at is not None and is_told:
            await self._end(*self._how_it_exited("signal 9"))
            return
        if self._out_of_memory and not self._memory_told:
            self._memory_told = True
            limits = self._profile.limits.limits()
            await self._output.notice("memory", texts.memory_limit_met(limits))
        if self._replay_ends_at(now) is None and (why := self._clock.expired(now)) is not None:
            self.stop(TurnOutcome.TIMED_OUT, why)
        if await self._stop.climb(now, self.at.link, self.session_id):
            raise StuckError

    # What the runner says...

    async def _take(self, event: UpEvent) -> None:
        own = self.session_id
        match event:
            case CliLine() if event.session == own:
                await self._line(event)
            case CliStderr() if event.session == own:
                self._stderr.add(event.text)
            case LineCut() if event.session == own:
                await self._cut(event)
            case SessionExited() if event.session == own and self._is_applied:
                await self._exited(event)
            case SessionExited() if event.session == own:
                self._exited_early = how_ended(event)
            case Applied() | Refused():
                await self._command_came(event)
            case _:
                pass

    async def _command_came(self, event: Applied | Refused) -> None:
        """Whether the runner did what we told it."""
        is_offer = event.command_id == self._offer_id
        if isinstance(event, Refused) and event.command_id.startswith("open:"):
            self._why_not_opened = event.why
        elif isinstance(event, Refused) and is_offer:
            if self._stop.asked is None:
                raise NotTakenError(self._why_not_taken(event.why))
            await self._end(TurnOutcome.CANCELLED, None)
        elif is_offer and not self._is_applied:
            reach(FaultPoint.APPLIED_RECEIVED)
            await self._output.applied(self.session_id)
            reach(FaultPoint.APPLIED_STORED)
            self._is_applied = True
        else:
            self._replies.settle(event.command_id, self._view)
            is_taken = isinstance(event, Applied)
            for show in await self.steering.settle(event.command_id, self._view, is_taken=is_taken):
                await self._show(show, event.q, self._loop.time())

    def _why_not_taken(self, refused: str) -> str:
        """The nearest cause that is known."""
        if self._exited_early is not None:
            return f"Claude Code ended by itself ({self._exited_early}){self._stderr.render()}"
        return self._why_not_opened or refused

    async def _line(self, event: CliLine) -> None:
        now = self._loop.time()
        self._bytes += len(event.line)
        if self._bytes > self._profile.limits.output_bytes and not self._is_over_limit:
            self._is_over_limit = True
            size = texts.size(self._profile.limits.output_bytes)
            self.stop(TurnOutcome.FAILED, f"it met this room's output limit of {size}")
        cli = parse_line(event.line)
        if cli.is_progress:
            self._clock.progress(now)
        for tool in self.tools.feed(cli):
            self._log.bind(action="tool.run", tool=tool, audit=AUDIT_ONLY).debug("a tool is run")
        self._live.feed(cli, now)
        for show in self._view.feed(cli, seq=event.q, now=now):
            await self._show(show, event.q, now)

    async def _show(self, show: Show, seq: Seq, now: float) -> None:
        match show:
            case TextReady() if not self._is_over_limit:
                self._output.add_text(show.text, seq, now)
                reach(FaultPoint.OUTPUT_TAKEN)
            case SteersAnswered():
                await self.steering.note_answered(show.uuids)
            case PermissionAsked() | FileWanted():
                await self._ask(show, seq)
            case PermissionWithdrawn():
                await self.requests.withdraw(show.request_id)
                self._pace_clock()
            case ReplyToCli():
                await self._reply(seq, "", show.line)
            case Retrying() if show.attempt > 1 and (why := explain_refusal(show.status)):
                # The CLI would go on for 100 s. The first time it may have met a change of the key.
                self.stop(TurnOutcome.FAILED, why)
            case Retrying() if show.attempt >= _TELL_RETRY:
                text = texts.api_trouble(show.status, show.attempt, show.max_retries)
                await self._output.notice("api", text)
            case Ended() if show.session_lost and self.may_start_over:
                raise ResumeFailedError
            case Ended():
                limit = LimitMet(resets_at=show.limit_resets_at)
                self._limit = limit if show.is_usage_limit else None
                self._footer = render_footer(self._profile.footer, show)
                await self._result_came(show.outcome, show.reason, seq)
            case _:
                pass  # how much is left of a limit

    async def _ask(self, asked: PermissionAsked | FileWanted, seq: Seq) -> None:
        if (reply := await self.requests.begin(asked, seq, self.at.connection)) is not None:
            await self._answer(reply)
        self._pace_clock()

    async def _answer(self, reply: Reply) -> None:
        """The request counts as answered when the runner has the answer, not before."""
        await self._reply(reply.seq, reply.request_id, reply.line)
        if reply.notice is None or len(self._denied) >= _MAX_DENIED_NOTICES:
            return
        topic, text = reply.notice
        if topic not in self._denied:
            self._denied.add(topic)
            await self._output.notice(topic, text)

    def _pace_clock(self) -> None:
        waiting = self.requests.asking.is_waiting
        self._live.waits(is_waiting=waiting)
        if self.requests.asking.pace(self._clock, self._loop.time()):
            self._kit.courtesies.typing(self._output.turn.room_id, typing=not waiting)

    async def _reply(self, seq: Seq, request_id: str, line: str) -> None:
        await self._replies.send(self.at.link, self.session_id, seq, request_id, line)

    async def _result_came(self, outcome: TurnOutcome, reason: str | None, seq: Seq) -> None:
        self.had_result = True
        if self._stop.closes_session:
            # The CLI was told to end. The next turn must not meet it while it does.
            self._result = (outcome, reason)
            self._held_from = self._held_from or seq  # it ends the turn, but not yet
        else:
            await self._end(outcome, reason)

    async def _cut(self, event: LineCut) -> None:
        self._log.bind(action="turn.line_cut", size_bytes=event.size_bytes).warning("line too long")
        cut = parse_cut(event.head)
        match cut.kind:
            case CutKind.RESULT:
                await self._result_came(TurnOutcome.FAILED, _RESULT_TOO_LONG, event.q)
            case CutKind.ANSWER:
                text = f"*[a part of {texts.size(event.size_bytes)} was left out: too long]*"
                self._output.add_text(text, event.q, self._loop.time())
            case CutKind.REQUEST if cut.request_id is not None:
                line = build_control_error(cut.request_id, "the request was too long to read")
                await self._reply(event.q, cut.request_id, line)

    async def _exited(self, event: SessionExited) -> None:
        if event.signal == 9 and self._stop.asked is None and not self._out_of_memory:
            self._killed_at = self._loop.time()
            self._held_from = self._held_from or event.q
            return
        await self._end(*self._how_it_exited(how_ended(event)))

    def _how_it_exited(self, how: str) -> tuple[TurnOutcome, str | None]:
        if self._out_of_memory:
            return TurnOutcome.OUT_OF_MEMORY, None
        self.was_abandoned = self._stop.asked is None
        reason = f"Claude Code ended by itself ({how}){self._stderr.render()}"
        return self._result or (TurnOutcome.FAILED, reason)

    async def _end(
        self, outcome: TurnOutcome, reason: str | None, *, lost: bool = False
    ) -> TurnRow:
        """Store the end. A stop that was asked for is the reason, unless the answer came first."""
        await self.requests.close()
        stop = self._stop.asked
        if stop is not None and (outcome is not TurnOutcome.DONE or self._is_over_limit):
            outcome, reason = stop.outcome, stop.reason
        self.leaves_work = self._view.waits_for_steer and not lost
        is_answered = outcome is TurnOutcome.DONE and self._output.has_shown_text
        end = plan_end(
            self._output.turn,
            outcome,
            reason,
            self._profile,
            limit=self._limit if stop is None else None,
            now=self._kit.wall_clock(),
        )
        self.ended = await self._output.end(
            outcome,
            reason=reason,
            sentence=None if is_answered else end.sentence,
            store_acked=not lost,
            go_on=end.go_on,
            footer=self._footer if is_answered else "",
        )
        self._log.bind(action="turn.end", outcome=outcome, reason=reason, audit=True).info("ended")
        if not lost:
            await self._output.acknowledge_all(self._loop.time())
        return self.ended
