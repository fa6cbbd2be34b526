"""The embedded Synapse as a process: start it, find one that outlived us, wait for it, end it.

A process is held by a pidfd, so that a signal can never reach another process that got the same
number. It runs in a session of its own: a terminal's Ctrl-C reaches the orchestrator alone, which
then ends Synapse after everything that still needs it. When the orchestrator is killed, Synapse
lives on and is found again by its command line, which names this installation's configuration.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path

from loguru import logger

from orchestrator.embedded.synapse_config import LOG_NAME
from orchestrator.errors import HomeserverUnreachableError, PreconditionError

OUTPUT_NAME = "synapse.out"
# Synapse answers SIGTERM in about 0.2 s when idle; the rest is for a busy machine.
_TERM_GRACE_S = 10.0
_KILL_GRACE_S = 5.0
_TAIL_LINES = 5
_TAIL_BYTES = 4096


class SynapseProcess:
    """One Synapse, ours or adopted. The pidfd is open until `close`, whatever became of it."""

    def __init__(self, pid: int, pidfd: int, directory: Path, child: Process | None) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._directory = directory
        self._child = child
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._note_end)

    def __repr__(self) -> str:
        kind = "adopted" if self._child is None else "child"
        return f"SynapseProcess(pid={self.pid}, {kind}, alive={self.is_alive()})"

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    async def wait(self) -> int | None:
        """Wait for its end; the exit code, or None for an adopted one. Cancel-safe."""
        await self._ended.wait()
        return await self._child.wait() if self._child is not None else None

    async def raise_when_dead(self) -> None:
        """Wait for its end and report it. Cancel-safe; never returns.

        Raises:
            HomeserverUnreachableError: when Synapse ended, with the end of its log.
        """
        code = await self.wait()
        raise HomeserverUnreachableError(self.describe_end(code))

    def describe_end(self, code: int | None) -> str:
        """What to tell the user about an end that nobody asked for."""
        how = "" if code is None else f" (exit code {code})"
        tail = read_tail(self._directory)
        return (
            f"the embedded homeserver (Synapse, process {self.pid}) ended by itself{how}. "
            f"Its log: {self._directory / LOG_NAME}. Start again with: orchestrator up"
            + (f"\nIts last lines:\n{tail}" if tail else "")
        )

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after 10 s; returns when it is gone. Idempotent.

        When it is cancelled it kills at once, so that no process stays.
        """
        try:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TERM_GRACE_S):
                    await self.wait()
        finally:
            self._signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(_KILL_GRACE_S):
                await self.wait()
        except TimeoutError:
            # Only a process that is stuck in the kernel (a dead disk) survives SIGKILL.
            logger.warning("embedded homeserver does not end", action="embedded_stop", pid=self.pid)

    def close(self) -> None:
        """Let go of the process without ending it. Idempotent."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._ended.set()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)


async def start_synapse(directory: Path, config: Path) -> SynapseProcess:
    """Start Synapse with a configuration. It is not ready yet when this returns.

    It gets none of our environment but what finds programs and names the language: no credential of
    ours is in it. What it prints goes to `synapse.out`, anew at each start.

    Raises:
        PreconditionError: the process could not be started.
    """
    env = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    output = os.open(directory / OUTPUT_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        child = await asyncio.create_subprocess_exec(
            *synapse_command(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=env | {"HOME": str(directory)},
            start_new_session=True,
            umask=0o077,
        )
        return SynapseProcess(child.pid, os.pidfd_open(child.pid), directory, child)
    except OSError as e:
        msg = f"Synapse could not be started: {e.strerror}"
        raise PreconditionError(msg) from e
    finally:
        os.close(output)


def synapse_command(config: Path) -> list[str]:
    """The command line; it names the installation, since the configuration's path is its own."""
    return [sys.executable, "-I", "-m", "synapse.app.homeserver", "-c", str(config)]


def find_running(
    directory: Path, config: Path, *, proc: Path = Path("/proc")
) -> list[SynapseProcess]:
    """Synapses that run with this configuration, left over from a killed orchestrator.

    A process is recognised by its whole command line, read again once its pidfd is held: a number
    that was given to another program meanwhile is not ours.
    """
    found: list[SynapseProcess] = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or not _runs_with(entry, config):
            continue
        try:
            pidfd = os.pidfd_open(int(entry.name))
        except OSError:
            continue
        if _runs_with(entry, config):
            found.append(SynapseProcess(int(entry.name), pidfd, directory, None))
        else:
            os.close(pidfd)
    return found


def read_tail(directory: Path) -> str:
    """The last lines that Synapse printed or logged, whichever file has something."""
    for name in (OUTPUT_NAME, LOG_NAME):
        try:
            data = (directory / name).read_bytes()[-_TAIL_BYTES:]
        except OSError:
            continue
        lines = data.decode("utf-8", "replace").strip().splitlines()
        if lines:
            return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])
    return ""


def _runs_with(entry: Path, config: Path) -> bool:
    try:
        argv = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # The interpreter's path may differ (another virtual environment), the rest may not.
    return argv[1:-1] == [os.fsencode(part) for part in synapse_command(config)[1:]]
