"""A room's container and the connection to it: brought up, adopted, replaced, left alone.

Rules: a running container that speaks our protocol is adopted, whatever version made it, while a
turn is in it; one that doesn't match today's specification is replaced as soon as no turn is; a
dead one is replaced, not revived (its workspace and home are directories of the host and stay). One
that may still be working on a turn that has ended is condemned: it gets no other turn. One of
another generation than the store has is of before a restore, and is replaced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import TypeVar

from loguru import logger

from orchestrator import meters
from orchestrator.core.lifecycle import RunnerAction, RunnerGoal, next_action, runner_sight
from orchestrator.core.naming import runner_name
from orchestrator.core.start_pace import StartPace
from orchestrator.errors import (
    EgressError,
    PreconditionError,
    RunnerError,
    RunnerGoneError,
    WireError,
    WireProtocolError,
    WireVersionError,
)
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.model import RunnerState, SessionId, TurnId
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.kit import Kit, Quarters
from orchestrator.rooms.starts import StartPermit
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import RoomRow

T = TypeVar("T")
# Create, start and greet take well under a second each; a loop that needs more steps than this is
# being undone by something else (a person, another tool).
_MAX_STEPS = 8
STOP_GRACE_S = 10.0
TROUBLE = (RunnerError, PreconditionError, EgressError)
"""What a runner, its engine and its place on the host may fail with; never the store."""


class RoomRunner:
    """Invariant: `connection` is None, or a task of the worker's group serves it."""

    def __init__(self, room: RoomRow, kit: Kit, group: asyncio.TaskGroup) -> None:
        self.name = runner_name(kit.backend.installation, room.slug)
        self.connection: Connection | None = None
        self.quarters: Quarters | None = None
        self.starts = StartPace()
        """Of the CLI in it, over its turns."""
        self.followed: dict[TurnId, SessionId] = {}
        """The sessions in which turns run: a new connection keeps for them what is theirs."""
        self.working: set[TurnId] = set()
        """Turns of which something may be in the runner: it is not replaced under them."""
        self.beginning = asyncio.Lock()
        """Held while a turn's session is looked for, started, and noted in `followed`."""
        self.is_up = False
        """Whether its container runs, as far as was seen."""
        self.changed = asyncio.Event()
        """Set when there is another connection, or none."""
        self._room = room
        self._kit = kit
        self._group = group
        self._is_current = False
        self._generation = 0
        self._is_condemned = False
        # The worker and an errand may both want it.
        self._connecting = asyncio.Lock()
        self._log = logger.bind(room=room.room_id)

    def __repr__(self) -> str:
        condemned = " condemned" if self._is_condemned else ""
        return f"<RoomRunner {self._room.slug} {self.connection!r}{condemned}>"

    @property
    def is_condemned(self) -> bool:
        """Whether it gets no other turn: the next `connect` replaces it."""
        return self._is_condemned

    def start(self, work: Coroutine[object, object, T], *, name: str) -> asyncio.Task[T]:
        """A task beside the room's turns, which ends with the room's worker at the latest."""
        return self._group.create_task(work, name=name)

    async def connect(self, *, busy: bool, withdrawn: asyncio.Event | None = None) -> RunnerLink:
        """A link to the room's running shim.

        Args:
            busy: a turn is in the runner, so don't replace it.
            withdrawn: set when nobody wants it any more; it is noticed while a start has to wait.

        Raises:
            StartWithdrawnError: it was set.
            RunnerGoneError: `busy`, and there is no running container.
            WireProtocolError, WireVersionError: `busy`, and it can't be talked to.
            RunnerError, PreconditionError, EgressError: it can't be brought up now.
        """
        async with self._connecting, self._kit.starts.permit(withdrawn) as permit:
            return await self._connect(permit, busy=busy)

    async def _connect(self, permit: StartPermit, *, busy: bool) -> RunnerLink:
        connection = self.connection
        if connection is not None and not connection.lost and (busy or self._is_current):
            link = await connection.ready()
            if busy or await self._answers(link):
                return link
        self.disconnect()
        if self._is_condemned:
            if busy:
                raise RunnerGoneError
            await self.replace()
        await self._bring_up(permit, busy=busy)
        try:
            return await self._attach_measured(permit)
        except (WireVersionError, WireProtocolError) as e:
            if busy:
                raise
            self._log.bind(action="runner.replace", why=str(e)).warning("replacing the runner")
            await self.replace()
            await self._bring_up(permit, busy=False)
            return await self._attach()

    async def _attach_measured(self, permit: StartPermit) -> RunnerLink:
        link = await self._attach()
        if permit.taken_at is not None:
            meters.RUNNER_START.observe(time.monotonic() - permit.taken_at)
        return link

    async def _answers(self, link: RunnerLink) -> bool:
        """Whether an idle runner is still there: a frozen one keeps its connection, and is silent.

        A turn that is written to it would wait for its whole time limit.
        """
        try:
            await link.ping()
        except WireError as e:
            self._log.bind(action="runner.silent", error=type(e).__name__).warning(
                "the idle runner does not answer"
            )
            return False
        return True

    async def adopt(self) -> None:
        """Listen to a runner that runs already, so that nothing that it says waits.

        One of another specification is left alone: the next turn replaces it.
        """
        async with self._connecting:
            await self._adopt()

    async def _adopt(self) -> None:
        if self.connection is not None or self._is_condemned:
            return
        try:
            info = await self.inspect()
            self.is_up = info is not None and info.state is RunnerState.RUNNING
            if info is None or not self.is_up:
                return
            quarters = await self._prepare()
            if info.generation != quarters.spec.generation:
                # Of a life that our memory does not have: whatever it works on, nobody asked for.
                self._log.bind(action="runner.replace", why="unknown").warning("not ours any more")
                await self.replace()
                return
            self._is_current = info.spec_hash == quarters.spec_hash
            if self._is_current:
                await self._attach()
        except TROUBLE as e:
            self._log.bind(action="runner.adopt", error=type(e).__name__).warning(
                "a running runner could not be attached to yet"
            )

    async def hibernate(self) -> bool:
        """Stop the container where it runs; the next `connect` replaces it. Idempotent.

        Returns whether it ran.

        Raises:
            RunnerError, PreconditionError: the engine can't do it now.
        """
        async with self._connecting:
            self.disconnect()
            info = await self.inspect()
            is_up = info is not None and info.state in (RunnerState.RUNNING, RunnerState.PAUSED)
            if is_up:
                await self._kit.backend.stop(self.name, grace_s=STOP_GRACE_S)
            self.is_up = False
            await self._kit.housing.vacate(self._room.slug)
            return is_up

    async def replace(self) -> None:
        """Remove the container; the next `connect` makes another, also when this fails."""
        self.condemn()
        await self._kit.backend.remove(self.name)
        self.is_up = False
        self._is_condemned = False

    def condemn(self) -> None:
        """Detach, and give this container no other turn: the next `connect` replaces it."""
        self._is_condemned = True
        self.disconnect()

    def disconnect(self, only: Connection | None = None) -> None:
        """Detach, if it is this connection, or whichever it is; the runner goes on."""
        if self.connection is None or (only is not None and only is not self.connection):
            return
        self.connection.close()
        self.connection = None
        self.changed.set()

    def leave(self, turn_id: TurnId) -> None:
        """The turn does not run any more. Idempotent."""
        self.working.discard(turn_id)
        self.unfollow(turn_id)

    def unfollow(self, turn_id: TurnId) -> None:
        """The turn is in no session now, or in another one. Idempotent."""
        session = self.followed.pop(turn_id, None)
        if session is not None and self.connection is not None:
            self.connection.release(session)

    async def inspect(self) -> RunnerInfo | None:
        """What the engine says of the container."""
        return await self._kit.backend.inspect(self.name)

    async def _prepare(self, *, is_vacant: bool = False) -> Quarters:
        """The room's place, as its configuration is now; with no container it may be changed."""
        room_id = self._room.room_id
        self._room = await self._kit.store.rooms.get(room_id) or self._room
        row = await self._kit.store.turns.runner(room_id)
        self._generation = row.generation
        self.quarters = await self._kit.housing.prepare(
            self._room, generation=row.generation, is_vacant=is_vacant
        )
        return self.quarters

    async def _bring_up(self, permit: StartPermit, *, busy: bool) -> None:
        """Move the container towards running, one step at a time."""
        quarters = await self._prepare()
        for _ in range(_MAX_STEPS):
            info = await self.inspect()
            self._is_current = (
                info is not None
                and info.spec_hash == quarters.spec_hash
                and (busy or info.generation == self._generation)
            )
            sight = runner_sight(
                info.state if info else None, is_current=self._is_current, has_work=busy
            )
            action = next_action(RunnerGoal.UP, sight)
            if action is RunnerAction.NONE:
                return
            if busy and (info is None or info.state is not RunnerState.RUNNING):
                raise RunnerGoneError
            self._log.bind(action="runner.step", step=action).info("bringing the runner up")
            if action is RunnerAction.CREATE:
                # Which may move a room's files, for minutes: nobody's start waits for that.
                quarters = await self._prepare(is_vacant=True)
            if action in (RunnerAction.CREATE, RunnerAction.START):
                await permit.take()
            await self._step(action, quarters)
        msg = "the container does not stay up; something else seems to stop it"
        raise RunnerError(msg)

    async def _step(self, action: RunnerAction, quarters: Quarters) -> None:
        match action:
            case RunnerAction.CREATE:
                room_id = self._room.room_id
                self._generation = await self._kit.store.turns.new_generation(room_id)
                reach(FaultPoint.RUNNER_COUNTED)
                spec = replace(quarters.spec, generation=self._generation)
                await self._kit.backend.ensure(spec)
                reach(FaultPoint.RUNNER_CREATED)
            case RunnerAction.START:
                await self._kit.backend.start(self.name)
                reach(FaultPoint.RUNNER_STARTED)
            case RunnerAction.REMOVE:
                await self._kit.backend.remove(self.name)
            case RunnerAction.STOP:
                await self._kit.backend.stop(self.name, grace_s=STOP_GRACE_S)
            case RunnerAction.NONE:
                pass

    async def _attach(self) -> RunnerLink:
        row = await self._kit.store.turns.runner(self._room.room_id)
        connection = Connection(
            self._kit.backend,
            self.name,
            epoch=row.epoch,
            acked=row.acked,
            followed=frozenset(self.followed.values()),
        )
        self._group.create_task(connection.run(), name=f"connection {self._room.slug}")
        try:
            link = await connection.ready()
        except BaseException:
            connection.close()
            raise
        reach(FaultPoint.RUNNER_ATTACHED)
        self.connection, self.is_up = connection, True
        self.changed.set()
        return link
