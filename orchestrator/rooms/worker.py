"""One room: its turns, one at a time, from the queue to their end.

The worker is the only one that touches the room's runner and moves the room's turns past QUEUED. It
keeps nothing that matters in memory: killed at any point, the next one reads the turns from the
store, attaches to the runner that still works on them, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.denial import Wanted
from orchestrator.core.disk import DiskUsage
from orchestrator.core.naming import runner_name
from orchestrator.errors import RunnerError, WireProtocolError
from orchestrator.model import RoomId, TurnId, TurnOutcome, TurnState
from orchestrator.ports import RunnerInfo
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.allowance import Allowances
from orchestrator.rooms.cli_session import MAIN
from orchestrator.rooms.connection import Connection, LinkLost
from orchestrator.rooms.copies import RoomCopies
from orchestrator.rooms.disk_watch import DiskWatch
from orchestrator.rooms.errand import RoomErrands
from orchestrator.rooms.errands import WORKS
from orchestrator.rooms.idle import IdleEar
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.room_runner import STOP_GRACE_S, TROUBLE, RoomRunner
from orchestrator.rooms.room_settings import apply_settings
from orchestrator.rooms.turn_driver import TurnDriver
from orchestrator.rooms.turn_end import end_turn
from orchestrator.store.api import RoomRow, TurnRow

__all__ = ["MAIN", "RoomWorker"]

RESTART = "restart"
"""The setting that is there until the room's container was replaced; its value is the command."""
# A waiting turn is looked at so often, however far off the end of its wait is.
_LOOK_EVERY_S = 60.0


class RoomWorker:
    """Invariant: `current` is the turn that this worker has taken from the queue, or None."""

    def __init__(self, room: RoomRow, kit: Kit) -> None:
        self.room = room
        self._kit = kit
        self._driver: TurnDriver | None = None
        self._last_taken: TurnId | None = None
        self.waits_until: float | None = None
        """Until when (Unix time) the turn waits that would run next, if it does."""
        self._withdrawn: set[TurnId] = set()
        self._settings: Mapping[str, str] = {}
        self._condemns = False
        self._wake = asyncio.Event()
        self._runner: RoomRunner | None = None
        self._disk = DiskWatch(kit)
        self._copies = RoomCopies(room, kit)
        self.errands = RoomErrands(self, kit, self._copies, WORKS)
        self._allowances = Allowances(kit)
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
    def profile(self) -> RoomProfile:
        """How the room works now; what names it (its alias) may change."""
        return apply_settings(self.configured, self._settings)

    @property
    def configured(self) -> RoomProfile:
        """The same without what the room's people set."""
        return self._kit.config.profile(self.room_id, self.room.alias, self.room.former)

    async def read_settings(self) -> None:
        """The room's people have set something, or may have."""
        self._settings = await self._kit.store.settings.of_room(self.room_id)

    @property
    def current(self) -> TurnRow | None:
        """The turn that is being worked on, as it was taken."""
        return self._driver.turn if self._driver is not None else None

    @property
    def has_live_session(self) -> bool:
        """Whether a CLI process runs in the room's runner, as far as is known."""
        connection = self._runner.connection if self._runner else None
        return connection is not None and bool(connection.live_sessions)

    @property
    def wanted(self) -> Wanted:
        """What the room's runner is doing now, for whoever asks what it wants."""
        if self._driver is None:
            return Wanted()
        turn = self._driver.turn
        return Wanted(tools=self._driver.running_tools, turn_id=turn.turn_id, asker=turn.sender)

    def wake(self) -> None:
        """There may be a turn to run."""
        self._wake.set()
        self._nudge()

    def cancel(self, turn_id: TurnId) -> None:
        """Stop this turn, which is marked as cancelled in the store, wherever it is."""
        if self._driver is None:
            # It may just be taken from the queue, as it was before the mark.
            self._withdrawn.add(turn_id)
        elif self._driver.turn.turn_id == turn_id:
            self._driver.cancel()
        self.wake()

    async def inspect(self) -> RunnerInfo | None:
        """What the engine says of the room's container."""
        return await self._kit.backend.inspect(self._name)

    async def stop_runner(self) -> None:
        """Stop the room's container; only after `run` has ended."""
        await self._kit.backend.stop(self._name, grace_s=STOP_GRACE_S)
        await self._kit.housing.vacate(self.room.slug)

    async def refuse_all(self, reason: str) -> None:
        """End every turn that has not ended; only after `run` has ended."""
        for turn in await self._kit.store.turns.open_turns(self.room_id):
            await self._end(turn, TurnOutcome.REFUSED, reason)

    async def fail_current(self, reason: str) -> None:
        """End the turn that was being worked on when `run` failed.

        What is left of it in the runner is ended first: nobody would know of it any more.
        """
        self._kit.courtesies.typing(self.room_id, typing=False)
        for turn in await self._kit.store.turns.open_turns(self.room_id):
            if turn.turn_id != self._last_taken:
                continue
            if turn.state is not TurnState.QUEUED:
                await self._remove_runner()
            await self._end(turn, TurnOutcome.FAILED, reason)

    def note_decided(self) -> None:
        """Something that the room's turn may have asked was decided."""
        if self._driver is not None:
            self._driver.note_decided()

    def note_out_of_memory(self) -> None:
        """The kernel ended a process of the room's runner for its memory."""
        if self._driver is not None:
            self._driver.note_out_of_memory()

    async def look_at_disk(self) -> None:
        """Look at the room's disk while its runner runs; stop what grows past its limit."""
        if self._runner is None or self._runner.connection is None:
            return
        usage = await self._disk.look(self.room)
        if usage is not None and self._disk.is_exceeded(usage):
            await self._stop_growth(usage)

    async def _stop_growth(self, usage: DiskUsage) -> None:
        if self._driver is not None:
            self._driver.stop(texts.disk_limit_met(usage))
            return
        self._log.bind(action="disk.stop").warning("an idle runner grows past its disk's limit")
        try:
            await self._kit.backend.stop(self._name, grace_s=STOP_GRACE_S)
        except TROUBLE as e:
            self._log.bind(action="disk.stop", error=type(e).__name__).error("not stopped yet")

    def _nudge(self) -> None:
        if self._runner is not None and self._runner.connection is not None:
            self._runner.connection.nudge()

    @property
    def _name(self) -> str:
        return runner_name(self._kit.backend.installation, self.room.slug)

    async def _remove_runner(self) -> None:
        try:
            await self._kit.backend.remove(self._name)
        except TROUBLE as e:
            self._condemns = True
            self._log.bind(action="runner.remove", error=type(e).__name__).error("not removed yet")

    async def _end(self, turn: TurnRow, outcome: TurnOutcome, reason: str) -> None:
        await end_turn(turn, outcome, reason, kit=self._kit, profile=self.profile)

    # The loop...

    async def run(self) -> NoReturn:
        """Run the room's turns until cancelled; the runner is left as it is."""
        async with asyncio.TaskGroup() as group:
            runner = self._runner = RoomRunner(self.room, self._kit, group)
            watching = self._disk.run(self.room, self.look_at_disk)
            group.create_task(watching, name=f"disk {self.room.slug}")
            group.create_task(self._copies.run(), name=f"copies {self.room.slug}")
            group.create_task(self.errands.run(runner), name=f"errands {self.room.slug}")
            await self._allowances.of(self.room)
            await self.read_settings()
            if self._condemns:
                runner.condemn()
                self._condemns = False
            try:
                while True:
                    turn = await self._next_turn(runner)
                    await self.errands.settle(turn, runner)
                    async with self.errands.idle:
                        await self._drive(turn, runner)
            finally:
                runner.disconnect()

    async def _drive(self, turn: TurnRow, runner: RoomRunner) -> None:
        self._last_taken = turn.turn_id
        self.room = await self._kit.store.rooms.get(self.room_id) or self.room
        usage = await self._disk.begin(self.room)
        if turn.state is TurnState.QUEUED and usage is not None and usage.is_hopeless:
            await self._end(turn, TurnOutcome.REFUSED, texts.disk_hopeless(usage))
            return
        is_new = turn.state is TurnState.QUEUED and turn.cancelled_by is None
        why = await self._allowances.begin(self.room, turn, is_new=is_new)
        if why is not None and turn.turn_id not in self._withdrawn:
            await self._end(turn, TurnOutcome.REFUSED, why)
            return
        profile = self.profile
        self._driver = TurnDriver(
            turn, kit=self._kit, profile=profile, runner=runner, copies=self._copies
        )
        if turn.cancelled_by is not None or turn.turn_id in self._withdrawn:
            self._driver.cancel()
        self._withdrawn.clear()
        self._kit.courtesies.typing(self.room_id, typing=True)
        try:
            await self._driver.drive()
        finally:
            self._driver = None
        self._copies.note_ended(turn, profile.snapshots, runner.connection)
        await self._allowances.warn(self.room, turn.sender)
        await self._look_after_turn(runner)

    async def _look_after_turn(self, runner: RoomRunner) -> None:
        usage = await self._disk.begin(self.room)
        if usage is not None and usage.is_sick and not runner.is_condemned:
            # Checked and mended between two containers.
            runner.condemn()
            await self._disk.tell(self.room, "disk-sick", texts.DISK_SICK)

    async def _next_turn(self, runner: RoomRunner) -> TurnRow:
        while True:
            self._wake.clear()
            await self._restart(runner)
            turns = await self._kit.store.turns.open_turns(self.room_id)
            self.waits_until = _waits_until(turns, self._kit.wall_clock())
            if turns and self.waits_until is None:
                return turns[0]
            self._kit.courtesies.typing(self.room_id, typing=False)
            await runner.adopt()
            with self._waking_at(self.waits_until):
                await self._listen(runner)

    async def _restart(self, runner: RoomRunner) -> None:
        """Replace the room's container where somebody asked for that; again until it is done."""
        by = self._settings.get(RESTART)
        if by is None or self.errands.idle.locked():
            return  # whoever works in the container is let finish, and wakes us
        try:
            async with self.errands.idle:
                await runner.replace()
        except TROUBLE as e:
            self._log.bind(action="runner.remove", error=type(e).__name__).error("not removed yet")
            return
        await self._kit.store.settings.forget(self.room_id, RESTART, value=by)
        await self.read_settings()

    @contextmanager
    def _waking_at(self, until: float | None) -> Iterator[None]:
        """Be woken at that Unix time; earlier, too, for that clock may be set."""
        if until is None:
            yield
            return
        delay_s = min(max(until - self._kit.wall_clock(), 0.0), _LOOK_EVERY_S)
        timer = asyncio.get_running_loop().call_later(delay_s, self.wake)
        try:
            yield
        finally:
            timer.cancel()

    async def _listen(self, runner: RoomRunner) -> None:
        """Take in what the idle runner says, until somebody wakes us."""
        ear = IdleEar(self.room_id, self._kit)
        while not self._wake.is_set():
            connection = runner.connection
            if connection is None:
                await self._wake.wait()
                return
            try:
                await self._hear(connection, ear)
            except WireProtocolError as e:
                self._log.bind(action="runner.protocol", why=str(e)).error("not trusted further")
                runner.condemn()
            except RunnerError as e:
                self._log.bind(action="runner.lost", error=type(e).__name__).warning(
                    "the connection to the idle runner ended"
                )
                runner.disconnect()

    async def _hear(self, connection: Connection, ear: IdleEar) -> None:
        item = await connection.receive(None)
        if isinstance(item, LinkLost):
            raise item.error
        if item is not None:
            await ear.hear(item, await connection.ready(), is_last=connection.is_empty)


def _waits_until(turns: Sequence[TurnRow], now: float) -> float | None:
    """Until when the first turn waits, and with it those behind it, which would meet the same."""
    if not turns or turns[0].cancelled_by is not None or turns[0].not_before <= now:
        return None
    return turns[0].not_before
