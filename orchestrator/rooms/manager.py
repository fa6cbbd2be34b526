"""All rooms: one worker each, started when the room is first heard of, contained when it fails."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from loguru import logger

from orchestrator.core import texts
from orchestrator.core.command import COMMANDS, Command, CommandName, parse_command
from orchestrator.core.denial import Wanted
from orchestrator.core.lifecycle import restart_delay_s
from orchestrator.core.naming import turn_id
from orchestrator.core.piece import encode_pieces
from orchestrator.core.policy import Message, RoomEvent, build_prompt
from orchestrator.core.reason import LEFT_ROOM
from orchestrator.core.thread import conversation_in
from orchestrator.errors import StoreError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.log import AUDIT_ONLY
from orchestrator.model import EventId, RoomId, RoomSlug, TurnId, TurnOutcome, TurnState, UserId
from orchestrator.rooms.amending import Amending
from orchestrator.rooms.commands.table import execute
from orchestrator.rooms.egress_asking import EgressAsking
from orchestrator.rooms.flood import Flood
from orchestrator.rooms.hearing import Heard
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.mark import Marks
from orchestrator.rooms.mishap import build_mishap_notice
from orchestrator.rooms.outgoing import build_notice_rows, build_turn_notice_rows
from orchestrator.rooms.page_acting import PageActing
from orchestrator.rooms.patience import Patience
from orchestrator.rooms.people import People
from orchestrator.rooms.reaction import Reply
from orchestrator.rooms.refusal import Refusals
from orchestrator.rooms.refused_message import RefusedMessages
from orchestrator.rooms.room_command import RoomCommand
from orchestrator.rooms.room_runner import TROUBLE
from orchestrator.rooms.schedules import Schedules
from orchestrator.rooms.stray_runner import leave_unused, remove_strays
from orchestrator.rooms.warm_pool import WarmPool
from orchestrator.rooms.worker import RoomWorker
from orchestrator.store.api import (
    InboxRow,
    InboxState,
    NewOutboxRow,
    Replacement,
    RoomRow,
    TurnRow,
)
from orchestrator.store.steer_table import NewSteer
from orchestrator.store.turn_table import NewTurn

# Of what stands in the audit log.
_MOST_OF_COMMAND = 200
# A worker that ran for so long after a failure is well again; the next failure is its first.
_WELL_AFTER_S = 600.0


class RoomManager:
    """Invariant: a room that the agent is in and that has been heard of has exactly one worker."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._workers: dict[RoomId, RoomWorker] = {}
        self._tasks: dict[RoomId, asyncio.Task[None]] = {}
        self._retiring: dict[RoomId, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._refusals = Refusals(kit)
        self._people = People.build(kit.config, kit.store)
        self._errands = Patience()
        self._amending = Amending(kit, self._cancel)
        self._marks = Marks(kit)
        kit.store.turns.on_ended = self._marks.note_ended
        self.spares = WarmPool(kit, self._take_up)
        self.asking = EgressAsking(kit, self._find_work, self._tool_decided)
        self.tell_refused = RefusedMessages(kit, self.asking).tell
        self.act = PageActing(
            kit=kit, asking=self.asking, errands=self._errands, ensure_worker=self._ensure_worker
        ).act

    def __repr__(self) -> str:
        busy = sum(worker.current is not None for worker in self._workers.values())
        return f"<RoomManager rooms={len(self._workers)} busy={busy}>"

    @property
    def workers(self) -> Mapping[RoomId, RoomWorker]:
        """The rooms' workers."""
        return self._workers

    async def run(self) -> NoReturn:
        """Serve the rooms until cancelled; runners and their turns are left running."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._errands.use_group(group)
            group.create_task(self._refusals.run(), name="refusals")
            group.create_task(self._marks.run(), name="marks")
            group.create_task(self._kit.lives.run(self._kit), name="live answers")
            schedules = Schedules(self._kit, self._scheduled)
            group.create_task(schedules.run(), name="schedules")
            for turn in await self._kit.store.turns.open_turns():
                self._marks.note_accepted(turn)
                await self._take_up(turn.room_id)
            for room_id in await self._kit.store.errands.rooms():
                await self._take_up(room_id)
            await self._adopt_runners()
            group.create_task(self.spares.run(), name="spares")
            await asyncio.Event().wait()
        raise AssertionError

    async def _take_up(self, room_id: RoomId) -> None:
        """A room with turns from an earlier life; of one that was left since they end."""
        if await self._ensure_worker(room_id) is None:
            await self.retire(room_id)

    async def _adopt_runners(self) -> None:
        """Rooms whose runner was left running get their worker; of rooms that were left it stops.

        An engine that does not answer now is asked again: nothing else depends on it here.
        """
        failures = 0
        while True:
            try:
                found = await self._kit.backend.list()
                break
            except TROUBLE as e:
                failures += 1
                logger.bind(action="rooms.adopt", error=type(e).__name__).warning(
                    "the engine does not list its runners yet"
                )
                await asyncio.sleep(restart_delay_s(failures))
        # In this order: a spare that a room takes meanwhile is seen as the one or the other.
        spares = await self._kit.store.spares.all()
        rooms = await self._kit.store.rooms.all()
        own = [spare.slug for spare in spares] + [room.slug for room in rooms]
        await remove_strays(self._kit, found, own)
        known = {info.slug for info in found}
        for room in rooms:
            if room.slug in known:
                await self._take_up(room.room_id)

    async def close_window(self, room_id: RoomId, sender: UserId, items: tuple[Heard, ...]) -> None:
        """A sender's burst is over: it becomes a turn, or its sender is told why not. Idempotent.

        What the store can't do now is asked again; any other failure would be the same again.
        """
        room = await self._kit.store.rooms.current(room_id)
        try:
            await self._admit(room_id, room, sender, items)
        except StoreError:
            raise
        except Exception as e:  # noqa: BLE001 - contains one room's bugs in that room
            # The error's text may hold a message's; its kind and place don't.
            where = "".join(traceback.format_tb(e.__traceback__))
            logger.bind(
                action="turn.not_admitted", room=room_id, error=type(e).__name__, trace=where
            ).error("messages could not be made a turn")
            for item in items:
                notice = build_mishap_notice(
                    room.room_id if room else room_id,
                    item.message.event_id,
                    e,
                    config=self._kit.config,
                )
                await self._kit.store.fail(
                    item.seq, notice, reason=type(e).__name__, now=self._kit.wall_clock()
                )
            self._kit.notify_outbox()

    async def _admit(
        self, room_id: RoomId, room: RoomRow | None, sender: UserId, items: tuple[Heard, ...]
    ) -> None:
        """A turn of `room`; `room_id` is where it was said, which may be replaced since."""
        # In a room that was left and is replaced a turn waits for the new room to be known.
        if room is None or not (room.joined or room.replaced_by is not None):
            for item in items:
                await self._kit.store.inbox.mark(item.seq, InboxState.IGNORED, reason=LEFT_ROOM)
            return
        messages = [item.message for item in items]
        named = room.has_several_people
        turn = NewTurn(
            turn_id=turn_id(room_id, items[0].message.event_id),
            room_id=room.room_id,
            session=conversation_in(messages[0].thread),
            prompt=build_prompt(messages, name_senders=named),
            pieces=encode_pieces(messages, name_senders=named),
            sender=sender,
            asked=tuple(item.message.event_id for item in items),
            inbox=tuple(item.seq for item in items),
        )
        reach(FaultPoint.WINDOW_CLOSING)
        if await self._steer(turn, messages):
            return
        row = await self._kit.store.turns.admit(
            turn,
            max_queued=self._kit.config.gateway.max_queued_turns,
            refusal=self._refusals.queue_full(room.room_id),
            notices=self._queue_notices,
            now=self._kit.wall_clock(),
        )
        if row.outcome is TurnOutcome.REFUSED:
            self._refusals.note_queue_full(room.room_id)
        reach(FaultPoint.WINDOW_CLOSED)
        self._kit.notify_outbox()
        logger.bind(
            action="turn.admitted",
            room=room_id,
            turn=row.turn_id,
            state=row.state,
            sender=row.sender,
            asked=",".join(row.asked),
            audit=True,
        ).info("messages became a turn")
        self._marks.note_accepted(row)
        worker = await self._ensure_worker(row.room_id)
        if worker is not None:
            await self._interrupt(worker, row)
            worker.wake()

    async def _steer(self, turn: NewTurn, messages: Sequence[Message]) -> bool:
        """Where the room wishes it, a new message goes into the turn that runs; True: it does."""
        worker = self._workers.get(turn.room_id)
        running = worker.current_in(turn.session) if worker is not None else None
        if worker is None or running is None or worker.profile.while_running != "steer":
            return False
        if any(message.attachment for message in messages):
            return False
        if await worker.why_not_steer(turn.sender) is not None:
            return False  # as a turn of its own its sender is told why
        new = NewSteer(turn_id=running.turn_id, pieces=turn.pieces, inbox=turn.inbox)
        if not await self._kit.store.steers.add(new):
            return False
        reach(FaultPoint.WINDOW_CLOSED)
        worker.note_steered(running.turn_id, turn.sender)
        self._marks.note_accepted(replace(running, asked=turn.asked))
        return True

    async def _interrupt(self, worker: RoomWorker, turn: TurnRow) -> None:
        """Where the room wishes it, a new message stops what runs, and is worked on next.

        A crash between its being stored and this leaves it waiting as others do.
        """
        running = worker.current_in(turn.session)
        if worker.profile.while_running != "interrupt" or running is None:
            return
        if turn.state is TurnState.QUEUED and running.turn_id != turn.turn_id:
            by = turn.asked[-1] if turn.asked else None
            if by is not None and await self._kit.store.interrupt(running.turn_id, by=by):
                worker.cancel(running.turn_id)

    async def _scheduled(self, turn: TurnRow) -> None:
        worker = await self._ensure_worker(turn.room_id)
        if worker is not None:
            worker.wake()

    def _queue_notices(self, turn: TurnRow, ahead: int) -> list[NewOutboxRow]:
        worker = self._workers.get(turn.room_id)
        if ahead == 0 or (worker is not None and worker.begins_at_once(turn, ahead)):
            return []
        text = texts.queued(ahead, waits_until=worker.waits_until if worker else None)
        max_event_bytes = self._kit.config.gateway.max_event_bytes
        return build_turn_notice_rows(turn, "queued", text, max_event_bytes=max_event_bytes)

    async def refuse(self, room: RoomRow, row: InboxRow, message: Message, why: Flood) -> None:
        """A message of a sender who sends too much; the room is told once in a flood.

        Who floods by mistake must be able to stop it: a `!cancel` still has its effect.
        """
        command = parse_command(message.text)
        is_cancel = isinstance(command, Command) and command.name is CommandName.CANCEL
        may = await self._people.permissions(room.room_id, message.sender) if is_cancel else ()
        cancels = is_cancel and COMMANDS[CommandName.CANCEL].needs in may
        worker = await self._ensure_worker(room.room_id) if cancels else None
        cancelled = await self._refusals.refuse(
            room.room_id, row.seq, message, why, cancels=cancels
        )
        if worker is not None and cancelled is not None:
            worker.cancel(cancelled)

    async def execute(self, room: RoomRow, row: InboxRow, message: Message) -> None:
        """Execute a room command, and store its answer with the mark on its inbox row."""
        command = parse_command(message.text)
        worker = await self._ensure_worker(room.room_id)
        if worker is None:
            await self._kit.store.inbox.mark(row.seq, InboxState.IGNORED, reason=LEFT_ROOM)
            return
        doing = RoomCommand(
            kit=self._kit,
            asking=self.asking,
            worker=worker,
            seq=row.seq,
            event_id=message.event_id,
            sender=message.sender,
            name=message.name,
            conversation=conversation_in(row.thread),
            permissions=await self._people.permissions(room.room_id, message.sender),
            errands=self._errands,
        )
        reach(FaultPoint.COMMAND_TAKEN)
        logger.bind(
            action="command",
            room=room.room_id,
            event=message.event_id,
            sender=message.sender,
            command=message.text[:_MOST_OF_COMMAND],
            audit=AUDIT_ONLY,
        ).info("a command was given")
        await execute(doing, command)
        reach(FaultPoint.COMMAND_ANSWERED)
        self._kit.notify_outbox()

    async def edit(self, row: InboxRow, target: EventId, text: str, *, by: UserId) -> None:
        """Somebody changed a message of theirs; its row is marked."""
        await self._amending.edit(row, target, text, by=by)

    async def redact(self, row: InboxRow, target: EventId) -> None:
        """A message was taken back; its row is marked."""
        await self.asking.note_redacted(row, target)
        await self._amending.redact(row, target)

    def _cancel(self, room_id: RoomId, turn_id: TurnId) -> None:
        if (worker := self._workers.get(room_id)) is not None:
            worker.cancel(turn_id)

    async def reply(self, row: InboxRow, room_id: RoomId, reply: Reply) -> bool:
        """Act on a reply to a question of ours, and mark its row; False: it is none."""
        return await self.asking.reply(row, room_id, reply)

    def _tool_decided(self, room_id: RoomId) -> None:
        """The room's turn waits for it, and looks itself what it was."""
        if (worker := self._workers.get(room_id)) is not None:
            worker.note_decided()

    async def react(self, row: InboxRow, room_id: RoomId, event: RoomEvent) -> None:
        """Act on a reaction, and mark its row."""
        await self.asking.react(row, room_id, event)

    def _find_work(self, slug: RoomSlug) -> Wanted:
        """What a room's runner is doing now."""
        return next((w.wanted for w in self._workers.values() if w.room.slug == slug), Wanted())

    async def retire(self, room_id: RoomId) -> None:
        """The agent is no longer in the room: its turns end, its container stops, files stay.

        The container is stopped behind the caller's back: that may take as long as it is given, and
        other rooms don't wait for it. Should the agent come back, the room's next worker does.
        """
        worker = await self._end_worker(room_id)
        room = await self._kit.store.rooms.get(room_id)
        if room is None:
            return
        await self.asking.end_room(room)
        await self._kit.store.errands.drop(room_id)
        if self._group is None:
            return
        worker = worker or RoomWorker(room, self._kit)
        reach(FaultPoint.RETIRE_BEGUN)
        await worker.refuse_all("the agent left the room")
        reach(FaultPoint.RETIRE_ENDED)
        before = self._retiring.get(room_id)
        self._retiring[room_id] = self._group.create_task(
            self._stop_runner(worker, before), name=f"retire {room.slug}"
        )

    async def move(self, move: Replacement) -> None:
        """A room was replaced: its conversation, a running turn included, goes on in the new one.

        The runner works on; the old room's worker lets go of it, and the new room's adopts it.
        """
        for room_id in (move.old, move.new):
            await self._end_worker(room_id)
        notices = build_notice_rows(
            move.new,
            f"{move.new}:continues",
            texts.ROOM_CONTINUES,
            max_event_bytes=self._kit.config.gateway.max_event_bytes,
        )
        notices += await self.asking.farewell(move)
        is_moved = await self._kit.store.move_room(move, notices, now=self._kit.wall_clock())
        if is_moved:
            self.asking.moved(move)
        logger.bind(action="room.moved", room=move.old, new=move.new, moved=is_moved).info(
            "a room's conversation goes on in the one that replaces it"
        )
        before = self._retiring.pop(move.old, None)
        if before is not None:
            self._retiring[move.new] = before
        self._kit.notify_outbox()
        await self._ensure_worker(move.new if is_moved else move.old)
        if is_moved and self._group is not None:
            leaving = leave_unused(self._kit, move.old)
            self._group.create_task(leaving, name=f"unused {move.old}")

    async def _end_worker(self, room_id: RoomId) -> RoomWorker | None:
        """End the room's worker; its turns and its runner are left as they are."""
        task, worker = self._tasks.pop(room_id, None), self._workers.pop(room_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._kit.places.forget(room_id)
        self._kit.courtesies.typing(room_id, typing=False)
        return worker

    async def _stop_runner(self, worker: RoomWorker, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            await worker.stop_runner()
        except TROUBLE as e:
            logger.bind(action="room.retire", room=worker.room_id, error=type(e).__name__).error(
                "the runner of a room that was left could not be stopped; the next start tries"
            )
        finally:
            if self._retiring.get(worker.room_id) is asyncio.current_task():
                del self._retiring[worker.room_id]

    def note_out_of_memory(self, slug: RoomSlug) -> None:
        """The kernel ended a process of this room's runner for its memory."""
        for worker in self._workers.values():
            if worker.room.slug == slug:
                worker.note_out_of_memory()

    async def _ensure_worker(self, room_id: RoomId) -> RoomWorker | None:
        """The room's worker; None where the agent is no longer in the room."""
        if room_id in self._workers:
            return self._workers[room_id]
        if self._group is None:
            msg = "the rooms are not running"
            raise RuntimeError(msg)
        room = await self._kit.store.rooms.get(room_id)
        if room is None or not room.joined:
            return None
        if room_id not in self._workers:
            self._workers[room_id] = RoomWorker(room, self._kit)
            self._tasks[room_id] = self._group.create_task(
                self._contained(self._workers[room_id], self._retiring.get(room_id)),
                name=f"room {room.slug}",
            )
        return self._workers[room_id]

    async def _contained(self, worker: RoomWorker, before: asyncio.Task[None] | None) -> None:
        """A worker's failure is its room's: the room is told, and the worker starts again."""
        if before is not None:
            await asyncio.wait([before])
        failures = 0
        while True:
            started_at = asyncio.get_running_loop().time()
            try:
                await worker.run()
            except* StoreError:
                raise
            except* Exception as errors:  # noqa: BLE001 - contains one room's bugs in that room
                kinds = [type(e).__name__ for e in errors.exceptions]
                log = logger.bind(action="room.failed", room=worker.room_id, errors=kinds)
                log.opt(exception=errors).error("a room's worker failed")
            await self._fail_current(worker)
            if asyncio.get_running_loop().time() - started_at > _WELL_AFTER_S:
                failures = 0
            failures += 1
            await asyncio.sleep(restart_delay_s(failures))

    async def _fail_current(self, worker: RoomWorker) -> None:
        """End the turn that the failure met; where that fails too, the next start looks at it."""
        try:
            await worker.fail_current(texts.FAILED_INSIDE)
        except StoreError:
            raise
        except Exception as e:  # noqa: BLE001 - the same boundary: one room's bugs in that room
            log = logger.bind(action="room.failed", room=worker.room_id, errors=[type(e).__name__])
            log.opt(exception=e).error("the turn of a failed worker could not be ended")
