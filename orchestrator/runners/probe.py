"""A throw-away runner that shows what the engine does with ids and with a room's socket.

It is made as a room's runner is, with a small program in the shim's place. Rules: it is gone when
`run_probe` returns; it is no runner (other labels, no room), so that nothing adopts it; its
directory is root's alone but for the three that are mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from orchestrator.core.id_plan import PROBE_UID, Seen
from orchestrator.core.sandbox import LABEL_INSTALLATION, SandboxSpec, build_options
from orchestrator.errors import EngineRequestError, PreconditionError, RunnerGoneError
from orchestrator.model import InstallationId, JsonObject, Limits, RoomSlug
from orchestrator.peer import read_peer
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.engine import ConflictError, Engine

LABEL_PROBE: Final = f"{LABEL_INSTALLATION}-probe"
_SOCKET: Final = "egress.sock"
_FILE: Final = "made"
# A sandbox boots within a second; a virtual machine within a few; the machine may be busy.
_PROBE_S: Final = 60.0
_MAX_ANSWER_BYTES: Final = 16 << 10
_POLL_S: Final = 0.02
# Longer than any other command's own trial.
_LOCK_S: Final = 120.0
_LOCK_POLL_S: Final = 0.1
_NO_CONNECTION: Final = 100
# Its exit code is 100 and the error's number where it can't connect: there is no other way out.
_PROGRAM: Final = f"""
import json, socket, sys
def text(name):
    with open("/proc/self/" + name) as file:
        return file.read(4096)
open("/workspace/{_FILE}", "x").close()
door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
door.settimeout(30)
try:
    door.connect("/run/egress/{_SOCKET}")
    door.sendall(json.dumps({{"uid_map": text("uid_map"), "gid_map": text("gid_map")}}).encode())
    door.shutdown(socket.SHUT_WR)
    door.recv(1)
except OSError as e:
    sys.exit({_NO_CONNECTION} + min(e.errno or 0, 150))
"""


# gVisor's sandbox takes 512 tasks for itself at worst (core/engine_facts.py).
_LIMITS: Final = Limits(
    memory_bytes=512 << 20,
    cpus=1.0,
    pids=1024,
    tmp_bytes=1 << 20,
    disk_bytes=1 << 20,
    output_bytes=1 << 20,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """What the probe is made of: as the rooms' runners."""

    installation: InstallationId
    image: str
    runtime: str | None

    @property
    def name(self) -> str:
        """The container's: no other installation's can have it, so it may be removed by name."""
        return f"aiagentchat-{self.installation}-probe"


class _Answer(BaseModel):
    uid_map: str
    gid_map: str


class _State(BaseModel):
    Status: str
    ExitCode: int


async def run_probe(engine: Engine, plan: ProbePlan, directory: Path, *, named: str) -> Seen:
    """Start it, hear it, remove it. `directory` is made for it and removed, too.

    Raises:
        PreconditionError: the runtime (`named`) can't start it, or it can't reach its socket.
        EngineRequestError: the engine failed.
    """
    try:
        async with _alone(directory.parent):
            try:
                await asyncio.to_thread(_make_directories, directory)
                with _listening(directory / "egress") as listener:
                    async with _container(engine, plan, directory, named) as container:
                        return await _hear(engine, container, listener, directory, named)
            finally:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    except OSError as e:
        msg = f"{directory} can't be used to try out the engine: {e.strerror or type(e).__name__}"
        raise PreconditionError(msg) from e


def probe_config(plan: ProbePlan, directory: Path) -> JsonObject:
    """The container's configuration: a runner's, with another program and other labels. Pure."""
    spec = SandboxSpec(
        name=plan.name,
        installation=plan.installation,
        slug=RoomSlug("probe"),
        generation=0,
        image=plan.image,
        uid=PROBE_UID,
        gid=PROBE_UID,
        workspace=directory / "workspace",
        home=directory / "home",
        egress_dir=directory / "egress",
        limits=_LIMITS,
        runtime=plan.runtime,
    )
    config = container_config(build_options(spec), {LABEL_PROBE: plan.installation})
    return config | {"Entrypoint": ["/usr/bin/python3", "-I", "-S", "-c", _PROGRAM]}


def _make_directories(directory: Path) -> None:
    """Whatever its ids are here, it can write its own; nobody else comes as far."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    for name, mode in (("workspace", 0o777), ("home", 0o777), ("egress", 0o755)):
        (directory / name).mkdir()
        (directory / name).chmod(mode)


@contextlib.asynccontextmanager
async def _alone(parent: Path) -> AsyncIterator[None]:
    """One at a time: a start and an audit beside it use the same directory and the same name."""
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        async with asyncio.timeout(_LOCK_S):
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _listening(directory: Path) -> Iterator[socket.socket]:
    """A socket in the directory that anybody who sees it may connect to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By the descriptor: the path itself may be longer than a socket's address.
            listener.bind(f"/proc/self/fd/{folder}/{_SOCKET}")
        finally:
            os.close(folder)
        (directory / _SOCKET).chmod(0o666)
        listener.listen(1)
        yield listener


@contextlib.asynccontextmanager
async def _container(
    engine: Engine, plan: ProbePlan, directory: Path, named: str
) -> AsyncIterator[str]:
    """The started container's id; it is removed at exit."""
    await _remove(engine, plan.name)
    try:
        try:
            config = probe_config(plan, directory)
            made = await engine.call(engine.api.create_container_from_config, config, plan.name)
            await engine.call(engine.api.start, made["Id"])
        except (EngineRequestError, RunnerGoneError) as e:
            msg = f"the runtime {named} did not start a runner: {e}"
            raise PreconditionError(msg) from e
        yield str(made["Id"])
    finally:
        await _remove(engine, plan.name)


async def _remove(engine: Engine, name: str) -> None:
    with contextlib.suppress(RunnerGoneError, ConflictError):
        await engine.call(engine.api.remove_container, name, v=True, force=True)


async def _hear(
    engine: Engine, container: str, listener: socket.socket, directory: Path, named: str
) -> Seen:
    try:
        async with asyncio.timeout(_PROBE_S):
            connection = await _accept(engine, container, listener, named)
            with connection:
                answer = await _read_answer(connection)
                peer_uid = read_peer(connection).uid
    except TimeoutError as e:
        msg = f"under the runtime {named} a runner did not connect within {_PROBE_S:.0f} s"
        raise PreconditionError(msg) from e
    made = (directory / "workspace" / _FILE).lstat()
    return Seen(
        uid_map=answer.uid_map,
        gid_map=answer.gid_map,
        file_uid=made.st_uid,
        file_gid=made.st_gid,
        peer_uid=peer_uid,
    )


async def _accept(
    engine: Engine, container: str, listener: socket.socket, named: str
) -> socket.socket:
    """The connection, or why there is none once the container has ended."""
    while True:
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            return connection
        answer = await engine.call(engine.api.inspect_container, container)
        state = _State.model_validate(answer["State"])
        if state.Status in {"exited", "dead"}:
            raise PreconditionError(explain_exit(state.ExitCode, named))
        await asyncio.sleep(_POLL_S)


def explain_exit(code: int, runtime: str) -> str:
    """Why a probe that ended with this code did not connect, and what to do. Pure."""
    if code in {_NO_CONNECTION + errno.EPERM, _NO_CONNECTION + errno.EACCES}:
        return (
            f"the runtime {runtime} does not let a runner connect to its own socket, the only way"
            " out that a room has. gVisor needs --host-uds=open in its runtimeArgs (versions"
            " before 2023: --fsgofer-host-uds); see docs/security/engines.md"
        )
    if code > _NO_CONNECTION:
        name = errno.errorcode.get(code - _NO_CONNECTION, str(code - _NO_CONNECTION))
        return (
            f"under the runtime {runtime} a runner can't connect to its own socket ({name}), the"
            " only way out that a room has. A virtual machine (Kata) shares files with its host,"
            " not sockets; see docs/security/engines.md"
        )
    return f"under the runtime {runtime} a runner ended with {code} at its start"


async def _read_answer(connection: socket.socket) -> _Answer:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) <= _MAX_ANSWER_BYTES and (part := await loop.sock_recv(connection, 4096)):
        data += part
    try:
        return _Answer.model_validate_json(data)
    except ValidationError as e:
        msg = "the runner that tries out the engine said something else than its program does"
        raise PreconditionError(msg) from e
