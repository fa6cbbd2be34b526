"""A room on an engine of the test's choice, housed as `orchestrator up` does it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from orchestrator.config import Config, parse_config
from orchestrator.core.naming import room_slug
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.disks import RoomDisks
from orchestrator.egress.gateway import ApiKey, EgressGateway, open_egress
from orchestrator.engine_ready import prepare_engine
from orchestrator.housing import HostHousing
from orchestrator.model import InstallationId, RoomId
from orchestrator.room_secret import RoomSecrets
from orchestrator.rooms.kit import Quarters
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.image import Base
from orchestrator.runners.link import RunnerLink
from orchestrator.store.api import RoomRow
from tests.support.egress import REAL_KEY, Upstream, open_upstream
from tests.support.hostile_room import COMMAND_S, linked
from tests.support.runner_engine import open_clean_backend

# Asks the gateway through the shim's forwarder, and prints the status.
_REQUEST = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:8317/v1/messages",
    data=json.dumps({"model": "m", "max_tokens": 1, "messages": []}).encode(),
    headers={"x-api-key": sys.argv[1], "content-type": "application/json"},
)
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as e:
    print(e.code)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LodgedRoom:
    """A room whose runner is up and greeted."""

    quarters: Quarters
    backend: DockerBackend
    link: RunnerLink
    gateway: EgressGateway
    upstream: Upstream

    @property
    def spec(self) -> SandboxSpec:
        return self.quarters.spec

    async def run(self, *command: str, user: str = "") -> str:
        """Run a program in the runner; what it printed, both streams."""
        engine = self.backend.engine
        made = await engine.call(
            engine.api.exec_create, self.spec.name, ["timeout", str(COMMAND_S), *command], user=user
        )
        output = await engine.call_within(COMMAND_S + 10, engine.api.exec_start, made["Id"])
        return str(output.decode(errors="replace"))

    async def request(self) -> str:
        """The status of a request through the room's door, with the room's placeholder."""
        key = self.quarters.placeholder
        return (await self.run("python3", "-c", _REQUEST, key)).strip()

    async def facts(self) -> dict[str, Any]:
        """What the engine says of the runner."""
        engine = self.backend.engine
        found: dict[str, Any] = await engine.call(engine.api.inspect_container, self.spec.name)
        return found


def build_config(image: str, **docker: str) -> Config:
    """The smallest configuration for this image."""
    return parse_config(
        {
            "matrix": {"homeserver": "http://127.0.0.1:1", "user_id": "@a:example.org"},
            "docker": {"image": image, **docker},
        },
        source="test",
    )


@asynccontextmanager
async def open_lodged_room(
    root: Path,
    image: str,
    *,
    installation: InstallationId,
    docker_host: str | None = None,
    index: int = 0,
    **docker: str,
) -> AsyncIterator[LodgedRoom]:
    """The room with this index; its files stay below `root`, its runner is removed.

    Raises:
        PreconditionError: the engine, or the runtime, is refused.
    """
    config = build_config(image, **docker)
    async with (
        open_clean_backend(installation, docker_host) as backend,
        open_upstream() as upstream,
        open_egress(upstream=upstream.url, credential=ApiKey(SecretStr(REAL_KEY))) as gateway,
    ):
        root.mkdir(exist_ok=True, mode=0o700)
        said: list[str] = []
        lodging = await prepare_engine(
            backend.engine,
            config,
            installation,
            state_dir=root,
            base=Base.AUTO,
            say=said.append,
        )
        assert said[-1].startswith("Isolation: "), json.dumps(said)
        housing = HostHousing(
            config=config,
            state_dir=root,
            installation=installation,
            image_id=lodging.image_id,
            ids=lodging.ids,
            egress=gateway,
            room_secrets=RoomSecrets(),
            disks=RoomDisks(root=root / "rooms", kind="measured"),
        )
        quarters = await housing.prepare(_row(index), generation=1)
        await backend.ensure(quarters.spec)
        await backend.start(quarters.spec.name)
        async with backend.attach(quarters.spec.name) as stream, linked(stream) as link:
            yield LodgedRoom(
                quarters=quarters, backend=backend, link=link, gateway=gateway, upstream=upstream
            )


def _row(index: int) -> RoomRow:
    room = RoomId(f"!room{index}:example.org")
    return RoomRow(
        room_id=room,
        slug=room_slug(room),
        index=index,
        joined=True,
        encrypted=False,
        name=None,
        alias=None,
        joined_members=None,
    )
