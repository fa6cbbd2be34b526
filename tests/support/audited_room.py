"""An installation with live runners and open doors, as an audit of isolation finds it.

Real parts: the runner image, the engine, the database; no Synapse and no orchestrator, in whose
place the test process listens.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.audit.isolation import IsolationPlan, audit_isolation, room_dirs
from orchestrator.config import Config, Secrets, parse_config
from orchestrator.core.id_plan import plain_ids
from orchestrator.core.isolation import Result
from orchestrator.core.isolation_report import IsolationReport
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.egress.listener import open_listener
from orchestrator.model import RoomId
from orchestrator.room_spec import build_room_spec
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.workdir import prepare_room_dirs
from orchestrator.store.store import open_store
from tests.support.runner_engine import open_clean_backend


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRooms:
    """Rooms whose runners live; `audit` judges them."""

    backend: DockerBackend
    config: Config
    state_dir: Path
    specs: tuple[SandboxSpec, ...]

    async def audit(self, secrets: Secrets | None = None) -> IsolationReport:
        """What `orchestrator audit isolation` would say."""
        plan = IsolationPlan(
            config=self.config, secrets=secrets or Secrets(), state_dir=self.state_dir
        )
        return await audit_isolation(plan)

    async def start_runner(self, spec: SandboxSpec) -> None:
        """Make the room's runner, as the orchestrator would."""
        await self.backend.ensure(spec)
        await self.backend.start(spec.name)


def failed(report: IsolationReport, slug: str | None = None) -> set[str]:
    """The ids of the controls that failed, of one room or of all and the installation."""
    judged = [] if slug else [*report.installation]
    for room in report.rooms:
        judged += room.judged if slug in (None, room.slug) else ()
    return {each.id for each in judged if each.verdict.result is Result.FAIL}


@asynccontextmanager
async def open_audited_rooms(
    directory: Path, image: str, *, count: int = 1, start: bool = True, pinned: bool = False
) -> AsyncIterator[AuditedRooms]:
    """Rooms with small limits, each with an open door and, if `start`, a live runner.

    `pinned`: the image is the configuration's, as an operator's own would be.
    """
    config = parse_config(
        {
            "matrix": {"homeserver": "http://localhost", "user_id": "@claude:example.org"},
            "docker": {"image": image} if pinned else {},
            "defaults": {"limits": {"memory": "512m", "cpus": 1.0, "pids": 128, "tmp": "64m"}},
        },
        source="test",
    )
    state_dir = directory / "state"
    state_dir.mkdir(mode=0o700)
    async with open_store(state_dir) as store:
        installation = await store.rooms.installation()
        rooms = [
            await store.rooms.ensure(RoomId(f"!room{number}:example.org"), joined=True)
            for number in range(count)
        ]
    specs = tuple(
        build_room_spec(
            room,
            config=config,
            installation=installation,
            image=image,
            ids=plain_ids(installation).ids(room.index),
            dirs=room_dirs(state_dir / "rooms" / room.slug),
            generation=1,
        )
        for room in rooms
    )
    with ExitStack() as stack:
        stack.enter_context(_listening(state_dir / "control.sock"))
        for spec in specs:
            dirs = prepare_room_dirs(spec.workspace.parent, spec.uid, spec.gid)
            stack.callback(open_listener(dirs.egress, gid=spec.gid).close)
        async with open_clean_backend(installation) as backend:
            rooms_ = AuditedRooms(backend=backend, config=config, state_dir=state_dir, specs=specs)
            for spec in specs if start else ():
                await rooms_.start_runner(spec)
            yield rooms_


def _listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen()
    return sock
