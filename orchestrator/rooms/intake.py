"""From stored inbox rows to turns, commands and changes of rooms.

Rooms take turns, a few rows at a time, each in the order of arrival: one that floods delays its own
rows and no other's. What belongs to no room (keys, mostly) goes before.

Each row is handled under a guard of its own: one that can't be handled is marked FAILED with the
kind of error, its room is told (`rooms.mishap`), and its neighbours go on. A row stays NEW until
what follows from it is stored, so that a crash at any point only means that it is looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator import meters
from orchestrator.config import Config
from orchestrator.core import texts
from orchestrator.core.policy import RoomEvent
from orchestrator.core.poll import RESPONSE_TYPES
from orchestrator.core.reason import LEFT_ROOM, UNDECRYPTABLE
from orchestrator.core.rotation import Rotation
from orchestrator.errors import StoreError, UndecryptableError
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.gateway.courtesy import Courtesies
from orchestrator.gateway.inbound import InboundGate
from orchestrator.model import RoomId, UserId
from orchestrator.ports import Encryption, Homeserver
from orchestrator.rooms.greeter import Greeter
from orchestrator.rooms.hearing import Heard, Rooms
from orchestrator.rooms.invitation import Invitations
from orchestrator.rooms.message_intake import MessageIntake
from orchestrator.rooms.mishap import build_mishap
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.patience import Patience
from orchestrator.rooms.people import People
from orchestrator.rooms.reaction import REACTION_TYPE
from orchestrator.rooms.room_state import RoomStates
from orchestrator.store.api import InboxKind, InboxRow, InboxState, RoomRow
from orchestrator.store.store import Store

# A key that has not come by then probably never will; the sender is told to send again.
KEY_PATIENCE_S = 300.0
# Rows of a room that are looked at before another room has its turn; each takes some milliseconds.
_ROOM_SHARE = 4
# Rows that are looked at before looking for newer ones: their texts are in memory meanwhile (64 KiB
# each at most). And how many are known by their number alone, some 200 bytes each.
_ROUND_ROWS = 100
_MAX_KNOWN_ROWS = 100_000


class _Outside(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Summary(_Outside):
    joined: int | None = Field(default=None, alias="m.joined_member_count")


class _Restored(_Outside):
    copied_at: float
    restored_at: float


class Intake:
    """Reads the inbox. Invariant: rows up to `cursor` have been looked at, or wait for it here."""

    def __init__(
        self,
        *,
        config: Config,
        me: UserId,
        store: Store,
        homeserver: Homeserver,
        encryption: Encryption,
        rooms: Rooms,
        gate: InboundGate[Heard],
        courtesies: Courtesies,
        clock: Callable[[], float],
        notify_outbox: Callable[[], None],
    ) -> None:
        self._config = config
        self._me = me
        self._store = store
        self._homeserver = homeserver
        self._encryption = encryption
        self._rooms = rooms
        self._clock = clock
        self._notify_outbox = notify_outbox
        self._cursor = 0
        self._roomless: Rotation[None, int] = Rotation(share=_ROUND_ROWS)
        self._waiting: Rotation[RoomId, int] = Rotation(share=_ROOM_SHARE)
        self._wake = asyncio.Event()
        self._wake.set()
        # Of its own: strangers' invitations keep nothing else waiting.
        self._patience = Patience()
        self._people = People.build(config, store)
        self._greeter = Greeter(config, store, clock=clock, notify_outbox=notify_outbox)
        self._invitations = Invitations(
            access=config.access,
            autojoin=config.matrix.autojoin,
            me=me,
            homeserver=homeserver,
            inbox=store.inbox,
            patience=self._patience,
            greeter=self._greeter,
        )
        self._states = RoomStates(
            config=config,
            store=store,
            homeserver=homeserver,
            encryption=encryption,
            rooms=rooms,
            clock=clock,
        )
        self._messages = MessageIntake(
            config=config,
            me=me,
            store=store,
            rooms=rooms,
            gate=gate,
            courtesies=courtesies,
            clock=clock,
            notify_outbox=notify_outbox,
        )

    def __repr__(self) -> str:
        return f"<Intake cursor={self._cursor} waiting={self._waiting!r}>"

    def notify(self) -> None:
        """There may be new rows."""
        self._wake.set()

    async def run(self) -> NoReturn:
        """Handle rows until cancelled. Only an error of the store ends it."""
        async with asyncio.TaskGroup() as group:
            self._patience.use_group(group)
            self._states.use_group(group)
            await self._greeter.load()
            await self._states.ask_for_levels()
            for row in await self._store.inbox.pending_keys():
                await self._handle_guarded(row)
            while True:
                await self._wait()
                while await self._go_round():
                    pass
                await self._give_up_late_keys()

    async def _go_round(self) -> bool:
        """Look at some rows of no room, then at some of each room; False when there are none."""
        await self._learn_of_new()
        looked = False
        for rotation in (self._roomless, self._waiting):
            seqs = rotation.take_round(_ROUND_ROWS)
            for row in await self._store.inbox.still_new(seqs):
                reach(FaultPoint.INBOX_TAKEN)
                await self._handle_guarded(row)
                reach(FaultPoint.INBOX_HANDLED)
            looked = looked or bool(seqs)
        return looked

    async def _learn_of_new(self) -> None:
        """What came meanwhile gets its place behind what waits."""
        space = _MAX_KNOWN_ROWS - len(self._waiting) - len(self._roomless)
        for seq, room_id in await self._store.inbox.new_seqs(after=self._cursor, limit=space):
            if room_id is None:
                self._roomless.add(None, seq)
            else:
                self._waiting.add(room_id, seq)
            self._cursor = seq

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(KEY_PATIENCE_S / 10):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _handle_guarded(self, row: InboxRow) -> None:
        log = logger.bind(room=row.room_id, event=row.event_id, kind=row.kind)
        try:
            await self._handle(row)
            await self._greeter.look_at(row.room_id)
        except StoreError:
            raise
        except UndecryptableError:
            log.bind(action="intake.pending_keys").warning("no key yet for an encrypted event")
            await self._store.inbox.mark(row.seq, InboxState.PENDING_KEYS, reason="no key")
        except Exception as e:  # noqa: BLE001 - one poisoned event must not take its neighbours along
            log.bind(action="intake.failed", error=type(e).__name__).error("event not handled")
            await self._fail(row, e)

    async def _fail(self, row: InboxRow, error: Exception) -> None:
        """Its room is told, where it was a message of somebody who may speak to the agent."""
        roles = await self._people.in_room(row.room_id)
        rows, reason = build_mishap(row, error, config=self._config, is_heard=roles)
        await self._store.fail(row.seq, rows, reason=reason, now=self._clock())
        self._notify_outbox()

    async def _handle(self, row: InboxRow) -> None:
        match row.kind:
            case InboxKind.TO_DEVICE:
                opened = await self._encryption.handle_to_device(row.raw)
                await self._done(row, "to-device")
                if opened:
                    await self._retry_pending(set(opened))
            case InboxKind.DEVICE_LISTS:
                await self._encryption.handle_device_lists(row.raw)
                await self._done(row, "device lists")
            case InboxKind.INVITE:
                self._invitations.start(row)
            case InboxKind.LEAVE:
                await self._leave(row)
            case InboxKind.SUMMARY:
                await self._summary(row)
            case InboxKind.RESTORED:
                await self._restored(row)
            case InboxKind.PAGE:
                await self._rooms.act(row)
            case InboxKind.STATE | InboxKind.TIMELINE:
                await self._event(row, RoomEvent.model_validate_json(row.raw), row.raw)

    async def _done(self, row: InboxRow, reason: str) -> None:
        reach(FaultPoint.INBOX_MARK)
        await self._store.inbox.mark(row.seq, InboxState.IGNORED, reason=reason)

    async def _event(self, row: InboxRow, event: RoomEvent, raw: str) -> None:
        room_id = _room_id(row)
        room = await self._store.rooms.get(room_id)
        if room is None or not (room.joined or _was_before_move(row, room)):
            room = await self._store.rooms.ensure(room_id, joined=True)
        if event.state_key is not None:
            if await self._states.take_in(row, room_id, event, raw):
                await self._done(row, "state")
        elif event.type == "m.room.redaction":
            await self._messages.redacted(room, row, event)
        elif event.type == "m.room.encrypted":
            clear = await self._encryption.decrypt(raw, room_id)
            await self._plain(room, row, RoomEvent.model_validate_json(clear))
        else:
            await self._plain(room, row, event)

    async def _plain(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        """What may stand in a message, encrypted or not: never state, which is the server's."""
        if event.type == "m.room.message":
            await self._messages.take(room, row, event)
        elif event.type == REACTION_TYPE or event.type in RESPONSE_TYPES:
            await self._rooms.react(row, room.room_id, event)
        else:
            await self._done(row, "event type")

    async def _summary(self, row: InboxRow) -> None:
        summary = _Summary.model_validate_json(row.raw)
        await self._store.rooms.ensure(_room_id(row), joined=True)
        await self._store.rooms.update(_room_id(row), joined_members=summary.joined)
        await self._done(row, "summary")

    async def _restored(self, row: InboxRow) -> None:
        """Once a room and restore, however many rows say it: the texts' ids are the same."""
        restored, room_id = _Restored.model_validate_json(row.raw), _room_id(row)
        rows = build_notice_rows(
            room_id,
            f"{room_id}:restored:{restored.restored_at}",
            texts.restored(texts.utc_time(restored.copied_at)),
            max_event_bytes=self._config.gateway.max_event_bytes,
        )
        await self._store.rooms.ensure(room_id, joined=True)
        await self._store.answer(row.seq, rows, reason="restored", now=self._clock())
        self._notify_outbox()

    async def _leave(self, row: InboxRow) -> None:
        room_id = _room_id(row)
        room = await self._store.rooms.get(room_id)
        if room is not None:
            await self._store.rooms.ensure(room_id, joined=False)
            await self._rooms.retire(room_id)
            # What a replaced room leaves goes on in the new one, which may not be known yet.
            if room.replaced_by is None:
                await self._drop_room(room_id)
        await self._done(row, "left")

    async def _drop_room(self, room_id: RoomId) -> None:
        """Nothing of the room is of use any more; last what its turns' ends would have said."""
        for pending in await self._store.inbox.pending_keys():
            if pending.room_id == room_id:
                await self._done(pending, LEFT_ROOM)
        await self._store.outbox.drop_room(room_id, reason=LEFT_ROOM, now=self._clock())

    async def _retry_pending(self, rooms: set[RoomId]) -> None:
        """A key came: what waited for one is new again, and before what came after it.

        Nothing is looked at here: a thousand closed events wait for their turns as others do.
        """
        for room_id in rooms:
            self._waiting.add_first(room_id, await self._store.inbox.reopen(room_id))

    async def _give_up_late_keys(self) -> None:
        """Tell a room once, however many of its events stayed closed; strangers nothing."""
        now = self._clock()
        told: set[RoomId] = set()
        for row in await self._store.inbox.pending_keys():
            if row.received_at + KEY_PATIENCE_S <= now:
                room_id = _room_id(row)
                is_first = room_id not in told and await self._may_be_told(row)
                if is_first:
                    told.add(room_id)
                meters.UNDECRYPTED.inc()
                text = texts.UNDECRYPTABLE if is_first else None
                current = await self._store.rooms.current(room_id)
                tell_in = current.room_id if current else room_id
                await self._messages.tell(tell_in, row, text, reason=UNDECRYPTABLE)

    async def _may_be_told(self, row: InboxRow) -> bool:
        try:
            sender = RoomEvent.model_validate_json(row.raw).sender
        except ValidationError:
            return False
        return sender != self._me and (await self._people.in_room(row.room_id))(sender)


def _was_before_move(row: InboxRow, room: RoomRow) -> bool:
    """Whether it belongs to the conversation that went on in another room."""
    return room.moved_seq is not None and row.seq <= room.moved_seq


def _room_id(row: InboxRow) -> RoomId:
    if row.room_id is None:
        msg = f"inbox row {row.seq} of kind {row.kind} has no room"
        raise ValueError(msg)
    return row.room_id
