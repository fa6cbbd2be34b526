"""Takes one turn from the queue, or from an earlier life, to its end: connects, offers, reconnects.

Rule: whatever fails but the store, the turn ends, the room is told how, and a runner that may still
be working on it gets no other turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.lifecycle import restart_delay_s
from orchestrator.core.tool_request import Shown
from orchestrator.errors import (
    EngineRefusedError,
    EngineUnavailableError,
    PreconditionError,
    RunnerGoneError,
    StartWithdrawnError,
    WireClosedError,
    WireError,
    WireProtocolError,
    WireVersionError,
)
from orchestrator.model import TurnOutcome, TurnState
from orchestrator.ports import RunnerInfo
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.attachments import NOTHING, Brought, RoomAttachments
from orchestrator.rooms.cli_session import CliSessions
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.copies import RoomCopies
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.leftover import end_leftovers
from orchestrator.rooms.quotations import find_quotations
from orchestrator.rooms.room_runner import TROUBLE, RoomRunner
from orchestrator.rooms.turn_end import end_turn
from orchestrator.rooms.turn_error import NotTakenError, ResumeFailedError, StuckError
from orchestrator.rooms.turn_run import TurnRun
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import SessionRow, TurnRow

# What fails so often fails the turn: with the delays of core.lifecycle these are some two minutes.
# Only an engine that is not there is waited for: nothing of the turn can be at fault.
_CONNECT_ATTEMPTS = 8
# Knocking at a socket costs nothing, and who waits wants it noticed that the engine is back.
_AWAY_S = 30.0
# The first failures are often over with the next attempt; after 3 s of them people wonder.
_TELL_AFTER = 3
# While a turn runs, the connection is tried for at least every so many failures' delay (16 s).
_MOST_FAILURES = 5
# Processes that a turn is offered to, one after the other, when each ends before it takes it.
_MOST_OFFERS = 3
# A start of the CLI that waits longer than this is told.
_TELL_START_AFTER_S = 5.0
# A connection that lasted this long was one; the next loss of it is no repetition.
_GOOD_LINK_S = 10.0
_BROKEN = "its runner broke the protocol and was replaced"


class _Session(Enum):
    """Which session the turn goes on in, when it can't in the one that it had."""

    NEW = "new"
    ANY = "any"
    """The conversation's: live, resumed, or new where there is none."""


class TurnDriver:
    """Invariant: after `drive` the turn has ended, unless it was cancelled or the store failed."""

    def __init__(
        self,
        turn: TurnRow,
        *,
        kit: Kit,
        profile: RoomProfile,
        runner: RoomRunner,
        copies: RoomCopies,
        is_shared: Callable[[], bool],
    ) -> None:
        """`is_shared`: whether other turns run in the room now."""
        self.turn = turn
        self._is_shared = is_shared
        self._copies = copies
        self._kit = kit
        self._profile = profile
        self._runner = runner
        self._sessions = CliSessions(turn.room_id, turn.session, profile, kit, runner)
        self._run: TurnRun | None = None
        self._is_cancelled = False
        self._hurry = asyncio.Event()
        self._failures = 0
        self._offers = 0
        self._connected_at: float | None = None
        self._session_due: _Session | None = None
        self._log = logger.bind(room=turn.room_id, turn=turn.turn_id)

    def __repr__(self) -> str:
        return f"<TurnDriver {self.turn.turn_id} {self._run!r} failures={self._failures}>"

    # What others may ask of it...

    def cancel(self) -> None:
        """Stop the turn, wherever it is."""
        self._is_cancelled = True
        if self._run is not None:
            self._run.stop(TurnOutcome.CANCELLED)
        self._copies.hurry()
        self._hurry.set()
        self._nudge()

    @property
    def running_tools(self) -> tuple[str, ...]:
        """The tools that the CLI is running now, by its own word; the latest first."""
        return self._run.tools.describe() if self._run is not None else ()

    def asked(self, approval_id: str) -> Shown | None:
        """A question that the turn waits for, all of it; None: it waits for no such one."""
        return self._run.requests.asking.shown(approval_id) if self._run is not None else None

    def note_out_of_memory(self) -> None:
        """The kernel ended a process of the room's runner for its memory."""
        if self._run is not None:
            self._run.note_out_of_memory()
            self._nudge()

    def note_decided(self) -> None:
        """Something that the turn may have asked was decided."""
        if self._run is not None:
            self._run.requests.note_decided()
            self._nudge()

    def note_steered(self) -> None:
        """A message is to go into the turn."""
        if self._run is not None:
            self._run.steering.is_due = True
            self._nudge()

    def stop(self, reason: str) -> None:
        """End the running turn: it met a limit of the room's."""
        if self._run is not None:
            self._run.stop(TurnOutcome.FAILED, reason)
            self._nudge()

    def _nudge(self) -> None:
        if self._runner.connection is not None:
            self._runner.connection.nudge()

    # From the queue, or from an earlier life...

    async def drive(self) -> None:
        """Take the turn to its end. Only the store's errors come out. May be cancelled anywhere."""
        try:
            run = await (self._start() if self.turn.state is TurnState.QUEUED else self._resume())
            if run is not None:
                await self._follow(run)
        finally:
            if self._run is not None:
                self._run.at.close()

    async def _start(self) -> TurnRun | None:
        while True:
            if self._is_cancelled:
                await self._end(TurnOutcome.CANCELLED, None)
                return None
            if await self._must_wait_for_start():
                continue
            try:
                busy = self._is_beside()
                link = await self._runner.connect(busy=busy, withdrawn=self._hurry)
                session = await self._take_session(link, _Session.ANY)
            except StartWithdrawnError:
                continue  # it is cancelled
            except TROUBLE as e:
                if not await self._is_worth_another(e):
                    await self._end(TurnOutcome.FAILED, str(e))
                    return None
                continue
            await self._copies.take_before(
                self.turn,
                self._profile.snapshots,
                session=session,
                connection=self._runner.connection,
                is_shared=self._is_shared(),
            )
            brought = await self._bring()
            connection = self._runner.connection
            if not self._is_cancelled and connection is not None:
                link = await connection.ready()
                return self._begin(session, connection, link, brought=brought)

    def _is_beside(self) -> bool:
        """Whether another turn is in the runner."""
        return bool(self._runner.working - {self.turn.turn_id})

    async def _take_session(self, link: RunnerLink, due: _Session) -> SessionRow:
        """The session that is due; from here on the start of no other turn ends it."""
        async with self._runner.beginning:
            self._runner.unfollow(self.turn.turn_id)
            begin = self._sessions.begin if due is _Session.NEW else self._sessions.ensure
            session = await begin(link)
            self._runner.followed[self.turn.turn_id] = session.session_id
        return session

    async def _resume(self) -> TurnRun | None:
        """Go on with a turn that an earlier life of the orchestrator had offered."""
        while True:
            try:
                link = await self._runner.connect(busy=True)
                break
            except RunnerGoneError:
                await self._end_gone()
                return None
            except (WireProtocolError, WireVersionError):
                self._runner.condemn()
                await self._end(TurnOutcome.INTERRUPTED, _BROKEN)
                return None
            except TROUBLE as e:
                if not await self._is_worth_another(e):
                    self._runner.condemn()
                    await self._end(TurnOutcome.INTERRUPTED, _clause(e))
                    return None
        session, connection = await self._sessions.of_turn(self.turn, link), self._runner.connection
        if session is None or connection is None or self.turn.epoch != link.welcome.epoch:
            await self._end(TurnOutcome.INTERRUPTED, "the room's runner was started anew")
            return None
        self._log.bind(action="turn.resume").info("taking up a turn again")
        asked_s = await self._kit.store.approvals.waited_s(
            self.turn.turn_id, now=self._kit.wall_clock()
        )
        # What was offered and may not have arrived is offered again, with its files.
        is_open = self.turn.state is TurnState.DELIVERING
        brought = await self._bring() if is_open else NOTHING
        return self._begin(session, connection, link, asked_s=asked_s, brought=brought)

    async def _bring(self) -> Brought:
        messages = await self._kit.store.files.of_turn(self.turn.turn_id)
        attachments = RoomAttachments(self._kit, self._profile)
        brought = await attachments.bring(self.turn, messages, self._runner.connection)
        return brought.below(await find_quotations(self.turn, messages, self._kit))

    def _begin(
        self,
        session: SessionRow,
        connection: Connection,
        link: RunnerLink,
        *,
        asked_s: float = 0.0,
        brought: Brought = NOTHING,
    ) -> TurnRun:
        self._run = TurnRun(
            self.turn,
            kit=self._kit,
            profile=self._profile,
            session=session,
            connection=connection,
            link=link,
            asked_s=asked_s,
            brought=brought,
            start=self._runner.start,
        )
        self._failures = 0
        self._connected_at = asyncio.get_running_loop().time()
        if self._is_cancelled:
            self._run.stop(TurnOutcome.CANCELLED)
        return self._run

    async def _is_worth_another(self, error: Exception) -> bool:
        """Wait before the next attempt; False when there is none."""
        is_lasting = isinstance(error, EngineRefusedError) or (
            isinstance(error, PreconditionError) and not isinstance(error, EngineUnavailableError)
        )
        self._failures += 1
        self._log.bind(
            action="runner.connect",
            error=type(error).__name__,
            why=str(error),
            attempt=self._failures,
        ).warning("no connection to the runner yet")
        if not self._is_beside():
            self._runner.disconnect()
        is_away = isinstance(error, EngineUnavailableError) and self.turn.state is TurnState.QUEUED
        if is_lasting or (self._failures >= _CONNECT_ATTEMPTS and not is_away):
            return False
        if self._is_cancelled and self.turn.state is not TurnState.QUEUED:
            return False
        if self._failures == _TELL_AFTER and self.turn.state is TurnState.QUEUED:
            await self._tell_trouble(error)
        delay_s = restart_delay_s(self._failures)
        await self._pause(
            asyncio.get_running_loop().time() + (min(delay_s, _AWAY_S) if is_away else delay_s)
        )
        return True

    async def _must_wait_for_start(self) -> bool:
        """Wait, where the CLI ended by itself the last times; True: wait no longer and look again.

        Turns of a queue would otherwise start it in vain one after the other, as fast as they can.
        """
        starts, now = self._runner.starts, asyncio.get_running_loop().time()
        if now >= starts.ready_at:
            return False
        delay_s = starts.ready_at - now
        if delay_s > _TELL_START_AFTER_S:
            text = texts.start_trouble(starts.failures, delay_s)
            await self._kit.tell(self.turn, "starts", text)
        await self._pause(starts.ready_at)
        return True

    async def _tell_trouble(self, error: Exception) -> None:
        """Once a turn: it is not forgotten, it waits for something that is broken."""
        await self._kit.tell(self.turn, "trouble", texts.runner_trouble(_clause(error)))

    async def _pause(self, until: float) -> None:
        """Wait until then (loop time), or for a cancel that ended no wait yet."""
        try:
            async with asyncio.timeout_at(until):
                await self._hurry.wait()
        except TimeoutError:
            return
        self._hurry.clear()

    # On the runner...

    async def _follow(self, run: TurnRun) -> None:
        ended = await self._follow_to_end(run)
        if run.was_abandoned:
            self._runner.starts.failed(asyncio.get_running_loop().time())
        elif run.had_result:
            self._runner.starts.worked()
        if ended.outcome is TurnOutcome.TIMED_OUT or run.leaves_work:
            # It may have left processes, or a message that went into it; none stays.
            await self._sessions.clear(run.session_id)

    async def _follow_to_end(self, run: TurnRun) -> TurnRow:
        while run.ended is None:
            try:
                await self._go_on(run)
            except ResumeFailedError:
                await self._tell_session_lost()
                await run.steering.start_over()
                self._session_due = _Session.NEW
            except NotTakenError as e:
                await self._offer_elsewhere(run, e)
            except StuckError:
                await self._remove()
                await run.interrupted("the runner did not stop it, and was replaced")
            except (WireProtocolError, WireVersionError) as e:
                self._log.bind(action="runner.protocol", why=str(e)).error("not trusted further")
                await self._remove()
                await run.interrupted(_BROKEN)
            except RunnerGoneError:
                await self._gone(run)
            except WireError:
                self._runner.disconnect(run.at.connection)
                await self._wait_for_link(run)
            except TROUBLE as e:
                await self._trouble(run, e)
        run.at.close()
        if run.ended.outcome is not TurnOutcome.TIMED_OUT:
            await end_leftovers(
                self.turn,
                kit=self._kit,
                profile=self._profile,
                runner=self._runner,
                clear=partial(self._sessions.clear, run.session_id),
            )
        return run.ended

    async def _go_on(self, run: TurnRun) -> None:
        connection = self._runner.connection
        if connection is None or connection.lost:
            await self._runner.connect(busy=run.is_offered or self._is_beside())
            self._connected_at = asyncio.get_running_loop().time()
            connection = self._runner.connection
        if connection is None:
            raise WireClosedError
        link = await connection.ready()
        if connection is not run.at.connection and not run.is_offered:
            self._session_due = _Session.ANY
        if run.is_offered and run.epoch != link.welcome.epoch:
            raise RunnerGoneError
        await self._change_session(run, link)
        self._runner.working.add(run.turn_id)
        run.use(connection, link)
        await run.offer()
        await run.follow()

    async def _change_session(self, run: TurnRun, link: RunnerLink) -> None:
        due = self._session_due
        if due is None:
            return
        session = await self._take_session(link, due)
        run.use_session(session, start_over=due is _Session.NEW)
        self._session_due = None

    async def _wait_for_link(self, run: TurnRun) -> None:
        """Wait a moment before the next attach; give the turn up when its time is over."""
        now = asyncio.get_running_loop().time()
        if now >= run.give_up_at:
            self._runner.condemn()
            await run.interrupted("the connection to its runner was lost")
            return
        if self._connected_at is not None and now > self._connected_at + _GOOD_LINK_S:
            self._failures = 0
        self._connected_at = None
        delay_s = restart_delay_s(min(self._failures, _MOST_FAILURES))
        self._failures += 1
        if delay_s:
            await self._pause(min(now + delay_s, run.give_up_at))

    async def _trouble(self, run: TurnRun, error: Exception) -> None:
        self._log.bind(action="runner.trouble", error=type(error).__name__, why=str(error)).warning(
            "the turn's runner can't be reached"
        )
        if not run.at.connection.lost:
            # The connection is well: what we wanted to say is at fault (a prompt over the limit).
            await run.failed(_clause(error))
            return
        self._runner.disconnect(run.at.connection)
        await self._wait_for_link(run)

    async def _gone(self, run: TurnRun) -> None:
        info = await self._inspect()
        self._runner.disconnect(run.at.connection)
        if not run.is_offered:
            # It was another turn's; this one's is made when that has ended.
            await self._wait_for_link(run)
            return
        if info is not None and info.oom_killed:
            run.note_out_of_memory()
        code = f" (exit code {info.exit_code})" if info and info.exit_code is not None else ""
        self._log.bind(action="runner.gone", code=code).error("the runner is gone")
        await run.interrupted(f"the room's runner ended{code}")

    async def _inspect(self) -> RunnerInfo | None:
        try:
            return await self._runner.inspect()
        except TROUBLE:
            return None

    async def _remove(self) -> None:
        """Replace the container; later, where the engine can't do it now."""
        try:
            await self._runner.replace()
        except TROUBLE as e:
            self._log.bind(action="runner.remove", error=type(e).__name__).error("not removed yet")

    # Its session...

    async def _offer_elsewhere(self, run: TurnRun, error: NotTakenError) -> None:
        self._offers += 1
        starts = self._runner.starts
        starts.failed(asyncio.get_running_loop().time())
        # Where the turns before this one had no luck either, one attempt says enough.
        if self._offers >= _MOST_OFFERS or starts.failures > _MOST_OFFERS:
            await run.failed(f"the runner refused it: {error}")
            return
        if self._offers > 1:
            # The first time it may just have ended while it was idle.
            await self._pause(starts.ready_at)
        if self._is_cancelled:
            await run.failed("cancelled")
            return
        run.at.close()
        await self._sessions.clear(run.session_id)
        self._session_due = _Session.ANY

    async def _tell_session_lost(self) -> None:
        """The conversation could not be resumed: the room is told that it is a new one."""
        self._log.bind(action="session.lost").warning("session could not be resumed")
        await self._kit.tell(self.turn, "session-lost", texts.SESSION_LOST)

    # An end without the runner...

    async def _end_gone(self) -> None:
        info = await self._inspect()
        if info is not None and info.oom_killed:
            await self._end(TurnOutcome.OUT_OF_MEMORY, None)
        else:
            await self._end(TurnOutcome.INTERRUPTED, "the room's runner ended")

    async def _end(self, outcome: TurnOutcome, reason: str | None) -> None:
        if self._is_cancelled and outcome is TurnOutcome.INTERRUPTED:
            # Somebody wished its end; or took its words back, which are not to be quoted then.
            outcome, reason = TurnOutcome.CANCELLED, None
        await end_turn(self.turn, outcome, reason, kit=self._kit, profile=self._profile)


def _clause(error: Exception) -> str:
    return str(error).rstrip(".")
