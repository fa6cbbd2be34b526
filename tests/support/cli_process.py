"""The real CLI as a child process of a test: lines in, lines out, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

# One line can hold a whole tool result; the same bound as the API's body limit.
_MAX_LINE_BYTES = 32 << 20


@dataclass(slots=True)
class CliProcess:
    """One running CLI. `lines` holds everything that it printed so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def send(self, line: str) -> None:
        """Write one line (with its line end) to its stdin."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(line.encode())
        await stdin.drain()

    def close_stdin(self) -> None:
        """Tell it that nothing more comes."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def next_line(self, *, timeout_s: float = 30) -> str | None:
        """The next line of stdout, or None at its end."""
        stdout = self.process.stdout
        assert stdout is not None
        async with asyncio.timeout(timeout_s):
            line = (await stdout.readline()).decode()
        if not line:
            return None
        self.lines.append(line)
        return line

    async def read_until(self, wanted: str, *, timeout_s: float = 30) -> str:
        """Read up to and including the first line that contains `wanted`."""
        async with asyncio.timeout(timeout_s):
            while (line := await self.next_line(timeout_s=timeout_s)) is not None:
                if wanted in line:
                    return line
        msg = f"the CLI ended without printing {wanted}; {await self.stderr()}"
        raise AssertionError(msg)

    async def read_to_end(self, *, timeout_s: float = 30) -> int:
        """Read all that is left; the exit code."""
        async with asyncio.timeout(timeout_s):
            while await self.next_line(timeout_s=timeout_s) is not None:
                pass
            return await self.process.wait()

    async def stderr(self) -> str:
        """What it wrote to stderr; call it after the end of stdout."""
        assert self.process.stderr is not None
        async with asyncio.timeout(5):
            return (await self.process.stderr.read()).decode(errors="replace")


@asynccontextmanager
async def open_cli(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path
) -> AsyncIterator[CliProcess]:
    """Start the CLI in a process group of its own; kill the whole group at the end."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,
    )
    try:
        yield CliProcess(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        await _drain(process)


async def _drain(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(10):
        for stream in (process.stdout, process.stderr):
            while stream is not None and await stream.read(1 << 16):
                pass
        await process.wait()
