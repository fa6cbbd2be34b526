"""What tests on a real Docker Engine share: the runner image, small images on top of it, a spec.

Everything that is started bears an installation id of the test's own, and is removed by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.core.naming import room_slug, room_uid, runner_name
from orchestrator.core.sandbox import SandboxSpec
from orchestrator.model import InstallationId, Limits, RoomId
from orchestrator.runners.build_log import BuildLog
from orchestrator.runners.docker_backend import DockerBackend, open_docker_backend
from orchestrator.runners.engine import Engine, open_engine
from orchestrator.runners.image import ensure_image
from orchestrator.runners.workdir import prepare_room_dirs

ECHO = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while data := os.read(0, 65536):
    while data:
        data = data[os.write(1, data):]
"""
STUBBORN = ECHO.replace("lambda *_: os._exit(0)", "signal.SIG_IGN")


def new_installation() -> InstallationId:
    """An id that no other test and no real installation has."""
    return InstallationId(secrets.token_hex(8))


def small_limits() -> Limits:
    """Enough for the CLI, git and a compiler."""
    return Limits(
        memory_bytes=1 << 30,
        cpus=1.0,
        pids=256,
        tmp_bytes=128 << 20,
        disk_bytes=1 << 30,
        output_bytes=100 << 20,
    )


def room_spec(
    root: Path, installation: InstallationId, image: str, *, index: int = 0
) -> SandboxSpec:
    """A room's specification; `root` is the directory that its directories are in."""
    slug = room_slug(RoomId(f"!room{index}:example.org"))
    uid = room_uid(installation, index)
    folder = root / installation / slug
    return SandboxSpec(
        name=runner_name(installation, slug),
        installation=installation,
        slug=slug,
        generation=1,
        image=image,
        uid=uid,
        gid=uid,
        workspace=folder / "workspace",
        home=folder / "home",
        egress_dir=folder / "egress",
        limits=small_limits(),
    )


def prepare(spec: SandboxSpec) -> SandboxSpec:
    """Make the spec's directories, with their owners; returns the spec."""
    prepare_room_dirs(spec.workspace.parent, spec.uid, spec.gid)
    return spec


@asynccontextmanager
async def open_clean_backend(
    installation: InstallationId | None = None, docker_host: str | None = None
) -> AsyncIterator[DockerBackend]:
    """A Docker backend that removes all runners of its installation at the end."""
    async with open_docker_backend(
        installation or new_installation(), docker_host=docker_host
    ) as backend:
        try:
            yield backend
        finally:
            for runner in await backend.list():
                await backend.remove(runner.name)


def ensure_runner_image() -> str:
    """The id of the runner image, built if it is missing (minutes then)."""

    async def ensure() -> str:
        async with open_engine() as engine:
            return await ensure_image(engine, on_line=print)

    return asyncio.run(ensure())


def ensure_program_image(program: str) -> str:
    """The id of the runner image with a Python program in the shim's place."""

    entry = json.dumps(["/usr/bin/python3", "-I", "-S", "-c", program])
    return _ensure_changed_image(f"ENTRYPOINT {entry}", {})


def ensure_cli_image(program: str) -> str:
    """The id of the runner image with a program (with its `#!`) in the CLI's place.

    The CLI itself is `claude-real` there.
    """
    line = "USER 0:0\nRUN mv /usr/local/bin/claude /usr/local/bin/claude-real\n"
    return _ensure_changed_image(line + "COPY claude /usr/local/bin/claude", {"claude": program})


def _ensure_changed_image(line: str, files: Mapping[str, str]) -> str:
    async def ensure() -> str:
        async with open_engine() as engine:
            return await _build_changed(engine, await ensure_image(engine), line, files)

    return asyncio.run(ensure())


async def _build_changed(engine: Engine, base: str, line: str, files: Mapping[str, str]) -> str:
    """The image with some lines more; the files are there for it, and can be executed."""
    context = {"Dockerfile": f"FROM {base}\n{line}\n", **files}
    digest = hashlib.sha256(repr(context).encode()).hexdigest()[:12]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in context.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), 0o755
            archive.addfile(info, io.BytesIO(text.encode()))
    tag = f"aiagentchat/test-program:{digest}"
    log = BuildLog(print, now=0)
    await log.follow(engine, "/build", {"t": tag}, body=stream.getvalue(), limit_s=300)
    answer = await engine.call(engine.api.inspect_image, tag)
    return str(answer["Id"])
