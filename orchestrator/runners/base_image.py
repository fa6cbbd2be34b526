"""The runner image's base: the public image, or one made from Debian's packages.

Rules: what is on this machine is taken before anything is fetched; the base that is made has a name
of its own and never the public one's; both serve the same Dockerfile.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from orchestrator.errors import (
    EngineRequestError,
    ImageMissingError,
    PreconditionError,
)
from orchestrator.runners.build_log import BuildLog
from orchestrator.runners.engine import Engine

MADE_NAME: Final = "aiagentchat/base"
_SCRIPT: Final = "base-image.sh"
# Of a 30 MB image; past it, making one is quicker.
_PULL_S: Final = 600.0
# Half a minute with a near mirror.
_DEBOOTSTRAP_S: Final = 1800.0
_IMPORT_S: Final = 600.0
# To remove a half-made root file system.
_END_S: Final = 15.0
_CHUNK_BYTES: Final = 1 << 20
_KEPT_LINES: Final = 10
_BASE_LINE: Final = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)


async def find_base(engine: Engine, folder: Path, mode: str, on_line: Callable[[str], None]) -> str:
    """A reference to the base image, after pulling or making it if need be.

    `mode` is a value of `image.Base`; `folder` is runner-image/.

    Raises:
        PreconditionError: it can't be had that way; says what to do.
    """
    public = public_base(folder)
    if mode == "debootstrap":
        return await _ensure_made(engine, folder, on_line)
    if mode == "auto" and await _is_here(engine, public):
        return public
    try:
        await _pull(engine, public, on_line)
    except (PreconditionError, EngineRequestError) as e:
        if mode == "pull":
            msg = f"{public} can't be pulled ({e}). Try --base debootstrap"
            raise PreconditionError(msg) from e
        on_line(f"{public} can't be pulled: using a base made from Debian's packages")
        return await _ensure_made(engine, folder, on_line)
    return public


def public_base(folder: Path) -> str:
    """The base that the Dockerfile names.

    Raises:
        PreconditionError: the Dockerfile has no line `ARG BASE=…`.
    """
    match = _BASE_LINE.search((folder / "Dockerfile").read_text(encoding="utf-8"))
    if match is None:
        msg = f"{folder / 'Dockerfile'} has no line ARG BASE=…"
        raise PreconditionError(msg)
    return match[1]


def made_base(folder: Path) -> str:
    """The name of the base that the script makes: another script, another name."""
    digest = hashlib.sha256((folder / _SCRIPT).read_bytes()).hexdigest()[:12]
    return f"{MADE_NAME}:{digest}"


async def _is_here(engine: Engine, reference: str) -> bool:
    try:
        await engine.call(engine.api.inspect_image, reference)
    except ImageMissingError:
        return False
    return True


async def _pull(engine: Engine, reference: str, on_line: Callable[[str], None]) -> None:
    on_line(f"pulling {reference}")
    name, _, tag = reference.partition(":")
    log = BuildLog(on_line, now=time.monotonic())
    query = {"fromImage": name, "tag": tag or "latest"}
    await log.follow(engine, "/images/create", query, limit_s=_PULL_S)


async def _ensure_made(engine: Engine, folder: Path, on_line: Callable[[str], None]) -> str:
    reference = made_base(folder)
    if await _is_here(engine, reference):
        return reference
    _check_tools()
    began = time.monotonic()
    on_line("making the base image from Debian's packages (about half a minute)")
    # /var/tmp: some hundred MB, and /tmp may be memory.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="aiagentchat-") as work:
        tarball = Path(work) / "base.tar"
        await _run_script(folder / _SCRIPT, tarball)
        await _import(engine, tarball, reference, on_line, tarball.stat().st_size)
    on_line(f"{reference} made in {time.monotonic() - began:.0f} s")
    return reference


def _check_tools() -> None:
    if os.geteuid() != 0:
        msg = "only root can make the base image. Run this as root once, or use --base pull"
        raise PreconditionError(msg)
    if shutil.which("debootstrap") is None:
        msg = (
            "debootstrap is not installed. Type: apt-get install debootstrap"
            " (or use --base pull where an image registry can be reached)"
        )
        raise PreconditionError(msg)


async def _run_script(script: Path, tarball: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        str(script),
        str(tarball),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    last: deque[bytes] = deque(maxlen=_KEPT_LINES)
    try:
        async with asyncio.timeout(_DEBOOTSTRAP_S):
            if process.stdout is not None:
                async for line in process.stdout:
                    last.append(line)
            code = await process.wait()
    except TimeoutError:
        code = None
    finally:
        await _end(process)
    if code != 0:
        lines = b"".join(last).decode(errors="replace").rstrip().replace("\n", "\n  ")
        msg = f"the base image could not be made ({script.name} ended with {code}):\n  {lines}"
        raise PreconditionError(msg)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what was left half-way: the script first, so that it removes its own files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()


async def _import(
    engine: Engine, tarball: Path, reference: str, on_line: Callable[[str], None], size: int
) -> None:
    name, _, tag = reference.partition(":")
    log = BuildLog(on_line, now=time.monotonic())
    query = {"fromSrc": "-", "repo": name, "tag": tag}
    body = _chunks(tarball)
    await log.follow(engine, "/images/create", query, body=body, body_bytes=size, limit_s=_IMPORT_S)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
