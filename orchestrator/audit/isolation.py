"""`orchestrator audit isolation`: every live runner against the policy, from outside and inside.

Rule: it changes nothing, beside a running orchestrator or without one; what it needs to start in a
runner (one short program as the room's user) is all that it does there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loguru import logger

from orchestrator.audit.file_evidence import digest, find_listener, look, look_into
from orchestrator.audit.process_evidence import host_namespaces
from orchestrator.audit.runner_evidence import Gatherer, read_folders
from orchestrator.config import Config, Secrets
from orchestrator.core.id_plan import IdPlan, plain_ids
from orchestrator.core.isolation import judge
from orchestrator.core.isolation_controls import CONTROLS, judge_folders
from orchestrator.core.isolation_evidence import Expected, Host
from orchestrator.core.isolation_files import SETTINGS
from orchestrator.core.isolation_installation import (
    Container,
    Daemon,
    InstallationEvidence,
    KnownRoom,
    judge_installation,
)
from orchestrator.core.isolation_report import IsolationReport, RoomReport
from orchestrator.core.naming import runner_name
from orchestrator.core.sandbox import (
    LABEL_INSTALLATION,
    LABEL_ROOM,
    SandboxOptions,
    SandboxSpec,
    build_labels,
    build_options,
)
from orchestrator.errors import (
    EngineRequestError,
    ImageMissingError,
    LoginRefusedError,
    PreconditionError,
    RunnerGoneError,
    StoreError,
)
from orchestrator.matrix.session import load_session
from orchestrator.model import InstallationId, RunnerState
from orchestrator.ports import RunnerInfo
from orchestrator.room_secret import readable_secrets
from orchestrator.room_spec import build_room_spec
from orchestrator.runners.disk_image import IMAGE, MOUNT
from orchestrator.runners.docker_backend import DockerBackend, open_docker_backend
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.engine_check import examine_engine, host_has_swap
from orchestrator.runners.image import find_image, image_dir
from orchestrator.runners.inspection import (
    DaemonFacts,
    OtherContainer,
    list_containers,
    read_daemon,
)
from orchestrator.runners.workdir import RoomDirs
from orchestrator.store.api import RoomRow
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.snapshot import read_rooms

_CONTROL_SOCKET: Final = "control.sock"
# Each starts one short program in a room, and waits for it most of the time.
_AT_ONCE: Final = 4
_LIVE: Final = {RunnerState.RUNNING, RunnerState.PAUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationPlan:
    """What the command was asked for. `asks_inside`: whether a program is started in each room."""

    config: Config
    secrets: Secrets
    state_dir: Path
    asks_inside: bool = True


async def audit_isolation(plan: IsolationPlan) -> IsolationReport:
    """Look at everything that runs, and at the directories of what does not.

    Raises:
        PreconditionError: we are not root, or there is no engine.
        StoreError: and its children: the database can't be read.
        EngineRequestError: the engine does not answer as it should.
    """
    _require_root()
    state_dir = plan.state_dir.resolve()
    known = await asyncio.to_thread(read_rooms, state_dir / DATABASE_NAME)
    if known.installation is None:
        msg = f"the installation in {state_dir} was never started"
        raise StoreError(msg)
    async with open_docker_backend(known.installation) as backend:
        daemon = await read_daemon(backend.engine)
        # A spare is held to what a room without a profile of its own is held to.
        rooms = known.rooms + tuple(spare.as_room for spare in known.spares)
        audit = _Audit(plan, state_dir, known.installation, rooms, backend, daemon)
        return await audit.run()


class _Audit:
    """One run. Invariant: `_rooms` has each room by its slug."""

    def __init__(
        self,
        plan: IsolationPlan,
        state_dir: Path,
        installation: InstallationId,
        rooms: tuple[RoomRow, ...],
        backend: DockerBackend,
        daemon: DaemonFacts,
    ) -> None:
        self._daemon = daemon
        self._config = plan.config
        self._state_dir = state_dir
        self._installation = installation
        self._rooms = {room.slug: room for room in rooms}
        self._backend = backend
        self._host = _read_host(state_dir, daemon)
        self._gatherer = Gatherer(
            backend.engine,
            self._host,
            _secret_values(plan, state_dir),
            state_dir,
            asks_inside=plan.asks_inside,
        )
        self._image = ""
        self._ids = plain_ids(installation)

    async def run(self) -> IsolationReport:
        """All of it, a few runners at once: an audit is not in a hurry, rooms are."""
        self._image = await self._find_image()
        self._ids = await self._find_ids()
        live = [runner for runner in await self._backend.list() if runner.state in _LIVE]
        marks = await self._read_marks(live)
        # One that bears our label and is no room's is named by the installation's control.
        ours = [runner for runner in live if runner.slug in self._rooms]
        reports = await self._judge_all(ours, marks)
        idle = await asyncio.to_thread(self._judge_idle, {runner.slug for runner in live})
        return IsolationReport(
            rooms=(*(report for report in reports if report is not None), *idle),
            installation=judge_installation(
                await self._read_installation({runner.container_id for runner in live})
            ),
            gone=tuple(
                runner.name for runner, report in zip(ours, reports, strict=True) if report is None
            ),
        )

    async def _find_image(self) -> str:
        try:
            return await find_image(self._backend.engine, self._config.docker.image)
        except ImageMissingError:
            # Then every runner that is there is made from another one.
            return "(the configured image is not there)"

    async def _find_ids(self) -> IdPlan:
        """The rooms' numbers on this engine; it is tried out where it may shift them."""
        try:
            engine = await examine_engine(self._backend.engine, runtime=self._config.docker.runtime)
            return await engine.find_ids(
                installation=self._installation, image=self._image, state_dir=self._state_dir
            )
        except (PreconditionError, EngineRequestError) as e:
            # Such an engine is refused at a start; what runs there all the same is looked at.
            logger.bind(action="audit.engine", why=str(e)).warning("no start would use this engine")
            return self._ids

    async def _read_marks(self, live: list[RunnerInfo]) -> Mapping[str, frozenset[str]]:
        """What no other runner may have: namespaces, and what is mounted, by container."""
        containers = await list_containers(self._backend.engine)
        sources = {each.container_id: frozenset(each.sources) for each in containers}
        marks: dict[str, frozenset[str]] = {}
        for runner in live:
            try:
                names = await self._gatherer.namespaces(runner.container_id)
            except RunnerGoneError:
                continue
            marks[runner.container_id] = names | sources.get(runner.container_id, frozenset())
        return marks

    async def _judge_all(
        self, runners: Sequence[RunnerInfo], marks: Mapping[str, frozenset[str]]
    ) -> list[RoomReport | None]:
        """A report for each; None for one that ended meanwhile."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def judge_one(runner: RunnerInfo) -> RoomReport | None:
            others = frozenset[str]().union(
                *(names for name, names in marks.items() if name != runner.container_id)
            )
            try:
                async with places:
                    return await self._judge(self._rooms[runner.slug], runner, others)
            except RunnerGoneError:
                return None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(judge_one(runner)) for runner in runners]
        return [task.result() for task in tasks]

    async def _judge(self, room: RoomRow, runner: RunnerInfo, others: frozenset[str]) -> RoomReport:
        spec = self._spec(room, runner.generation)
        settings = await asyncio.to_thread(self._settings_digest, build_options(spec))
        expected = expect(spec, settings_digest=settings, others=others)
        evidence = await self._gatherer.gather(runner.container_id, expected)
        return RoomReport(
            room_id=room.room_id,
            slug=room.slug,
            runner=runner.name,
            judged=judge(CONTROLS, expected, evidence),
        )

    def _judge_idle(self, live: set[str]) -> list[RoomReport]:
        """Rooms without a runner: their directories, where they were made.

        Those of a disk that is not mounted are nowhere, and are left out, as are those that the
        room's next start makes.
        """
        reports = []
        for slug, room in self._rooms.items():
            # The last one that a room gets: before, it had no runner.
            door = look(self._state_dir / "rooms" / slug / "egress")
            if slug in live or not slug or door.kind == "missing":
                continue
            ids = self._ids.ids(room.index)
            # No runner's id map is there to translate by: the host's numbers are asked for.
            spec = replace(self._spec(room, 0), uid=ids.host_uid, gid=ids.host_gid)
            expected = _as_far_as_there(expect(spec))
            folders = read_folders(expected.options, self._state_dir)
            judged = judge_folders(expected, folders, self._host)
            reports.append(RoomReport(room_id=room.room_id, slug=slug, runner=None, judged=judged))
        return reports

    def _spec(self, room: RoomRow, generation: int) -> SandboxSpec:
        return build_room_spec(
            room,
            config=self._config,
            installation=self._installation,
            image=self._image,
            ids=self._ids.ids(room.index),
            dirs=room_dirs(self._state_dir / "rooms" / room.slug),
            generation=generation,
        )

    def _settings_digest(self, options: SandboxOptions) -> str | None:
        """Of the settings that the CLI must read: a mount's, or those of the image we build."""
        for bind in options.binds:
            if Path(SETTINGS).is_relative_to(bind.target):
                return digest(bind.source / Path(SETTINGS).relative_to(bind.target))
        if self._config.docker.image is not None:
            return None
        text = (image_dir() / "managed-settings.json").read_bytes()
        return hashlib.sha256(text).hexdigest()

    async def _read_installation(self, live: set[str]) -> InstallationEvidence:
        engine, facts = self._backend.engine, self._daemon
        containers = await list_containers(engine)
        return InstallationEvidence(
            state_dir=look(self._state_dir),
            entries=look_into(self._state_dir),
            rooms={
                room.slug: KnownRoom(
                    runner=runner_name(self._installation, room.slug), is_joined=room.joined
                )
                for room in self._rooms.values()
            },
            containers=tuple(self._container(each, live) for each in containers),
            daemon=Daemon(
                version=facts.version,
                runc=facts.runc.commit,
                security=tuple(facts.security),
                has_live_restore=facts.live_restore,
                swarm=facts.swarm.state,
                is_on_tcp=engine.address.socket is None,
            ),
        )

    def _container(self, each: OtherContainer, live: set[str]) -> Container:
        is_ours = each.labels.get(LABEL_INSTALLATION) == self._installation
        return Container(
            name=each.name,
            slug=each.labels.get(LABEL_ROOM, "") if is_ours else None,
            is_live=each.container_id in live,
            sources=each.sources,
        )


def room_dirs(folder: Path) -> RoomDirs:
    """Where `prepare_room_dirs` puts them: on the room's disk where it has one. Makes nothing."""
    place = folder / MOUNT if (folder / IMAGE).exists() else folder
    return RoomDirs(workspace=place / "workspace", home=place / "home", egress=folder / "egress")


def expect(
    spec: SandboxSpec, *, settings_digest: str | None = None, others: frozenset[str] = frozenset()
) -> Expected:
    """What must be, from what the engine would be told."""
    options = build_options(spec)
    body = container_config(options, build_labels(spec))
    host = body["HostConfig"]
    declared = host["Ulimits"] if isinstance(host, dict) else None
    items = declared if isinstance(declared, list) else []
    return Expected(
        spec=spec,
        options=options,
        ulimits={str(i["Name"]): int(str(i["Hard"])) for i in items if isinstance(i, dict)},
        settings_digest=settings_digest,
        others=others,
    )


def _as_far_as_there(expected: Expected) -> Expected:
    there = (bind for bind in expected.options.binds if look(bind.source).kind != "missing")
    return replace(expected, options=replace(expected.options, binds=tuple(there)))


def _read_host(state_dir: Path, daemon: DaemonFacts) -> Host:
    return Host(
        namespaces=host_namespaces(),
        has_apparmor="name=apparmor" in daemon.security,
        has_swap=host_has_swap(),
        orchestrator=find_listener(state_dir / _CONTROL_SOCKET),
    )


def _secret_values(plan: IsolationPlan, state_dir: Path) -> dict[str, str]:
    """By name: the environment's secrets, the agent's token, and what rooms have in name only."""
    held = {
        name.upper(): secret.get_secret_value()
        for name in Secrets.model_fields
        if (secret := getattr(plan.secrets, name)) is not None
    }
    try:
        session = load_session(state_dir)
    except (LoginRefusedError, StoreError):
        session = None
    if session is not None and session.access_token is not None:
        held["the agent's token"] = session.access_token.get_secret_value()
    # The auditor need not have them; those that are there are looked for.
    held |= readable_secrets(plan.config)
    return held


def _require_root() -> None:
    if os.geteuid() != 0:
        msg = "only root sees every process of a runner. Type: sudo orchestrator audit isolation"
        raise PreconditionError(msg)
