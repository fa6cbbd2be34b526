"""The embedded homeserver: a real Synapse on loopback, for trying aiagentchat without one's own.

    orchestrator ── child process, own session ──► Synapse (SQLite) on 127.0.0.1:PORT
                                                    ├── @you:localhost      (admin, for the user)
                                                    ├── @claude:localhost   (the agent, no limit)
                                                    └── #demo:localhost     (both in it)

Everything is in `STATE_DIR/embedded` (0700). A Synapse that outlived a killed orchestrator is
adopted when it runs with the configuration that we would write now, and replaced otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from loguru import logger
from pydantic import SecretStr

from orchestrator.embedded.account_setup import (
    AGENT_USER_ID,
    ROOM_ALIAS,
    USER_ID,
    ensure_demo,
)
from orchestrator.embedded.synapse_config import (
    BIND_ADDRESS,
    CONFIG_NAME,
    SERVER_NAME,
    SynapseSecrets,
    load_or_make_secrets,
    read_secrets,
    render_config,
    save_secrets,
    write_synapse_files,
)
from orchestrator.embedded.synapse_process import SynapseProcess, find_running, start_synapse
from orchestrator.errors import PreconditionError
from orchestrator.model import RoomId, UserId
from orchestrator.private_file import write_private

DEFAULT_PORT = 8008
# The first start makes the database: 3 s on two idle cores; a busy machine gets forty times that.
_READY_TIMEOUT_S = 120.0
# One that runs already answers at once, or is stuck.
_ADOPT_TIMEOUT_S = 10.0
_POLL_S = 0.1

_log = logger.bind(component="embedded")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedHomeserver:
    """A running embedded homeserver, its accounts and its room."""

    base_url: str
    server_name: str
    user_id: UserId
    user_password: str = field(repr=False)
    agent_user_id: UserId
    agent_password: str = field(repr=False)
    room_id: RoomId
    room_alias: str
    port: int
    adopted: bool
    """Whether it ran already, left by an orchestrator that was killed."""
    first_start: bool
    """Whether its data was made just now."""
    limit_lifted: bool
    """Whether the agent's message limit was lifted through the admin API."""
    pid: int
    _process: SynapseProcess = field(repr=False, compare=False)

    async def wait_died(self) -> None:
        """Wait until Synapse ends by itself, and report it. Cancel-safe; never returns.

        Raises:
            HomeserverUnreachableError: with its exit code, its log's path and last lines.
        """
        await self._process.raise_when_dead()


@asynccontextmanager
async def open_embedded_homeserver(
    state_dir: Path, *, port: int, say: Callable[[str], None]
) -> AsyncIterator[EmbeddedHomeserver]:
    """Run the embedded homeserver for as long as the context lasts, however it ends.

    Args:
        state_dir: the installation's directory; `embedded` in it is made when it is missing.
        port: the port on 127.0.0.1.
        say: gets a line of progress for the user, with seconds, after each long step.

    Raises:
        PreconditionError: Synapse is not installed, the port is taken, or Synapse does not start.
        MatrixError: the accounts or the room could not be made.
    """
    require_synapse()
    directory = _prepare_directory(state_dir)
    held, first_start = load_or_make_secrets(directory)
    process, adopted = await _ensure_process(directory, port, held, say)
    try:
        yield await _set_up(directory, port, held, process, adopted, first_start, say)
    finally:
        try:
            await process.stop()
        finally:
            process.close()
        _log.info("embedded homeserver stopped", action="embedded_stop", pid=process.pid)


def write_embedded_json(state_dir: Path, homeserver: EmbeddedHomeserver) -> Path:
    """Write `STATE_DIR/embedded.json` (0600, atomically) for scripts and for cchat.

    Call it when everything is ready: whoever sees the file may send a message.

    Returns:
        The file's path.
    """
    path = state_dir / "embedded.json"
    data = {
        "homeserver": homeserver.base_url,
        "user_id": homeserver.user_id,
        "password": homeserver.user_password,
        "room_id": homeserver.room_id,
        "agent_user_id": homeserver.agent_user_id,
    }
    write_private(path, json.dumps(data, indent=1).encode() + b"\n")
    return path


def read_embedded_admin(state_dir: Path) -> tuple[str, SecretStr]:
    """Where the installation's embedded homeserver is, and its user's token, who is its admin.

    Raises:
        PreconditionError: it was never started here.
    """
    try:
        told = json.loads((state_dir / "embedded.json").read_text(encoding="utf-8"))
        held = read_secrets(state_dir / "embedded")
        if held.user_token is not None:
            return str(told["homeserver"]), held.user_token
    except (OSError, ValueError, KeyError, TypeError):
        pass
    msg = (
        f"{state_dir} has no embedded homeserver yet. Start it once (make up), or name your own "
        "with --config FILE."
    )
    raise PreconditionError(msg)


def require_synapse() -> None:
    """Check that Synapse is installed where we run.

    Raises:
        PreconditionError: with the command that installs it.
    """
    if importlib.util.find_spec("synapse") is None:
        msg = (
            "The embedded homeserver needs the package matrix-synapse. "
            "Install it with: pip install 'aiagentchat[embedded]' (make up does it by itself), "
            "or use your own homeserver: orchestrator up --config FILE"
        )
        raise PreconditionError(msg)


def require_free_port(port: int) -> None:
    """Check that nothing listens on the port.

    Raises:
        PreconditionError: it is taken, or may not be used, with the option that names another.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((BIND_ADDRESS, port))
        except OSError as e:
            taken = e.errno == errno.EADDRINUSE
            why = "is taken by another program" if taken else f"can't be used ({e.strerror})"
            msg = (
                f"Port {port} on {BIND_ADDRESS} {why}. "
                'Choose another one with: make up ARGS="--port N" (orchestrator up --port N)'
            )
            raise PreconditionError(msg) from None


def _prepare_directory(state_dir: Path) -> Path:
    directory = state_dir.resolve() / "embedded"
    for path in (directory.parent, directory):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    return directory


async def _ensure_process(
    directory: Path, port: int, held: SynapseSecrets, say: Callable[[str], None]
) -> tuple[SynapseProcess, bool]:
    config = render_config(directory, port=port, held=held)
    path = directory / CONFIG_NAME
    for process in find_running(directory, path):
        if _is_current(path, config) and await _answers(process, port, _ADOPT_TIMEOUT_S):
            say(f"Synapse was still running (process {process.pid}) and goes on")
            _log.info("embedded homeserver adopted", action="embedded_adopt", pid=process.pid)
            return process, True
        await process.stop()
        process.close()
    require_free_port(port)
    return await _start(directory, port, write_synapse_files(directory, config), say), False


async def _start(
    directory: Path, port: int, config: Path, say: Callable[[str], None]
) -> SynapseProcess:
    began = time.monotonic()
    process = await start_synapse(directory, config)
    ready = False
    try:
        ready = await _answers(process, port, _READY_TIMEOUT_S)
        if not ready:
            raise PreconditionError(await _why_not_ready(process))
    finally:
        if not ready:
            await process.stop()
            process.close()
    took_s = time.monotonic() - began
    say(f"Synapse started ({took_s:.1f} s)")
    _log.info(
        "embedded homeserver started", action="embedded_start", pid=process.pid, took_s=took_s
    )
    return process


async def _set_up(
    directory: Path,
    port: int,
    held: SynapseSecrets,
    process: SynapseProcess,
    adopted: bool,
    first_start: bool,
    say: Callable[[str], None],
) -> EmbeddedHomeserver:
    began = time.monotonic()
    base_url = f"http://{BIND_ADDRESS}:{port}"
    demo = await ensure_demo(base_url, held)
    if demo.user_token != held.user_token:
        save_secrets(directory, held.model_copy(update={"user_token": demo.user_token}))
    say(f"accounts and room {ROOM_ALIAS} are ready ({time.monotonic() - began:.1f} s)")
    return EmbeddedHomeserver(
        base_url=base_url,
        server_name=SERVER_NAME,
        user_id=USER_ID,
        user_password=held.user_password.get_secret_value(),
        agent_user_id=AGENT_USER_ID,
        agent_password=held.agent_password.get_secret_value(),
        room_id=demo.room_id,
        room_alias=ROOM_ALIAS,
        port=port,
        adopted=adopted,
        first_start=first_start,
        limit_lifted=True,
        pid=process.pid,
        _process=process,
    )


async def _answers(process: SynapseProcess, port: int, timeout_s: float) -> bool:
    """Whether Synapse answers within the time; False at once when the process ends."""
    url = f"http://{BIND_ADDRESS}:{port}/_matrix/client/versions"
    timeout = aiohttp.ClientTimeout(total=_ADOPT_TIMEOUT_S)
    deadline = time.monotonic() + timeout_s
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while process.is_alive() and time.monotonic() < deadline:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return True
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(_POLL_S)
    return False


async def _why_not_ready(process: SynapseProcess) -> str:
    if process.is_alive():
        return f"Synapse did not answer within {_READY_TIMEOUT_S:.0f} s and was stopped."
    return process.describe_end(await process.wait())


def _is_current(path: Path, config: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == config
    except OSError:
        return False
