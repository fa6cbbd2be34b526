"""Two runners of the real image with open doors, and hostile code to run in them."""

from __future__ import annotations

import asyncio
import json
import stat
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from orchestrator.core.cli_policy import NOTHING_MORE, ProjectPolicy, render_policy
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.egress.gateway import ApiKey, EgressGateway, RoomDoor, open_egress
from orchestrator.model import Seq
from orchestrator.ports import ByteStream, RunnerInfo
from orchestrator.runners.docker_backend import DockerBackend
from orchestrator.runners.event import CliLine, SessionExited
from orchestrator.runners.link import RunnerLink, open_link
from orchestrator.runners.workdir import prepare_policy_dir
from tests.support.egress import REAL_KEY, Upstream, open_upstream
from tests.support.runner_engine import open_clean_backend, prepare, room_spec

COMMAND_S = 60
STARTED_S = 20
PLACEHOLDERS = ("sk-ant-api03-the-placeholder-of-the-first-room-AA", "sk-ant-api03-of-the-second")

# The code inside: `call([x86_64, aarch64], …)` makes a system call; 0, or the errno's name.
PRELUDE = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(numbers, *args):
    ctypes.set_errno(0)
    number = numbers[os.uname().machine != "x86_64"]
    result = libc.syscall(number, *[ctypes.c_long(a) for a in args])
    return 0 if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(work, *args):
    try:
        work(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
    return 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    spec: SandboxSpec
    backend: DockerBackend
    link: RunnerLink
    placeholder: str

    async def run(self, script: str) -> str:
        """Run a shell command as the room's user; what it printed, both streams."""
        api = self.backend.engine.api
        command = ["timeout", str(COMMAND_S), "bash", "-c", script]
        made = await self.backend.engine.call(api.exec_create, self.spec.name, command)
        output = await self.backend.engine.call_within(COMMAND_S + 10, api.exec_start, made["Id"])
        return str(output.decode(errors="replace"))

    async def attack(self, source: str) -> Any:
        """Run Python in the runner; its last line of output, as JSON."""
        path = self.spec.workspace / "attack.py"
        path.write_text(PRELUDE + textwrap.dedent(source))
        path.chmod(0o644)
        output = await self.run("python3 /workspace/attack.py")
        return json.loads(output.splitlines()[-1])

    async def info(self) -> RunnerInfo | None:
        """What the engine says of the runner."""
        return await self.backend.inspect(self.spec.name)

    async def request(self, body: bytes, *, key: str, path: str = "/v1/messages") -> str:
        """Ask the gateway with curl through the forwarder; the status."""
        (self.spec.workspace / "body").write_bytes(body)
        (self.spec.workspace / "body").chmod(0o644)
        return await self.run(
            f"curl -s -o /dev/null -w '%{{http_code}}' -H 'x-api-key: {key}' -H 'Expect:'"
            " -H 'content-type: application/json' --data-binary @/workspace/body"
            f" http://127.0.0.1:8317{path}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    first: Room
    second: Room
    upstream: Upstream
    gateway: EgressGateway


@asynccontextmanager
async def open_rooms(root: Path, image: str) -> AsyncIterator[Rooms]:
    """Two rooms of one installation, each with its door to an API that answers."""
    credential = ApiKey(SecretStr(REAL_KEY))
    async with (
        open_clean_backend() as backend,
        open_upstream() as upstream,
        open_egress(upstream=upstream.url, credential=credential) as gateway,
        open_runner(backend, gateway, root, image, 0) as first,
        open_runner(backend, gateway, root, image, 1) as second,
    ):
        yield Rooms(first=first, second=second, upstream=upstream, gateway=gateway)


@asynccontextmanager
async def open_runner(
    backend: DockerBackend,
    gateway: EgressGateway,
    root: Path,
    image: str,
    index: int,
    *,
    placeholder: str | None = None,
    project: ProjectPolicy = NOTHING_MORE,
    before: Callable[[SandboxSpec], None] = lambda _: None,
) -> AsyncIterator[Room]:
    """A runner that honours `project`; `before` may put something into its directories."""
    placeholder = placeholder or PLACEHOLDERS[index]
    spec = prepare(room_spec(root, backend.installation, image, index=index))
    policy = prepare_policy_dir(spec.workspace.parent, render_policy(project))
    spec = replace(spec, policy_dir=policy)
    before(spec)
    await gateway.open_door(
        RoomDoor(
            slug=spec.slug,
            directory=spec.egress_dir,
            uid=spec.uid,
            gid=spec.gid,
            placeholder=placeholder,
            user_tag="tag",
        )
    )
    await backend.ensure(spec)
    await backend.start(spec.name)
    async with backend.attach(spec.name) as stream, linked(stream) as link:
        yield Room(spec=spec, backend=backend, link=link, placeholder=placeholder)


@asynccontextmanager
async def linked(stream: ByteStream) -> AsyncIterator[RunnerLink]:
    async with open_link(stream, epoch=None, acked=Seq(0)) as link:
        yield link


async def lines_until_exit(link: RunnerLink) -> list[str]:
    """What the session printed before it ended."""
    lines: list[str] = []
    async with asyncio.timeout(STARTED_S):
        async for event in link.events():
            if isinstance(event, CliLine):
                lines.append(event.line)
            if isinstance(event, SessionExited):
                break
    return lines


def mode_of(path: Path) -> int:
    """The permission bits of the path itself."""
    return stat.S_IMODE(path.lstat().st_mode)
