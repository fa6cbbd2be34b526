"""One room: its turns, one at a time, from the queue to their end.

The worker is the only one that touches the room's runner and moves the room's turns past QUEUED. It
keeps nothing that matters in memory: killed at any point, the next one reads the turns from the
store, attaches to the runner that still works on them, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine
from typing import NoReturn

from loguru import logger

from orchestrator.config import RoomProfile
from orchestrator.core import texts
from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.lifecycle import restart_delay_s
from orchestrator.core.naming import runner_name
from orchestrator.errors import (
    EngineUnavailableError,
    PreconditionError,
    RunnerError,
    RunnerGoneError,
    WireProtocolError,
)
from orchestrator.model import (
    Epoch,
    RoomId,
    RunnerState,
    Seq,
    SessionId,
    TurnId,
    TurnOutcome,
    TurnState,
)
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.connection import LinkLost
from orchestrator.rooms.idle import IdleEar
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.room_runner import STOP_GRACE_S, RoomRunner
from orchestrator.rooms.turn_output import TurnOutput
from orchestrator.rooms.turn_run import ResumeFailedError, StuckError, TurnRun
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import RoomRow, SessionRow, TurnRow

MAIN = "main"
"""The session of the room's main timeline."""
# An engine that restarts is back within seconds; with the delays of core.lifecycle these are some
# three minutes, after which the room is told.
_CONNECT_ATTEMPTS = 8


class RoomWorker:
    """Invariant: `current` is the turn that this worker has taken from the queue, or None."""

    def __init__(self, room: RoomRow, profile: RoomProfile, kit: Kit) -> None:
        self.room = room
        self.profile = profile
        self.current: TurnRow | None = None
        self._kit = kit
        self._run: TurnRun | None = None
        self._last_taken: TurnId | None = None
        self._cancel_asked = False
        self._wake = asyncio.Event()
        self._runner: RoomRunner | None = None
        self._log = logger.bind(room=room.room_id)

    def __repr__(self) -> str:
        current = self.current.turn_id if self.current else "idle"
        return f"<RoomWorker {self.room.slug} {current} {self._runner!r}>"

    # What others may ask of it...

    @property
    def room_id(self) -> RoomId:
        """The room."""
        return self.room.room_id

    @property
    def has_live_session(self) -> bool:
        """Whether a CLI process runs in the room's runner, as far as is known."""
        connection = self._runner.connection if self._runner else None
        return connection is not None and bool(connection.live_sessions)

    def wake(self) -> None:
        """There may be a turn to run."""
        self._wake.set()
        self._nudge()

    def cancel(self) -> bool:
        """Stop the running turn; False when none runs."""
        if self.current is None:
            return False
        self._cancel_asked = True
        if self._run is not None:
            self._run.stop(TurnOutcome.CANCELLED)
        self._nudge()
        return True

    async def inspect(self) -> RunnerInfo | None:
        """What the engine says of the room's container."""
        return await self._kit.backend.inspect(
            runner_name(self._kit.backend.installation, self.room.slug)
        )

    async def stop_runner(self) -> None:
        """Stop the room's container; only after `run` has ended."""
        name = runner_name(self._kit.backend.installation, self.room.slug)
        await self._kit.backend.stop(name, grace_s=STOP_GRACE_S)

    async def refuse_all(self, reason: str) -> None:
        """End every turn that has not ended; only after `run` has ended."""
        for turn in await self._kit.store.turns.open_turns(self.room_id):
            await self._end_without_runner(turn, TurnOutcome.REFUSED, reason)

    async def fail_current(self, reason: str) -> None:
        """End the turn that was being worked on when `run` failed."""
        turns = await self._kit.store.turns.open_turns(self.room_id)
        for turn in turns:
            if turn.turn_id == self._last_taken:
                await self._end_without_runner(turn, TurnOutcome.FAILED, reason)

    def note_out_of_memory(self) -> None:
        """The kernel ended a process of the room's runner for its memory."""
        if self._run is not None:
            self._run.note_out_of_memory()
            self._nudge()

    def _nudge(self) -> None:
        if self._runner is not None and self._runner.connection is not None:
            self._runner.connection.nudge()

    # The loop...

    async def run(self) -> NoReturn:
        """Run the room's turns until cancelled; the runner is left as it is."""
        async with asyncio.TaskGroup() as group:
            self._runner = RoomRunner(self.room, self._kit, group)
            for turn in await self._kit.store.turns.open_turns(self.room_id):
                if turn.state is not TurnState.QUEUED:
                    await self._guarded(turn, self._resume(turn, self._runner))
            await self._adopt(self._runner)
            while True:
                turn = await self._next_turn(self._runner)
                await self._guarded(turn, self._start(turn, self._runner))

    async def _adopt(self, runner: RoomRunner) -> None:
        """Listen to a runner that runs already, so that nothing that it says waits."""
        if runner.connection is None:
            info = await runner.inspect()
            if info is not None and info.state is RunnerState.RUNNING:
                with contextlib.suppress(RunnerError, PreconditionError):
                    await runner.connect(busy=True)

    async def _guarded(self, turn: TurnRow, work: Coroutine[None, None, None]) -> None:
        self.current, self._cancel_asked = turn, False
        self._last_taken = turn.turn_id
        self._kit.courtesies.typing(self.room_id, typing=True)
        try:
            await work
        finally:
            self.current, self._run = None, None

    async def _next_turn(self, runner: RoomRunner) -> TurnRow:
        ear = IdleEar(self.room_id, self._kit)
        while True:
            self._wake.clear()
            turns = await self._kit.store.turns.open_turns(self.room_id)
            if turns:
                return turns[0]
            self._kit.courtesies.typing(self.room_id, typing=False)
            await self._listen(runner, ear)

    async def _listen(self, runner: RoomRunner, ear: IdleEar) -> None:
        """Take in what the idle runner says, until somebody wakes us."""
        while not self._wake.is_set():
            connection = runner.connection
            if connection is None:
                await self._wake.wait()
                return
            item = await connection.receive(None)
            if isinstance(item, LinkLost):
                self._log.bind(action="runner.lost", error=type(item.error).__name__).warning(
                    "the connection to the idle runner ended"
                )
                runner.disconnect()
            elif item is not None:
                await ear.hear(item, await connection.ready(), is_last=connection.is_empty)

    # One turn...

    async def _start(self, turn: TurnRow, runner: RoomRunner) -> None:
        try:
            link = await self._connect(runner)
        except (RunnerError, PreconditionError) as e:
            await self._end_without_runner(turn, TurnOutcome.FAILED, str(e))
            return
        if self._cancel_asked:
            await self._end_without_runner(turn, TurnOutcome.CANCELLED, None)
            return
        run = self._run = await self._prepare_run(turn, runner, link)
        try:
            await run.offer()
        except RunnerError as e:
            # Offered or not: the same id is offered again after the next attach.
            self._log.bind(action="turn.offer_failed", error=type(e).__name__).warning(
                "offer failed"
            )
        await self._follow(run, runner)

    async def _resume(self, turn: TurnRow, runner: RoomRunner) -> None:
        """Go on with a turn that an earlier life of the orchestrator had offered."""
        try:
            link = await self._connect(runner, busy=True)
        except (RunnerError, PreconditionError) as e:
            await self._end_lost(turn, runner, e)
            return
        session = await self._session_of(turn, runner)
        if session is None or link.is_new_epoch or turn.epoch != link.welcome.epoch:
            await self._end_without_runner(
                turn, TurnOutcome.INTERRUPTED, "the room's runner was started anew"
            )
            return
        self._log.bind(action="turn.resume", turn=turn.turn_id).info("taking up a turn again")
        run = self._run = self._build_run(turn, link, session)
        if turn.state is TurnState.DELIVERING:
            await run.offer()
        await self._follow(run, runner)

    async def _follow(self, run: TurnRun, runner: RoomRunner) -> None:
        while run.ended is None:
            connection = runner.connection
            try:
                if connection is None:
                    run.use_link(await self._reconnect(runner))
                    await run.offer_again()
                    continue
                await run.follow(connection)
            except ResumeFailedError:
                await self._start_over(run, runner)
            except StuckError:
                await runner.replace()
            except WireProtocolError as e:
                self._log.bind(action="runner.protocol", why=str(e)).error(
                    "not trusted any further"
                )
                await runner.replace()
                await run.interrupted("its runner broke the protocol and was replaced")
            except RunnerGoneError as e:
                await self._gone(run, runner, e)
            except (RunnerError, EngineUnavailableError):
                runner.disconnect()
        if run.ended is not None and run.ended.outcome is TurnOutcome.TIMED_OUT:
            await self._clear_out(run.ended, runner)

    async def _reconnect(self, runner: RoomRunner) -> RunnerLink:
        link = await self._connect(runner, busy=True)
        if link.is_new_epoch:
            raise RunnerGoneError
        return link

    async def _connect(self, runner: RoomRunner, *, busy: bool = False) -> RunnerLink:
        """A link, with patience for an engine that is away for a moment."""
        for attempt in range(1, _CONNECT_ATTEMPTS):
            try:
                return await runner.connect(busy=busy)
            except (RunnerError, EngineUnavailableError) as e:
                if isinstance(e, RunnerGoneError) and busy:
                    raise
                self._log.bind(
                    action="runner.connect", error=type(e).__name__, why=str(e), attempt=attempt
                ).warning("no connection to the runner yet")
                await asyncio.sleep(restart_delay_s(attempt))
        return await runner.connect(busy=busy)

    async def _gone(self, run: TurnRun, runner: RoomRunner, error: RunnerGoneError) -> None:
        info = await runner.inspect()
        runner.disconnect()
        if info is not None and info.oom_killed:
            run.note_out_of_memory()
        code = f" (exit code {info.exit_code})" if info and info.exit_code is not None else ""
        self._log.bind(action="runner.gone", why=str(error), code=code).error("the runner is gone")
        await run.interrupted(f"the room's runner ended{code}")

    async def _end_lost(self, turn: TurnRow, runner: RoomRunner, error: Exception) -> None:
        info = None if isinstance(error, PreconditionError) else await runner.inspect()
        if info is not None and info.oom_killed:
            await self._end_without_runner(turn, TurnOutcome.OUT_OF_MEMORY, None)
        else:
            await self._end_without_runner(turn, TurnOutcome.INTERRUPTED, "the room's runner ended")

    async def _end_without_runner(
        self, turn: TurnRow, outcome: TurnOutcome, reason: str | None
    ) -> None:
        output = TurnOutput(turn, kit=self._kit, epoch=Epoch(""), acked=Seq(0))
        sentence = texts.ended(
            outcome,
            reason=reason,
            timeout_s=self.profile.timeout_s,
            ceiling_s=self.profile.ceiling_s,
            limits=self.profile.limits.limits(),
        )
        self._log.bind(action="turn.end", turn=turn.turn_id, outcome=outcome, reason=reason).info(
            "turn ended"
        )
        await output.end(outcome, reason=reason, sentence=sentence, link=None, now=0.0)

    async def _clear_out(self, turn: TurnRow, runner: RoomRunner) -> None:
        """A turn that had to be stopped may have left processes; none stays."""
        if runner.connection is None or runner.connection.lost:
            return
        link = await runner.connection.ready()
        for session in list(runner.connection.live_sessions):
            await link.signal_session(f"{turn.turn_id}:clear:{session}", session, "kill")

    # The CLI's session...

    async def _prepare_run(self, turn: TurnRow, runner: RoomRunner, link: RunnerLink) -> TurnRun:
        session = await self._ensure_session(runner, link)
        return self._build_run(turn, link, session)

    def _build_run(self, turn: TurnRow, link: RunnerLink, session: SessionRow) -> TurnRun:
        now = self._kit.wall_clock()
        return TurnRun(
            turn,
            kit=self._kit,
            profile=self.profile,
            session=session,
            link=link,
            output=TurnOutput(
                turn,
                kit=self._kit,
                epoch=link.welcome.epoch,
                acked=Seq(link.welcome.first - 1),
            ),
            ran_for_s=max(0.0, now - (turn.started_at or now)),
        )

    async def _ensure_session(self, runner: RoomRunner, link: RunnerLink) -> SessionRow:
        """The room's conversation, with a CLI that runs: the live one, resumed, or new."""
        row = await self._kit.store.turns.session(self.room_id, MAIN)
        live = runner.connection.live_sessions if runner.connection else set()
        for other in sorted(live - {row.session_id if row else ""}):
            await link.signal_session(f"end:{uuid.uuid4()}", other, "kill")
        if row is not None and row.session_id in live:
            return row
        if row is not None and row.resumable:
            await self._open(runner, link, row, resume=True)
            return row
        return await self._new_session(runner, link)

    async def _new_session(self, runner: RoomRunner, link: RunnerLink) -> SessionRow:
        row = SessionRow(
            room_id=self.room_id,
            session=MAIN,
            session_id=SessionId(str(uuid.uuid4())),
            resumable=False,
        )
        await self._kit.store.turns.store_session(row)
        await self._open(runner, link, row, resume=False)
        return row

    async def _open(
        self, runner: RoomRunner, link: RunnerLink, session: SessionRow, *, resume: bool
    ) -> None:
        agent = self._kit.config.agents.get(self.profile.agent)
        argv = build_cli_argv(
            session_id=session.session_id,
            resume=resume,
            model=self.profile.model or (agent.model if agent else None),
            system_prompt=self.profile.system_prompt or (agent.system_prompt if agent else None),
            permissions=self.profile.permissions,
        )
        if runner.quarters is None:
            raise RunnerGoneError
        await link.open_session(
            f"open:{uuid.uuid4()}",
            session.session_id,
            argv=argv,
            env=build_cli_env(runner.quarters.placeholder),
            cwd="/workspace",
        )

    async def _session_of(self, turn: TurnRow, runner: RoomRunner) -> SessionRow | None:
        """The session that a running turn is in, also when `!new` has dropped it meanwhile."""
        row = await self._kit.store.turns.session(self.room_id, turn.session)
        live = runner.connection.live_sessions if runner.connection else set()
        if row is None and len(live) == 1:
            (session_id,) = live
            row = SessionRow(
                room_id=self.room_id,
                session=turn.session,
                session_id=SessionId(session_id),
                resumable=False,
            )
        return row

    async def _start_over(self, run: TurnRun, runner: RoomRunner) -> None:
        """The conversation could not be resumed: a new one, and the room is told."""
        self._log.bind(action="session.lost").warning("session could not be resumed")
        rows = build_notice_rows(
            self.room_id,
            f"{run.turn_id}:session-lost",
            texts.SESSION_LOST,
            max_event_bytes=self._kit.config.gateway.max_event_bytes,
        )
        await self._kit.store.outbox.add(rows, now=self._kit.wall_clock())
        self._kit.notify_outbox()
        link = await self._connect(runner, busy=True)
        await run.offer_in_new_session(await self._new_session(runner, link))
