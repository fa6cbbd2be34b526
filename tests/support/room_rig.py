"""The rooms on a real store, in virtual time: a life of the orchestrator that can end anywhere.

What outlives a life: the database file, the runners, the CLI's conversations. A crash drops all
else at a chosen await: before or after a transaction, before or after a write to a runner.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from orchestrator.config import Config, parse_config
from orchestrator.core.allowance import Allowance
from orchestrator.core.attachment import Attachment
from orchestrator.core.disk import DiskUsage
from orchestrator.core.egress_rules import HostRule, Target, is_covered
from orchestrator.core.evidence import SeenEvent
from orchestrator.core.memory_pressure import MemorySight
from orchestrator.core.naming import room_slug, room_uid, runner_name
from orchestrator.core.sandbox import SandboxSpec, spec_hash
from orchestrator.errors import (
    RequestRefusedError,
    UndecryptableError,
)
from orchestrator.gateway.courtesy import Courtesies
from orchestrator.gateway.inbound import InboundGate
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.model import (
    EventId,
    InstallationId,
    JsonObject,
    JsonValue,
    RoomId,
    RoomSlug,
    TxnId,
    UserId,
)
from orchestrator.ports import RunnerBackend, RunnerInfo
from orchestrator.rooms.decider import build_deciders
from orchestrator.rooms.hearing import Heard
from orchestrator.rooms.intake import Intake
from orchestrator.rooms.kit import Kit, Quarters
from orchestrator.rooms.manager import RoomManager
from orchestrator.rooms.places import RunnerPlaces
from orchestrator.rooms.pressure_watch import PressureWatch
from orchestrator.rooms.starts import RunnerStarts
from orchestrator.runners.memory_backend import MemoryBackend, MemoryEngine, open_memory_backend
from orchestrator.store.absence_table import AbsenceTable
from orchestrator.store.allowance_table import AllowanceTable
from orchestrator.store.api import (
    InboxKind,
    NewInboxRow,
    OutboxRow,
    RoomRow,
    SpareRow,
    TurnRow,
)
from orchestrator.store.approval_table import ApprovalTable
from orchestrator.store.copy_files import CopyFiles
from orchestrator.store.copy_table import CopyTable
from orchestrator.store.database import Database
from orchestrator.store.errand_table import ErrandTable
from orchestrator.store.file_table import FileTable
from orchestrator.store.grant_table import GrantTable
from orchestrator.store.inbox_table import InboxTable
from orchestrator.store.meta_table import MetaTable
from orchestrator.store.outbox_table import OutboxTable
from orchestrator.store.people_table import PeopleTable
from orchestrator.store.room_table import RoomTable
from orchestrator.store.schedule_table import ScheduleTable
from orchestrator.store.session_table import SessionTable
from orchestrator.store.setting_table import SettingTable
from orchestrator.store.spare_table import SpareTable
from orchestrator.store.steer_table import SteerTable
from orchestrator.store.store import Store, open_store
from orchestrator.store.turn_table import TurnTable
from tests.support.crash_points import CrashingBackend, CrashingDatabase, CrashPoints
from tests.support.memory_claude import MemoryClaude
from tests.support.memory_shim import MemoryShim, shim_program
from tests.support.outbox import MemoryHomeserver
from tests.support.virtual_time import VirtualTimeLoop, loop_clock

T = TypeVar("T")
INSTALLATION = InstallationId("00112233aabbccdd")
IMAGE = "sha256:test"
ME = "@agent:test"
ALICE = "@alice:test"
ROOM = RoomId("!room:test")


class StoreLoop(VirtualTimeLoop):
    """Virtual time with a store: what would run in a thread runs at once, and is told later."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run it now; whoever awaits it is resumed in the next turn of the loop."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except BaseException as e:  # noqa: BLE001 - passed on, as a thread would
            self.call_soon(_settle, future, None, e)
        else:
            self.call_soon(_settle, future, result, None)
        return future


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def run_rooms(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=StoreLoop) as runner:
        return runner.run(main)


@dataclass(slots=True)
class MemoryHousing:
    """Rooms on no disk."""

    memory: int = 1 << 30
    prepared: int = 0
    errors: list[BaseException] = field(default_factory=list)
    usage: DiskUsage | OSError | None = None
    resting_usage: DiskUsage | None = None
    is_home_full: bool = False
    vacant: list[bool] = field(default_factory=list)
    vacated: list[RoomSlug] = field(default_factory=list)
    cleared: list[RoomSlug] = field(default_factory=list)
    space: bool = True
    of_room: dict[RoomId, int] = field(default_factory=dict)
    """The memory of rooms that have a profile of their own."""

    async def prepare_spare(self, spare: SpareRow, *, is_vacant: bool = False) -> SandboxSpec:
        """As the protocol says."""
        if self.errors:
            raise self.errors.pop(0)
        return room_spec(spare.slug, spare.index, spare.generation, self.memory)

    async def has_space(self) -> bool:
        """As the protocol says."""
        return self.space

    async def clear(self, slug: RoomSlug) -> None:
        """As the protocol says."""
        self.cleared.append(slug)

    async def disk_usage(self, room: RoomRow) -> DiskUsage | None:
        """As the protocol says."""
        if isinstance(self.usage, OSError):
            raise self.usage
        return self.usage

    async def known_disks(self, rooms: Sequence[RoomRow]) -> Mapping[RoomSlug, DiskUsage]:
        """As the protocol says."""
        known = self.resting_usage
        return {} if known is None else {room.slug: known for room in rooms}

    async def is_full(self, home: Path) -> bool:
        """As the protocol says."""
        return self.is_home_full

    async def vacate(self, slug: RoomSlug) -> None:
        """As the protocol says."""
        self.vacated.append(slug)

    async def prepare(self, room: RoomRow, *, generation: int, is_vacant: bool = False) -> Quarters:
        """As the protocol says."""
        self.prepared += 1
        self.vacant.append(is_vacant)
        if self.errors:
            raise self.errors.pop(0)
        memory = self.of_room.get(room.room_id, self.memory)
        spec = room_spec(room.slug, room.index, generation, memory)
        return Quarters(spec=spec, spec_hash=spec_hash(spec), placeholder="placeholder")


def room_spec(slug: RoomSlug, index: int, generation: int, memory: int = 1 << 30) -> SandboxSpec:
    """The specification of a room's runner."""
    uid = room_uid(INSTALLATION, index)
    limits = replace(config().defaults.limits.limits(), memory_bytes=memory)
    return SandboxSpec(
        name=runner_name(INSTALLATION, slug),
        installation=INSTALLATION,
        slug=slug,
        generation=generation,
        image=IMAGE,
        uid=uid,
        gid=uid,
        workspace=Path("/rooms") / slug / "workspace",
        home=Path("/rooms") / slug / "home",
        egress_dir=Path("/rooms") / slug / "egress",
        limits=limits,
    )


def config(**sections: Any) -> Config:
    """A small configuration, with what the test says of it; answers come in parts, uncopied."""
    usual: dict[str, Any] = {
        "matrix": {"homeserver": "http://test", "user_id": ME},
        "access": {"users": [ALICE, "@bob:test"]},
    }
    usual_profile: dict[str, Any] = {"stream": "messages", "snapshots": {"keep": 0}}
    defaults = {**usual_profile, **sections.pop("defaults", {})}
    return parse_config({**usual, "defaults": defaults, **sections}, source="test")


@dataclass(slots=True)
class MemoryCourtesyServer:
    """A homeserver as intake and courtesies need it."""

    typing: dict[RoomId, bool] = field(default_factory=dict)
    read: list[tuple[RoomId, EventId]] = field(default_factory=list)
    joined: list[RoomId] = field(default_factory=list)
    aliases: dict[str, RoomId] = field(default_factory=dict)
    left: list[RoomId] = field(default_factory=list)
    invited: list[tuple[RoomId, UserId]] = field(default_factory=list)
    states: dict[tuple[RoomId, str], JsonObject] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def send_event(
        self, room_id: RoomId, event_type: str, content: Mapping[str, JsonValue], txn_id: TxnId
    ) -> EventId:
        """Rooms send by the outbox only."""
        raise AssertionError

    async def upload_file(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """Rooms send by the outbox only."""
        raise AssertionError

    async def set_typing(self, room_id: RoomId, *, typing: bool) -> None:
        """As the port says."""
        await self._delay()
        self.typing[room_id] = typing

    async def mark_read(self, room_id: RoomId, event_id: EventId) -> None:
        """As the port says."""
        await self._delay()
        self.read.append((room_id, event_id))

    async def join(self, room_id: RoomId) -> None:
        """As the port says."""
        if self.errors:
            raise self.errors.pop(0)
        self.joined.append(room_id)

    async def state_event(self, room_id: RoomId, event_type: str) -> JsonObject | None:
        """As the port says."""
        if self.errors:
            raise self.errors.pop(0)
        return self.states.get((room_id, event_type))

    async def resolve_alias(self, alias: str) -> RoomId | None:
        """As the port says."""
        return self.aliases.get(alias, ROOM)

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """As the port says."""
        if self.errors:
            raise self.errors.pop(0)
        self.invited.append((room_id, user_id))

    async def leave(self, room_id: RoomId) -> None:
        """As the port says."""
        if self.errors:
            raise self.errors.pop(0)
        self.left.append(room_id)

    async def _delay(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delays_s.pop(0) if self.delays_s else 0.01)
        finally:
            self.in_flight -= 1


@dataclass(slots=True)
class MemoryDoors:
    """The gateway, as far as grants go: what each room may reach, and who hears of refusals."""

    granted: dict[RoomSlug, tuple[HostRule, ...]] = field(default_factory=dict)
    listener: Callable[[RoomSlug, Target], None] | None = None
    allowances: dict[RoomSlug, Allowance] = field(default_factory=dict)
    payers: dict[RoomSlug, tuple[UserId, ...]] = field(default_factory=dict)
    spent: dict[RoomSlug, int] = field(default_factory=dict)
    spent_for: dict[UserId, int] = field(default_factory=dict)

    def set_allowance(self, slug: RoomSlug, allowance: Allowance) -> None:
        """As the gateway does."""
        self.allowances[slug] = allowance

    def set_payers(self, slug: RoomSlug, people: Sequence[UserId]) -> None:
        """As the gateway does."""
        self.payers[slug] = tuple(people)

    def set_grants(self, slug: RoomSlug, rules: Sequence[HostRule]) -> None:
        """As the gateway does."""
        self.granted[slug] = tuple(rules)

    def listen_for_denied_hosts(self, listener: Callable[[RoomSlug, Target], None]) -> None:
        """As the gateway does."""
        self.listener = listener

    def restart(self) -> None:
        """As with the process that it lives in: nothing is granted, and nobody listens."""
        self.granted.clear()
        self.listener = None

    def connect(self, target: Target, room: RoomId = ROOM, slug: RoomSlug | None = None) -> bool:
        """What a door does with a connection: let it through, or tell that it was refused."""
        slug = slug or room_slug(room)
        if is_covered(target, self.granted.get(slug, ())):
            return True
        if self.listener is not None:
            self.listener(slug, target)
        return False


@dataclass(slots=True)
class MemoryEncryption:
    """Opens events whose `key` it has."""

    keys: set[str] = field(default_factory=set)
    states: list[str] = field(default_factory=list)

    async def handle_to_device(self, raw: str) -> Sequence[RoomId]:
        """A to-device event names its key and the room."""
        event = json.loads(raw)
        self.keys.add(event["key"])
        return [RoomId(event["room_id"])]

    async def handle_device_lists(self, raw: str) -> None:
        """Nothing to do."""

    async def handle_state(self, room_id: RoomId, raw: str) -> None:
        """Remembered."""
        self.states.append(raw)

    async def decrypt(self, raw: str, room_id: RoomId) -> str:
        """The event in `clear`."""
        event = json.loads(raw)
        if event["content"]["key"] not in self.keys:
            raise UndecryptableError
        return json.dumps({**event["content"]["clear"], "event_id": event["event_id"]})


@dataclass(slots=True)
class Rig:
    """What outlives lives of the orchestrator."""

    folder: Path
    store: Store
    backend: MemoryBackend
    claude: MemoryClaude
    shims: list[MemoryShim]
    homeserver: MemoryCourtesyServer
    encryption: MemoryEncryption
    housing: MemoryHousing
    config: Config
    doors: MemoryDoors = field(default_factory=MemoryDoors)
    events: int = 0
    received: list[SeenEvent] = field(default_factory=list)
    """Every event of a timeline, as an audit finds it on the homeserver."""
    may_show: Callable[[RoomId], bool] = lambda _: True
    """Whether the account can spare a message, where no `account` says it."""
    marks: list[tuple[EventId, str]] = field(default_factory=list)
    """Signs that were sent, by the message that they are on, where there is no `account`."""
    edits: list[JsonObject] = field(default_factory=list)
    """Forms of live messages that were sent, where there is no `account`."""
    media: dict[str, bytes | BaseException] = field(default_factory=dict)
    """What the homeserver has, by its id; or how it fails."""
    known_events: dict[str, JsonObject | BaseException] = field(default_factory=dict)
    """What the homeserver has been sent, by its id; or how it fails."""
    memory: MemorySight = field(default_factory=MemorySight)
    """What the host's kernel says of its memory."""
    account: MemoryHomeserver | None = None
    """Where a life sends its outbox; None: it stays where it is."""

    @asynccontextmanager
    async def life(
        self, *, crash_at: int = 0, mark: tuple[int, asyncio.Event] | None = None
    ) -> AsyncIterator[Life]:
        """Run the rooms until the body ends; then all of it is cancelled."""
        marks = dict([mark]) if mark else {}
        life = build_life(self, CrashPoints(crash_at=crash_at, marks=marks))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(life.run(), name="life")
            try:
                yield life
            finally:
                life.points.crashed.set()
                running.cancel()

    async def receive(
        self,
        text: str,
        *,
        sender: str = ALICE,
        room: RoomId = ROOM,
        event_id: str | None = None,
        thread: str | None = None,
    ) -> EventId:
        """A message arrives in the inbox."""
        content: JsonObject = {"msgtype": "m.text", "body": text}
        if thread is not None:
            content["m.relates_to"] = {
                "rel_type": "m.thread",
                "event_id": thread,
                "is_falling_back": True,
                "m.in_reply_to": {"event_id": thread},
            }
        return await self.receive_event("m.room.message", content, sender, room, event_id)

    async def receive_event(
        self,
        event_type: str,
        content: JsonObject,
        sender: str = ALICE,
        room: RoomId = ROOM,
        event_id: str | None = None,
        **more: Any,
    ) -> EventId:
        """Any event of a timeline."""
        self.events += 1
        known = EventId(event_id or f"$e{self.events}")
        event = {"type": event_type, "sender": sender, "event_id": known, "content": content}
        self.received.append(
            SeenEvent(
                room_id=room,
                event_id=known,
                sender=UserId(sender),
                event_type=event_type,
                is_own=sender == ME,
                is_new=False,
            )
        )
        await self.receive_row(InboxKind.TIMELINE, {**event, **more}, room, known)
        return known

    async def receive_row(
        self, kind: InboxKind, raw: Any, room: RoomId | None = ROOM, event_id: EventId | None = None
    ) -> None:
        """Any row of the inbox; a string is stored as it is."""
        text = raw if isinstance(raw, str) else json.dumps(raw)
        row = NewInboxRow(kind=kind, room_id=room, event_id=event_id, raw=text)
        self.events += 1
        await self.store.inbox.commit_sync([row], f"s{self.events}", now=loop_clock())

    async def download(self, attachment: Attachment) -> bytes:
        """As `ports.Homeserver` says."""
        found = self.media[attachment.media_id]
        if isinstance(found, BaseException):
            raise found
        return found

    async def find_event(self, _room: RoomId, event_id: EventId) -> JsonObject | None:
        """As `MatrixClient.find_event` says."""
        found = self.known_events.get(event_id)
        if isinstance(found, BaseException):
            raise found
        return found

    async def said(self, room: RoomId = ROOM) -> list[JsonObject]:
        """The contents of all that waits for the room, in order."""

        def work(db: Any) -> list[JsonObject]:
            rows = db.execute("SELECT content FROM outbox WHERE room_id = ? ORDER BY seq", (room,))
            return [json.loads(row[0]) for row in rows.fetchall()]

        return await self.store.database.run(work)

    async def read(self, room: RoomId = ROOM) -> str:
        """All that the room can read, in order, files in place of their previews; in one line.

        Where long text is cut into messages and files depends on what waited together.
        """

        def work(db: Any) -> list[tuple[str, bytes | None]]:
            query = "SELECT content, file FROM outbox WHERE room_id = ? ORDER BY seq"
            return list(db.execute(query, (room,)).fetchall())

        found: list[str] = []
        for raw, file in await self.store.database.run(work):
            body = json.loads(raw).get("body")
            if file is not None:
                found[-1] = file.decode()
            elif body is not None:
                found.append(body)
        return " ".join(" ".join(found).split())

    async def bodies(self, room: RoomId = ROOM) -> list[str]:
        """What the room reads, in order."""
        return [str(content["body"]) for content in await self.said(room) if "body" in content]

    async def outcomes(self, room: RoomId = ROOM) -> list[str]:
        """The outcome marks that the room was given, in order."""
        marks = [c.get("org.aiagentchat.turn") for c in await self.said(room)]
        return [str(m["outcome"]) for m in marks if isinstance(m, dict) and m["final"]]

    async def turns(self) -> list[TurnRow]:
        """All turns, ended ones too, in order."""

        def work(db: Any) -> list[str]:
            rows = db.execute("SELECT turn_id FROM turns ORDER BY position").fetchall()
            return [row[0] for row in rows]

        ids = await self.store.database.run(work)
        return [t for i in ids if (t := await self.store.turns.get(cast("Any", i))) is not None]

    async def inbox_states(self) -> list[tuple[str, str | None]]:
        """State and reason of every row that is left."""

        def work(db: Any) -> list[tuple[str, str | None]]:
            return list(db.execute("SELECT state, reason FROM inbox ORDER BY seq").fetchall())

        return await self.store.database.run(work)

    async def wait(
        self, check: Callable[[], Coroutine[Any, Any, bool]], *, timeout_s: float = 100
    ) -> None:
        """Until the check holds, in virtual time."""
        async with asyncio.timeout(timeout_s):
            while not await check():  # noqa: ASYNC110 - virtual time; the store has no event
                await asyncio.sleep(0.05)

    async def wait_body(self, word: str, *, timeout_s: float = 100, room: RoomId = ROOM) -> None:
        """Until the room reads the word."""

        async def check() -> bool:
            return any(word in body for body in await self.bodies(room))

        await self.wait(check, timeout_s=timeout_s)

    async def wait_ended(
        self, count: int, *, timeout_s: float = 100, life: Life | None = None
    ) -> None:
        """Until so many turns have ended, or this life has crashed."""

        async def check() -> bool:
            if life is not None and life.points.crashed.is_set():
                return True
            return sum(t.outcome is not None for t in await self.turns()) >= count

        await self.wait(check, timeout_s=timeout_s)

    async def info(self, room: RoomId = ROOM) -> RunnerInfo | None:
        """What the engine has for the room."""
        return await self.backend.inspect(runner_name(INSTALLATION, room_slug(room)))

    @property
    def shim(self) -> MemoryShim:
        """The newest life of a shim."""
        return self.shims[-1]


@dataclass(slots=True)
class Life:
    """One life of the orchestrator's rooms."""

    manager: RoomManager
    intake: Intake
    gate: InboundGate[Heard]
    courtesies: Courtesies
    backend: CrashingBackend
    database: CrashingDatabase
    points: CrashPoints
    sender: OutboxSender | None
    pressure: PressureWatch

    async def run(self) -> None:
        """All of its tasks, until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self.sender is not None:
                group.create_task(self.sender.run(), name="outbox")
            group.create_task(self.manager.run(), name="rooms")
            group.create_task(self.manager.asking.keeper.run(), name="egress grants")
            group.create_task(self.manager.asking.run(), name="egress questions")
            group.create_task(self.courtesies.run(), name="courtesies")
            group.create_task(self.gate.run(), name="gate")
            group.create_task(self.intake.run(), name="intake")
            group.create_task(self.pressure.run(), name="memory pressure")

    def notify(self) -> None:
        """There are new rows."""
        self.intake.notify()


def build_life(rig: Rig, points: CrashPoints) -> Life:
    """Wire the rooms as the daemon does."""
    rig.doors.restart()
    database = CrashingDatabase(rig.store.database, points)
    own = cast("Database", database)
    store = Store(
        database=own,
        rooms=RoomTable(own),
        spares=SpareTable(own),
        inbox=InboxTable(own),
        turns=TurnTable(own),
        sessions=SessionTable(own),
        steers=SteerTable(own),
        outbox=OutboxTable(own),
        meta=MetaTable(own),
        approvals=ApprovalTable(own),
        grants=GrantTable(own),
        absences=AbsenceTable(own),
        settings=SettingTable(own),
        schedules=ScheduleTable(own),
        files=FileTable(own),
        people=PeopleTable(own),
        allowances=AllowanceTable(own),
        copies=CopyTable(own),
        errands=ErrandTable(own),
    )
    backend = CrashingBackend(rig.backend, points)
    courtesies = Courtesies(rig.homeserver, clock=loop_clock)
    sender = None
    if rig.account is not None:

        async def on_refused(row: OutboxRow, error: RequestRefusedError) -> None:
            await manager.tell_refused(row, error)

        sender = OutboxSender(
            store.outbox, rig.account, on_refused=on_refused, clock=loop_clock, jitter=lambda: 1.0
        )

    async def may_show(room_id: RoomId) -> bool:
        return rig.may_show(room_id)

    async def send_aside(
        room_id: RoomId,
        event_type: str,
        content: JsonObject,
        txn_id: TxnId,
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        if not rig.may_show(room_id):
            return False
        relation = cast("Any", content["m.relates_to"])
        if "key" in relation:
            rig.marks.append((EventId(relation["event_id"]), relation["key"]))
        elif is_wanted():
            rig.edits.append(content)
        return True

    kit = Kit(
        places=RunnerPlaces(rig.config.docker.max_runners),
        starts=RunnerStarts(rig.config.docker.max_starts),
        config=rig.config,
        store=store,
        backend=cast("RunnerBackend", backend),
        housing=rig.housing,
        doors=rig.doors,
        courtesies=courtesies,
        copies=CopyFiles(rig.folder / "snapshots"),
        notify_outbox=lambda: None if sender is None else sender.notify(),
        may_show_progress=may_show if sender is None else sender.may_show_progress,
        deciders=build_deciders(rig.config, store),
        send_aside=send_aside if sender is None else sender.send_aside,
        wall_clock=loop_clock,
        version="test",
        spent_micro_usd=lambda slug: rig.doors.spent.get(slug, 0),
        person_micro_usd=lambda person: rig.doors.spent_for.get(person, 0),
        invite=rig.homeserver.invite,
        download=rig.download,
        find_event=rig.find_event,
    )
    manager = RoomManager(kit)
    gate: InboundGate[Heard] = InboundGate(
        manager.close_window, quiet_s=0.25, window_s=2.0, clock=loop_clock
    )
    intake = Intake(
        config=rig.config,
        me=cast("Any", ME),
        store=store,
        homeserver=rig.homeserver,
        encryption=rig.encryption,
        rooms=manager,
        gate=gate,
        courtesies=courtesies,
        clock=loop_clock,
        notify_outbox=lambda: None,
    )
    limits = rig.config.docker.memory_pressure
    pressure = PressureWatch(
        None if limits is None else limits.limits(),
        lambda: rig.memory,
        manager.workers,
        manager.spares,
    )
    return Life(manager, intake, gate, courtesies, backend, database, points, sender, pressure)


@asynccontextmanager
async def open_rig(folder: Path, **sections: Any) -> AsyncIterator[Rig]:
    """A store in `folder`, an engine in memory, and no orchestrator yet."""
    claude, shims = MemoryClaude(), list[MemoryShim]()
    engine = MemoryEngine(images={IMAGE: shim_program(claude, shims)})
    folder.mkdir(parents=True, exist_ok=True)
    async with open_store(folder) as store, open_memory_backend(INSTALLATION, engine) as backend:
        # A test's machine does not lose power; syncing would take most of its time.
        await store.database.run(lambda db: None)
        store.database._connection.execute("PRAGMA synchronous = OFF")
        claude.files = folder / "runner"
        yield Rig(
            folder=folder,
            store=store,
            backend=backend,
            claude=claude,
            shims=shims,
            homeserver=MemoryCourtesyServer(),
            encryption=MemoryEncryption(),
            housing=MemoryHousing(),
            config=config(**sections),
        )
