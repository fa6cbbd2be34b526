"""One room: its turns, from the queue to their end: one at a time, or one a conversation.

The worker and its turns' drivers are the only ones that touch the room's runner and move the room's
turns past QUEUED. They keep nothing that matters in memory: killed at any point, the next worker
reads the turns from the store, attaches to the runner that still works on them, and goes on.
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
from orchestrator.core.rest import IdleRunner, Rest
from orchestrator.model import RoomId, TurnId, TurnOutcome, TurnState, UserId
from orchestrator.ports import RunnerInfo
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.allowance import Allowances
from orchestrator.rooms.copies import RoomCopies
from orchestrator.rooms.disk_watch import DiskWatch
from orchestrator.rooms.errand import RoomErrands
from orchestrator.rooms.errands import WORKS
from orchestrator.rooms.idle import IdleListener
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.place_wait import PlaceWait
from orchestrator.rooms.rest import RoomRest
from orchestrator.rooms.room_runner import STOP_GRACE_S, TROUBLE, RoomRunner
from orchestrator.rooms.room_settings import apply_settings
from orchestrator.rooms.turn_driver import TurnDriver
from orchestrator.rooms.turn_end import end_turn
from orchestrator.store.api import RoomRow, TurnRow

RESTART = "restart"
"""The setting that is there until the room's container was replaced; its value is the command."""
# A waiting turn is looked at so often, however far off the end of its wait is.
_LOOK_EVERY_S = 60.0
# A copy of the workspace is made by a program in the runner, which does not rest before.
_LOOK_AT_COPIES_S = 1.0


class RoomWorker:
    """Invariant: of a conversation at most one turn is taken from the queue and has not ended."""

    def __init__(self, room: RoomRow, kit: Kit) -> None:
        self.room = room
        self._kit = kit
        self._drivers: dict[TurnId, TurnDriver] = {}
        self._taken: dict[TurnId, TurnRow] = {}
        self._payers: dict[TurnId, frozenset[UserId]] = {}
        self._failed: set[TurnId] = set()
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
        self._rest = RoomRest(room.room_id, kit.places)
        self._place = PlaceWait(room.room_id, kit, self._wake.set)
        self._log = logger.bind(room=room.room_id)

    def __repr__(self) -> str:
        return f"<RoomWorker {self.room.slug} {sorted(self._taken)} {self._runner!r}>"

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
        """The turn that is being worked on, as it was taken; of several the first."""
        return next((driver.turn for driver in self._drivers.values()), None)

    def current_in(self, conversation: str) -> TurnRow | None:
        """The same of one conversation."""
        found = (d.turn for d in self._drivers.values() if d.turn.session == conversation)
        return next(found, None)

    @property
    def drivers(self) -> Mapping[TurnId, TurnDriver]:
        """Who works on the turns that are being worked on."""
        return self._drivers

    def begins_at_once(self, turn: TurnRow, ahead: int) -> bool:
        """Whether a turn with so many others before it does not wait for any of them."""
        has_place = ahead == len(self._drivers) < self.profile.max_parallel_turns
        return has_place and self.current_in(turn.session) is None

    @property
    def has_live_session(self) -> bool:
        """Whether a CLI process runs in the room's runner, as far as is known."""
        connection = self._runner.connection if self._runner else None
        return connection is not None and bool(connection.live_sessions)

    @property
    def wanted(self) -> Wanted:
        """What the room's runner is doing now, for whoever asks what it wants."""
        drivers = list(self._drivers.values())
        if not drivers:
            return Wanted()
        driver = next((one for one in drivers if one.running_tools), drivers[0])
        turn = driver.turn
        return Wanted(tools=driver.running_tools, turn_id=turn.turn_id, asker=turn.sender)

    @property
    def idle_runner(self) -> IdleRunner | None:
        """The room's runner, where it runs, nothing works in it, and it can be put to rest."""
        is_used = self._taken or self.errands.idle.locked() or self.errands.is_at_work
        if self._runner is None or is_used or self._copies.is_at_work:
            return None
        return self._rest.describe(self._runner)

    @property
    def is_going_to_rest(self) -> bool:
        """Whether its runner was asked to rest early, and that is not over."""
        return self._rest.is_wished

    def rest_early(self, rest: Rest) -> None:
        """The host's memory is short; a turn that comes first has its runner as it is."""
        self._rest.wish(rest)
        self._wake.set()

    def wake(self) -> None:
        """There may be a turn to run."""
        self._wake.set()
        self._nudge()

    def cancel(self, turn_id: TurnId) -> None:
        """Stop this turn, which is marked as cancelled in the store, wherever it is."""
        driver = self._drivers.get(turn_id)
        if driver is None:
            # It may just be taken from the queue, as it was before the mark.
            self._withdrawn.add(turn_id)
        else:
            driver.cancel()
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
        # The end of one may queue a message that was to go into it.
        while turns := await self._kit.store.turns.open_turns(self.room_id):
            for turn in turns:
                await self._end(turn, TurnOutcome.REFUSED, reason)

    async def fail_current(self, reason: str) -> None:
        """End the turn that `run` failed in, or those that it was at.

        What is left of it in the runner is ended first: nobody would know of it any more.
        """
        self._kit.courtesies.typing(self.room_id, typing=False)
        failed = self._failed or set(self._taken)
        for turn in await self._kit.store.turns.open_turns(self.room_id):
            if turn.turn_id not in failed:
                continue
            if turn.state is not TurnState.QUEUED:
                await self._remove_runner()
            await self._end(turn, TurnOutcome.FAILED, reason)

    def note_decided(self) -> None:
        """Something that one of the room's turns may have asked was decided."""
        for driver in self._drivers.values():
            driver.note_decided()

    async def why_not_steer(self, person: UserId) -> str | None:
        """Why nothing of this person's may go into a running turn now: a clause, or None."""
        return await self._allowances.begin_steer(self.room, person)

    def note_steered(self, turn_id: TurnId, by: UserId) -> None:
        """A message of somebody's is to go into this turn, which is for them, too, from now on."""
        self._payers[turn_id] = self._payers.get(turn_id, frozenset()) | {by}
        self._share_costs()
        if (driver := self._drivers.get(turn_id)) is not None:
            driver.note_steered()

    def note_out_of_memory(self) -> None:
        """The kernel ended a process of the room's runner for its memory."""
        for driver in self._drivers.values():
            driver.note_out_of_memory()

    async def look_at_disk(self) -> None:
        """Look at the room's disk while its runner runs; stop what grows past its limit."""
        if self._runner is None or self._runner.connection is None:
            return
        usage = await self._disk.look(self.room)
        if usage is not None and self._disk.is_exceeded(usage):
            await self._stop_growth(usage)

    async def _stop_growth(self, usage: DiskUsage) -> None:
        for driver in self._drivers.values():
            driver.stop(texts.disk_limit_met(usage))
        if self._drivers:
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
        self._taken.clear()
        self._failed.clear()
        async with asyncio.TaskGroup() as group:
            runner = self._runner = RoomRunner(self.room, self._kit, group)
            watching = self._disk.run(self.room, self.look_at_disk)
            group.create_task(watching, name=f"disk {self.room.slug}")
            group.create_task(self._copies.run(), name=f"copies {self.room.slug}")
            group.create_task(self.errands.run(runner), name=f"errands {self.room.slug}")
            listener = IdleListener(self.room_id, self._kit, is_at_work=lambda: bool(self._drivers))
            listening = listener.run(runner, self.wake)
            group.create_task(listening, name=f"listen {self.room.slug}")
            await self._allowances.of(self.room)
            await self.read_settings()
            await self._follow_running(runner)
            if self._condemns:
                runner.condemn()
                self._condemns = False
            try:
                while True:
                    turn = await self._next_turn(runner)
                    await self.errands.settle(turn, is_shared=lambda: bool(self._taken))
                    if not self._taken:
                        await self.errands.idle.acquire()
                    self._taken[turn.turn_id] = turn
                    group.create_task(self._work(turn, runner), name=f"turn {turn.turn_id}")
            finally:
                runner.disconnect()
                if self.errands.idle.locked() and self._taken:
                    self.errands.idle.release()

    async def _follow_running(self, runner: RoomRunner) -> None:
        """What turns of an earlier life say is kept for whoever takes each up again."""
        for turn in await self._kit.store.turns.open_turns(self.room_id):
            if turn.state is not TurnState.QUEUED and turn.session_id is not None:
                runner.followed[turn.turn_id] = turn.session_id
                runner.working.add(turn.turn_id)

    async def _work(self, turn: TurnRow, runner: RoomRunner) -> None:
        """One turn, from the moment in which it is taken."""
        try:
            await self._drive(turn, runner)
        except Exception:
            # Raised on: the whole worker ends. Of its turns this one is at fault.
            self._failed.add(turn.turn_id)
            raise
        finally:
            runner.leave(turn.turn_id)
            self._rest.note_used()
        del self._taken[turn.turn_id]
        self._payers.pop(turn.turn_id, None)
        if not self._taken:
            self.errands.idle.release()
        self._share_costs()
        self.wake()

    async def _drive(self, turn: TurnRow, runner: RoomRunner) -> None:
        self.room = await self._kit.store.rooms.get(self.room_id) or self.room
        usage = await self._disk.begin(self.room)
        if turn.state is TurnState.QUEUED and usage is not None and usage.is_hopeless:
            await self._end(turn, TurnOutcome.REFUSED, texts.disk_hopeless(usage))
            return
        is_new = turn.state is TurnState.QUEUED and turn.cancelled_by is None
        self._payers[turn.turn_id] = await self._kit.store.steers.senders(turn.turn_id)
        self._share_costs()
        why = await self._allowances.begin(self.room, turn, is_new=is_new)
        if why is not None and turn.turn_id not in self._withdrawn:
            await self._end(turn, TurnOutcome.REFUSED, why)
            return
        profile = self.profile
        driver = self._drivers[turn.turn_id] = TurnDriver(
            turn,
            kit=self._kit,
            profile=profile,
            runner=runner,
            copies=self._copies,
            is_shared=self._is_shared,
        )
        if self._is_withdrawn(turn):
            driver.cancel()
        self._withdrawn.discard(turn.turn_id)
        self._kit.courtesies.typing(self.room_id, typing=True)
        try:
            await driver.drive()
        finally:
            del self._drivers[turn.turn_id]
        if not self._drivers:
            self._copies.note_ended(turn, profile.snapshots, runner.connection)
        for person in sorted(self._payers_of(turn)):
            await self._allowances.warn(self.room, person)
        if not self._drivers:
            await self._look_after_turn(runner)

    def _share_costs(self) -> None:
        payers = (self._payers_of(turn) for turn in self._taken.values())
        self._allowances.share(self.room, frozenset().union(*payers))

    def _payers_of(self, turn: TurnRow) -> frozenset[UserId]:
        return self._payers.get(turn.turn_id, frozenset()) | {turn.sender}

    def _is_withdrawn(self, turn: TurnRow) -> bool:
        return turn.cancelled_by is not None or turn.turn_id in self._withdrawn

    def _is_shared(self) -> bool:
        return len(self._taken) > 1

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
            waiting = [turn for turn in turns if turn.turn_id not in self._taken]
            self.waits_until = _waits_until(waiting, self._kit.wall_clock())
            if (turn := self._choose(waiting)) is None:
                self._place.withdraw()
            elif self._is_withdrawn(turn) or await self._place.take(turn):
                return turn
            rest_at = None if self._taken else await self._idle(runner)
            with (
                self._waking_at(self.waits_until),
                self._waking_at_loop_time(rest_at),
                self._waking_at_loop_time(self._place.tell_at),
            ):
                await self._wake.wait()

    async def _idle(self, runner: RoomRunner) -> float | None:
        """Nothing runs: listen to the runner, and put it to rest when it is time (loop time)."""
        self._kit.courtesies.typing(self.room_id, typing=False)
        if runner.connection is not None and runner.connection.lost:
            runner.disconnect()
        await runner.adopt()
        if self.errands.idle.locked() or self.errands.is_at_work:
            return None  # its end wakes us
        if runner.is_up:
            self._kit.places.spare(self.room_id, self._wake.set)
        else:
            self._kit.places.leave(self.room_id)
        if self._copies.is_at_work:
            return asyncio.get_running_loop().time() + _LOOK_AT_COPIES_S
        async with self.errands.idle:
            return await self._rest.look(runner, self.profile)

    def _choose(self, waiting: Sequence[TurnRow]) -> TurnRow | None:
        """The next turn, if there is a place for one; what has begun in an earlier life goes on."""
        has_place = len(self._taken) < self.profile.max_parallel_turns
        busy = {turn.session for turn in self._taken.values()}
        for turn in waiting:
            if turn.session in busy:
                continue
            if turn.state is TurnState.QUEUED and self._is_withdrawn(turn):
                return turn  # which ends at once, whatever it waits for
            if turn.state is not TurnState.QUEUED:
                return turn
            if turn.not_before > self._kit.wall_clock():
                continue
            is_held = bool(self._taken) and RESTART in self._settings
            if has_place and self.waits_until is None and not is_held:
                return turn
        return None

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
    def _waking_at_loop_time(self, until: float | None) -> Iterator[None]:
        if until is None:
            yield
            return
        timer = asyncio.get_running_loop().call_at(until, self._wake.set)
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def _waking_at(self, until: float | None) -> Iterator[None]:
        """Be woken at that Unix time; earlier, too, for that clock may be set."""
        at = None
        if until is not None:
            delay_s = min(max(until - self._kit.wall_clock(), 0.0), _LOOK_EVERY_S)
            at = asyncio.get_running_loop().time() + delay_s
        with self._waking_at_loop_time(at):
            yield


def _waits_until(turns: Sequence[TurnRow], now: float) -> float | None:
    """Until when the first turn waits, and with it those behind it, which would meet the same."""
    if not turns or turns[0].cancelled_by is not None or turns[0].not_before <= now:
        return None
    return turns[0].not_before
