"""What a turn is compared with: the same CLI without room, gateway and sandbox, same stand-in API.

The arguments and the environment are those that a runner's CLI gets; only paths differ.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

from orchestrator.core.cli_command import CLAUDE, build_cli_argv, build_cli_env
from orchestrator.core.cli_input import build_user_message
from orchestrator.model import Permissions, SessionId
from tests.support.cli_process import CliProcess, open_cli
from tests.support.containers import session_labels

# What `orchestrator up` gives its rooms unless told otherwise.
PERMISSIONS = Permissions.ASK
_PATH = "/usr/local/bin:/usr/bin:/bin"
_PLACEHOLDER = "sk-ant-placeholder"
_RESULT = '"type":"result"'
_END_S = 60
# The message is the script's name ($0), the CLI with its arguments is the rest.
_FEED = 'printf "%s\\n" "$0" | "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all ways to run the CLI share."""

    claude: Path
    image: str
    api_url: str
    directory: Path
    """New homes and workspaces are made in here."""


@asynccontextmanager
async def open_cli_on_host(parts: Parts) -> AsyncIterator[CliProcess]:
    """The CLI as a process of this machine, with a new home, until the context ends."""
    base = parts.directory / uuid.uuid4().hex
    home, workspace = base / "home", base / "workspace"
    for folder in (home, workspace):
        folder.mkdir(parents=True)
    env = build_cli_env(_PLACEHOLDER, gateway_url=parts.api_url, home=str(home))
    argv = _argv(str(parts.claude), str(workspace))
    async with open_cli(argv, env={**env, "PATH": _PATH}, cwd=workspace) as cli:
        yield cli


async def ask(cli: CliProcess, text: str) -> None:
    """One turn: from the message on its stdin to the result on its stdout."""
    await cli.send(_message(text))
    await cli.read_until(_RESULT)


async def time_new_process(parts: Parts, text: str) -> float:
    """Seconds for a new process on this machine and its first turn."""
    start = time.perf_counter()
    async with open_cli_on_host(parts) as cli:
        await ask(cli, text)
        return time.perf_counter() - start


async def time_plain_container(client: docker.DockerClient, parts: Parts, text: str) -> float:
    """Seconds for a new container of the runner image, without our options, and one turn in it.

    It is on the host's network, so that it reaches the stand-in API without anything between.
    """
    return await asyncio.to_thread(_run_turn_in_container, client, parts, text)


async def time_version_in_container(client: docker.DockerClient, parts: Parts) -> float:
    """Seconds for a container without network that runs `claude --version`."""
    return await asyncio.to_thread(_run_version_in_container, client, parts)


def _argv(executable: str, workspace: str) -> list[str]:
    return build_cli_argv(
        session_id=SessionId(str(uuid.uuid4())),
        resume=False,
        permissions=PERMISSIONS,
        executable=executable,
        workspace=workspace,
    )


def _message(text: str) -> str:
    return build_user_message(text, message_uuid=str(uuid.uuid4())) + "\n"


def _run_turn_in_container(client: docker.DockerClient, parts: Parts, text: str) -> float:
    feed = ["/bin/sh", "-c", _FEED, _message(text).rstrip("\n"), *_argv(CLAUDE, "/workspace")]
    env = build_cli_env(_PLACEHOLDER, gateway_url=parts.api_url)
    start = time.perf_counter()
    container = client.containers.create(
        parts.image,
        entrypoint=feed,
        environment=env,
        network_mode="host",
        user="0:0",  # the image's own user could not write to its home
        labels=session_labels(),
    )
    try:
        said = b""
        output = container.attach(stdout=True, stderr=True, stream=True)
        container.start()
        for piece in output:
            said += piece
            if _RESULT.encode() in said:
                return time.perf_counter() - start
    finally:
        container.remove(force=True)
    msg = f"the CLI in a plain container gave no result; it said: {said[-2000:]!r}"
    raise AssertionError(msg)


def _run_version_in_container(client: docker.DockerClient, parts: Parts) -> float:
    start = time.perf_counter()
    container = client.containers.create(
        parts.image,
        entrypoint=[CLAUDE, "--version"],
        network_mode="none",
        labels=session_labels(),
    )
    try:
        container.start()
        status = container.wait(timeout=_END_S)["StatusCode"]
        taken = time.perf_counter() - start
    finally:
        container.remove(force=True)
    if status != 0:
        msg = f"claude --version in a container ended with {status}"
        raise AssertionError(msg)
    return taken
