"""A room's container and the connection to it: brought up, adopted, replaced, left alone.

Rules: a running container that speaks our protocol is adopted, whatever version made it, while a
turn is in it; one that doesn't match today's specification is replaced as soon as no turn is; a
dead one is replaced, not revived (its workspace and home are directories of the host and stay).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from loguru import logger

from orchestrator.core.lifecycle import (
    RunnerAction,
    RunnerGoal,
    next_action,
    restart_delay_s,
    runner_sight,
)
from orchestrator.errors import RunnerError, RunnerGoneError, WireVersionError
from orchestrator.model import RunnerState
from orchestrator.ports import RunnerInfo
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.kit import Kit, Quarters
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import RoomRow

# Create, start and greet take well under a second each; a loop that needs more steps than this is
# being undone by something else (a person, another tool).
_MAX_STEPS = 8
STOP_GRACE_S = 10.0


class RoomRunner:
    """Invariant: `connection` is None, or a task of the worker's group serves it."""

    def __init__(self, room: RoomRow, kit: Kit, group: asyncio.TaskGroup) -> None:
        self._room = room
        self._kit = kit
        self._group = group
        self._failures = 0
        self._log = logger.bind(room=room.room_id)
        self.connection: Connection | None = None
        self.quarters: Quarters | None = None
        self.name: str | None = None

    def __repr__(self) -> str:
        return f"<RoomRunner {self._room.slug} {self.connection!r}>"

    async def connect(self, *, busy: bool) -> RunnerLink:
        """A link to the room's running shim. `busy`: a turn is in the runner, so don't replace it.

        Raises:
            RunnerGoneError: `busy`, and there is no running container.
            RunnerError, PreconditionError: it can't be brought up now.
        """
        if self.connection is not None and not self.connection.lost:
            return await self.connection.ready()
        if self._failures:
            await asyncio.sleep(restart_delay_s(self._failures))
        try:
            await self._bring_up(busy=busy)
            link = await self._attach()
        except WireVersionError:
            if busy:
                raise
            await self.replace()
            link = await self._attach_after_replace()
        except RunnerError:
            self._failures += 1
            raise
        self._failures = 0
        return link

    async def replace(self) -> None:
        """Remove the container; the next `connect` makes another."""
        self.disconnect()
        await self._kit.backend.remove(await self._runner_name())

    async def stop(self) -> None:
        """Stop the container, if there is one."""
        self.disconnect()
        await self._kit.backend.stop(await self._runner_name(), grace_s=STOP_GRACE_S)

    def disconnect(self) -> None:
        """Detach; the runner goes on."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    async def inspect(self) -> RunnerInfo | None:
        """What the engine says of the container."""
        return await self._kit.backend.inspect(await self._runner_name())

    async def _runner_name(self) -> str:
        return (await self._prepared()).spec.name

    async def _prepared(self) -> Quarters:
        if self.quarters is None:
            row = await self._kit.store.turns.runner(self._room.room_id)
            self.quarters = await self._kit.housing.prepare(self._room, generation=row.generation)
        return self.quarters

    async def _attach_after_replace(self) -> RunnerLink:
        await self._bring_up(busy=False)
        return await self._attach()

    async def _bring_up(self, *, busy: bool) -> None:
        """Move the container towards running, one step at a time."""
        for _ in range(_MAX_STEPS):
            quarters = await self._prepared()
            info = await self.inspect()
            sight = runner_sight(
                info.state if info else None,
                is_current=info is not None and info.spec_hash == quarters.spec_hash,
                has_work=busy,
            )
            action = next_action(RunnerGoal.UP, sight)
            if action is RunnerAction.NONE:
                return
            if busy and (info is None or info.state is not RunnerState.RUNNING):
                raise RunnerGoneError
            self._log.bind(action="runner.step", step=action).info("bringing the runner up")
            await self._step(action, quarters)
        msg = "the container does not stay up; something else seems to stop it"
        raise RunnerError(msg)

    async def _step(self, action: RunnerAction, quarters: Quarters) -> None:
        name = quarters.spec.name
        match action:
            case RunnerAction.CREATE:
                generation = await self._kit.store.turns.new_generation(self._room.room_id)
                spec = replace(quarters.spec, generation=generation)
                self.quarters = replace(quarters, spec=spec)
                await self._kit.backend.ensure(spec)
            case RunnerAction.START:
                await self._kit.backend.start(name)
            case RunnerAction.REMOVE:
                await self._kit.backend.remove(name)
            case RunnerAction.STOP:
                await self._kit.backend.stop(name, grace_s=STOP_GRACE_S)
            case RunnerAction.NONE:
                pass

    async def _attach(self) -> RunnerLink:
        row = await self._kit.store.turns.runner(self._room.room_id)
        connection = Connection(
            self._kit.backend, await self._runner_name(), epoch=row.epoch, acked=row.acked
        )
        self._group.create_task(connection.run(), name=f"connection {self._room.slug}")
        link = await connection.ready()
        self.connection = connection
        return link
