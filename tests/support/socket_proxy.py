"""A real socket proxy before the real engine, as a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.sandbox import SandboxSpec
from orchestrator.model import InstallationId
from tests.support.orchestrator import ORCHESTRATOR, clean_environment
from tests.support.runner_engine import prepare, room_spec

_READY_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketProxy:
    """One that serves."""

    socket: Path
    log_path: Path
    pid: int

    @property
    def address(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def refusals(self) -> list[str]:
        """Lines of its log that say what was not passed on."""
        return [line for line in self.log_path.read_text().splitlines() if "not passed on" in line]

    async def exchange(self, raw: bytes, *, wait_s: float = 20.0) -> bytes:
        """Send these bytes, and read until the other side closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            async with asyncio.timeout(wait_s):
                writer.write(raw)
                await writer.drain()
                return await reader.read()
        finally:
            writer.close()


def room_in_state(state_dir: Path, installation: InstallationId, image: str) -> SandboxSpec:
    """A room whose directories are where an orchestrator has them, and there."""
    spec = room_spec(state_dir, installation, image)
    folder = state_dir / "rooms" / spec.slug
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return prepare(
        replace(
            spec, workspace=folder / "workspace", home=folder / "home", egress_dir=folder / "egress"
        )
    )


@asynccontextmanager
async def open_socket_proxy(
    folder: Path, state_dir: Path, *options: str
) -> AsyncIterator[SocketProxy]:
    """Started, and ended at exit; its log is shown on failure.

    Raises:
        AssertionError: it ended instead, or not with 0.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, log_path = folder / "docker.sock", folder / "proxy.log"
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            ORCHESTRATOR,
            "socket-proxy",
            "--socket",
            str(path),
            "--state-dir",
            str(state_dir),
            *options,
            env=clean_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    proxy = SocketProxy(socket=path, log_path=log_path, pid=process.pid)
    try:
        await _wait_until_it_serves(proxy, process)
        yield proxy
    except BaseException:
        sys.stderr.write(f"--- log of the socket proxy\n{proxy.log_path.read_text()[-8000:]}\n")
        raise
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_S):
            code = await process.wait()
    assert code == 0, f"the proxy ended with {code}"
    assert not os.path.lexists(proxy.socket), "the socket is left behind"


async def _wait_until_it_serves(proxy: SocketProxy, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            assert process.returncode is None, proxy.log_path.read_text()
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(proxy.socket))
            except OSError:
                await asyncio.sleep(_POLL_S)
            else:
                return
