"""A real orchestrator as a child process, as an operator runs it: started, stopped, killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from orchestrator.control.client import ControlClient
from orchestrator.control.models import RunnerView, SyncState
from orchestrator.errors import AiAgentChatError
from tests.support.mounts import unmount_below

# Without an image this has to build one; with one it takes about 2 s.
_READY_S = 600.0
_STOP_S = 30.0
_POLL_S = 0.05
ORCHESTRATOR = str(Path(sys.executable).parent / "orchestrator")
CCHAT = str(Path(sys.executable).parent / "cchat")
API_KEY = "sk-ant-api03-canary-of-the-real-credential-0123456789AA"


class Orchestrator:
    """One installation: a state directory, a configuration, and at most one process."""

    def __init__(self, directory: Path, *arguments: str, env: Mapping[str, str]) -> None:
        self.state_dir = directory / "state"
        self.log_path = directory / "orchestrator.log"
        self._arguments = arguments
        self._env = {**clean_environment(), "ANTHROPIC_API_KEY": API_KEY, **env}
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"Orchestrator({self.state_dir}, pid={pid})"

    @property
    def pid(self) -> int:
        """The process's id; it must be running."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything that it has printed so far, both streams."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def _said(self) -> str:
        """What this start has printed so far."""
        return self.log[self._log_start :]

    async def start(self) -> None:
        """Start it and wait until it is in step with the homeserver and has said so."""
        await self.spawn()
        await self.wait_ready()

    async def spawn(self, env: Mapping[str, str] | None = None) -> None:
        """Start it, with these variables beside its own, and don't wait for it."""
        self._log_start = len(self.log)
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                ORCHESTRATOR,
                "up",
                "--state-dir",
                str(self.state_dir),
                *self._arguments,
                env={**self._env, **(env or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait_ready(self) -> None:
        """Wait until it is in step with the homeserver and has said so.

        Raises:
            AssertionError: it ended instead.
        """
        assert self._process is not None, "not started"
        async with asyncio.timeout(_READY_S):
            while not await self._is_ready():
                if self._process.returncode is not None:
                    msg = f"it ended with {self._process.returncode}:\n{self.log[-4000:]}"
                    raise AssertionError(msg)
                await asyncio.sleep(_POLL_S)

    async def wait_dead(self) -> int:
        """Wait until it ends by itself, however long that takes; the exit code. Cancel-safe."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, at once."""
        await self._end(signal.SIGKILL)

    async def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Ask for the end; the exit code."""
        return await self._end(by)

    async def runners(self) -> tuple[RunnerView, ...]:
        """What the control socket says of the runners."""
        return await ControlClient(self.state_dir).runners()

    async def _is_ready(self) -> bool:
        with contextlib.suppress(AiAgentChatError):
            status = await ControlClient(self.state_dir).status()
            in_step = status.pid == self.pid and status.sync.state is SyncState.CONNECTED
            said = "--embedded" not in self._arguments or "Ctrl-C stops everything." in self._said
            return in_step and said
        return False

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        assert self._process is not None, "not started"
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def wait_ended(self) -> int:
        """Wait for the end; the exit code."""
        assert self._process is not None, "not started"
        async with asyncio.timeout(_STOP_S):
            code = await self._process.wait()
        self._process = None
        return code

    async def _end(self, by: signal.Signals) -> int:
        self.send_signal(by)
        return await self.wait_ended()

    async def close(self) -> None:
        """End it, whatever state it is in; of its rooms' disks nothing stays mounted."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await self._end(signal.SIGTERM)
        if self._process is not None:
            await self._end(signal.SIGKILL)
        unmount_below(self.state_dir)


@asynccontextmanager
async def open_orchestrator(
    directory: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[Orchestrator]:
    """An installation below `directory`; its process is ended at exit, its log shown on failure."""
    directory.mkdir(parents=True, exist_ok=True)
    orchestrator = Orchestrator(directory, *arguments, env=env or {})
    try:
        yield orchestrator
    except BaseException:
        sys.stderr.write(f"--- log of {orchestrator!r}\n{orchestrator.log[-12000:]}\n")
        raise
    finally:
        await orchestrator.close()


def write_config(
    path: Path, *, homeserver: str, user_id: str, upstream: str, **sections: Any
) -> Path:
    """A configuration file for an orchestrator; `sections` are added to it.

    Unless a test says so, rooms are not greeted and nothing is edited: most count messages.
    """
    defaults = sections.get("defaults", {})
    if isinstance(defaults, dict):
        sections["defaults"] = {"greet": False, "stream": "messages", **defaults}
    data = {
        "matrix": {"homeserver": homeserver, "user_id": user_id},
        "anthropic": {"upstream": upstream},
        "access": {"users": ["@*:*"]},
        "observability": {"log_level": "DEBUG", "log_format": "text"},
        **sections,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would change what is tested."""
    ours = ("ANTHROPIC_", "CLAUDE_", "MATRIX_", "AIAGENTCHAT_", "CCHAT_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)}
