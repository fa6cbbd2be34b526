"""What the engine says of a runner, of itself and of its other containers; and a probe in a runner.

Rules: nothing is changed but that a probe runs; what a probe prints is the room's word, so it is
bounded in time and length, and no failure of it leaves here as an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from orchestrator.core.isolation_evidence import EngineMount, EngineRecord
from orchestrator.errors import (
    EngineRequestError,
    EngineUnavailableError,
    ImageMissingError,
    RunnerGoneError,
    WireError,
)
from orchestrator.model import JsonObject
from orchestrator.runners.docker_model import Answer
from orchestrator.runners.engine import Engine
from orchestrator.runners.stream import AttachedStream, DiagnosticLines

_PROBE_BYTES: Final = 64 << 10
_PYTHON: Final = ("/usr/bin/python3", "-I", "-S", "-c")

# The engine's own JSON: what of it counts is decided by the controls. null is an empty map.
_Map = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]
_Names = Annotated[list[str], BeforeValidator(lambda value: value or [])]


class _State(Answer):
    pid: int = Field(alias="Pid")
    running: bool = Field(alias="Running")
    paused: bool = Field(alias="Paused")


class _Mount(Answer):
    kind: str = Field(alias="Type", default="")
    source: str = Field(alias="Source", default="")
    target: str = Field(alias="Destination", default="")
    writable: bool = Field(alias="RW", default=True)
    propagation: str = Field(alias="Propagation", default="")


class _Network(Answer):
    ports: _Map = Field(alias="Ports", default={})
    networks: _Map = Field(alias="Networks", default={})


class _Runner(Answer):
    """`GET /containers/{id}/json`, as an audit reads it."""

    container_id: str = Field(alias="Id")
    name: str = Field(alias="Name")
    image: str = Field(alias="Image")
    apparmor: str = Field(alias="AppArmorProfile", default="")
    log_path: str = Field(alias="LogPath", default="")
    execs: _Names = Field(alias="ExecIDs", default=[])
    state: _State = Field(alias="State")
    host: _Map = Field(alias="HostConfig")
    config: _Map = Field(alias="Config")
    network: _Network = Field(alias="NetworkSettings")
    mounts: list[_Mount] = Field(alias="Mounts", default=[])


class _Process(Answer):
    entrypoint: str = ""
    arguments: _Names = Field(default=[])
    privileged: bool = False
    user: str = ""


class _Exec(Answer):
    """`GET /exec/{id}/json`."""

    running: bool = Field(alias="Running")
    pid: int = Field(alias="Pid", default=0)
    process: _Process = Field(alias="ProcessConfig")

    def is_probe(self, source: str) -> bool:
        """Whether it is an audit's own probe: that program, as the room's user."""
        process = self.process
        argv = (process.entrypoint, *process.arguments)
        plain = not process.privileged and not process.user
        return plain and argv[: len(_PYTHON) + 1] == (*_PYTHON, source)


class _Image(Answer):
    config: _Map = Field(alias="Config", default={})


class _Change(Answer):
    path: str = Field(alias="Path")


class _Listed(Answer):
    container_id: str = Field(alias="Id")
    names: _Names = Field(alias="Names", default=[])
    labels: _Map = Field(alias="Labels", default={})
    mounts: list[_Mount] = Field(alias="Mounts", default=[])


class _Version(Answer):
    commit: str = Field(alias="ID", default="")


class _Swarm(Answer):
    state: str = Field(alias="LocalNodeState", default="")


class DaemonFacts(Answer):
    """`GET /info`, as an audit reads it."""

    version: str = Field(alias="ServerVersion", default="")
    security: _Names = Field(alias="SecurityOptions", default=[])
    live_restore: bool = Field(alias="LiveRestoreEnabled", default=False)
    runc: _Version = Field(alias="RuncCommit", default=_Version())
    swarm: _Swarm = Field(alias="Swarm", default=_Swarm())


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherContainer:
    """Any container of the engine's: its labels, and what of the host is mounted in it."""

    container_id: str
    name: str
    labels: Mapping[str, str]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """What a probe printed, or why there is nothing."""

    output: bytes = b""
    problem: str | None = None


async def read_record(engine: Engine, container_id: str, probe: str) -> EngineRecord:
    """The engine's record of a running container; `probe` is the program that an audit runs.

    Raises:
        RunnerGoneError: it is not there, or no longer runs.
        EngineRequestError, EngineUnavailableError: as every call.
    """
    api = engine.api
    found = _Runner.parse(await engine.call(api.inspect_container, container_id))
    if not found.state.running:
        raise RunnerGoneError
    execs = [exec_ for each in found.execs if (exec_ := await _read_exec(engine, each)) is not None]
    return EngineRecord(
        container_id=found.container_id,
        name=found.name.removeprefix("/"),
        pid=found.state.pid,
        is_paused=found.state.paused,
        image=found.image,
        apparmor=found.apparmor,
        log_path=found.log_path,
        host=found.host,
        config=found.config,
        networks=tuple(found.network.networks),
        ports=tuple(found.network.ports),
        mounts=tuple(_mount(mount) for mount in found.mounts if mount.kind != "tmpfs"),
        foreign_execs=tuple(_describe(e) for e in execs if not e.is_probe(probe)),
        probes=frozenset(e.pid for e in execs if e.is_probe(probe)),
        image_config=await _read_image(engine, found.image),
    )


async def read_changes(engine: Engine, container_id: str) -> tuple[str, ...]:
    """Paths that differ from the image. Takes seconds. Raises as `read_record`."""
    answer = await engine.call(engine.api.diff, container_id)
    return tuple(_Change.parse(item).path for item in answer or ())


async def read_daemon(engine: Engine) -> DaemonFacts:
    """What the engine says of itself. Raises as every call."""
    return DaemonFacts.parse(await engine.call(engine.api.info))


async def list_containers(engine: Engine) -> Sequence[OtherContainer]:
    """Every container, whosever it is and whether it runs. Raises as every call."""
    answer = await engine.call(engine.api.containers, all=True)
    found = [_Listed.parse(item) for item in answer]
    return [
        OtherContainer(
            container_id=each.container_id,
            name=(each.names or ["?"])[0].removeprefix("/"),
            labels={name: str(value) for name, value in each.labels.items()},
            sources=tuple(mount.source for mount in each.mounts if mount.source),
        )
        for each in found
    ]


async def run_probe(
    engine: Engine, container_id: str, program: str, *words: str, limit_s: float
) -> ProbeAnswer:
    """Run a Python program as the room's user in a running container; its output, bounded.

    The process is no child of the main process, which neither reaps nor ends it; should the main
    process end everything, the probe goes too, and that is said. A room can stop the process while
    it enters, and the engine then hangs: the caller must watch over it (`audit.probe_guard`).
    """
    output = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            command = [*_PYTHON, program, *words]
            made = await engine.call(
                engine.api.exec_create, container_id, command, stderr=False, workdir="/"
            )
            await _read_output(engine, str(made["Id"]), output)
    except TimeoutError:
        return ProbeAnswer(problem=f"nothing within {limit_s:.0f} s")
    except RunnerGoneError:
        return ProbeAnswer(problem="it ended, or is paused")
    except (EngineRequestError, EngineUnavailableError, WireError) as e:
        return ProbeAnswer(problem=type(e).__name__)
    if len(output) > _PROBE_BYTES:
        return ProbeAnswer(problem=f"more than {_PROBE_BYTES} bytes")
    return ProbeAnswer(output=bytes(output))


async def _read_output(engine: Engine, exec_id: str, output: bytearray) -> None:
    body: JsonObject = {"Detach": False, "Tty": False}
    path = f"/exec/{exec_id}/start"
    async with engine.upgrade(path, {}, body=body) as exchange:
        stream = AttachedStream(exchange.reader, exchange.writer, DiagnosticLines(lambda _: None))
        while len(output) <= _PROBE_BYTES and (data := await stream.read()):
            output += data


async def _read_exec(engine: Engine, exec_id: str) -> _Exec | None:
    try:
        found = _Exec.parse(await engine.call(engine.api.exec_inspect, exec_id))
    except RunnerGoneError:
        return None
    return found if found.running else None


async def _read_image(engine: Engine, image: str) -> JsonObject:
    try:
        return _Image.parse(await engine.call(engine.api.inspect_image, image)).config
    except ImageMissingError:
        return {}


def _mount(mount: _Mount) -> EngineMount:
    return EngineMount(
        kind=mount.kind,
        source=mount.source,
        target=mount.target,
        writable=mount.writable,
        propagation=mount.propagation,
    )


def _describe(exec_: _Exec) -> str:
    process = exec_.process
    rights = "privileged " if process.privileged else ""
    who = f"user {process.user} " if process.user else ""
    return f"{rights}{who}{process.entrypoint}"
