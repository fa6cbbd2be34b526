"""The real shim as a child process, behind something that behaves as an engine's attach does.

While nobody is attached, what it prints is thrown away; an attach begins wherever the stream just
is; an attach that is not read makes the shim wait. Nothing it started is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.errors import WireClosedError
from orchestrator.model import Epoch, Seq
from orchestrator.runners.link import (
    Applied,
    AsideLine,
    CliLine,
    Refused,
    RunnerLink,
    SessionExited,
    UpEvent,
    open_link,
)

SHIM = Path(__file__).parents[2] / "runner-image" / "shim"
_CHUNK_BYTES = 64 * 1024
_SILENCE_S = 30.0


class AttachedStream:
    """One attach; a ByteStream. Reads at most `chunk_bytes` at once."""

    def __init__(self, shim: ShimProcess, chunk_bytes: int) -> None:
        self._shim = shim
        self._chunk_bytes = chunk_bytes
        self._rest = b""
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def read(self) -> bytes:
        """As ByteStream has it."""
        if not self._rest:
            self._rest = await self._chunks.get()
        data, self._rest = self._rest[: self._chunk_bytes], self._rest[self._chunk_bytes :]
        return data

    async def write(self, data: bytes) -> None:
        """As ByteStream has it."""
        await self._shim.write(data)

    async def offer(self, data: bytes) -> None:
        """What the shim printed; waits for the reader."""
        await self._chunks.put(data)


class ShimProcess:
    """A running shim. At most one attach at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        self._attached: AttachedStream | None = None
        self._detached = asyncio.Event()

    @asynccontextmanager
    async def attach(self, *, chunk_bytes: int = _CHUNK_BYTES) -> AsyncIterator[AttachedStream]:
        """See what is printed from now on; detaching ends nothing."""
        assert self._attached is None
        self._attached = AttachedStream(self, chunk_bytes)
        self._detached.clear()
        try:
            yield self._attached
        finally:
            self._attached = None
            self._detached.set()

    @asynccontextmanager
    async def link(
        self, *, epoch: Epoch | None = None, acked: int = 0, chunk_bytes: int = _CHUNK_BYTES
    ) -> AsyncIterator[RunnerLink]:
        """Attach and greet."""
        async with (
            self.attach(chunk_bytes=chunk_bytes) as stream,
            open_link(stream, epoch=epoch, acked=Seq(acked)) as link,
        ):
            yield link

    async def write(self, data: bytes) -> None:
        """Bytes for its stdin."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(data)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise WireClosedError from None

    async def stderr(self) -> str:
        """All of its diagnostics; call it when it has ended."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    def resident_kib(self) -> int:
        """Its VmRSS in KiB."""
        return status_kib(self.pid, "VmRSS")

    async def pump(self) -> None:
        """The engine's part: move what is printed to whoever is attached. Ends with the shim."""
        stdout = self.process.stdout
        assert stdout is not None
        while data := await stdout.read(_CHUNK_BYTES):
            await self._offer(data)
        await self._offer(b"")

    async def _offer(self, data: bytes) -> None:
        if self._attached is None:
            return
        async with asyncio.TaskGroup() as group:
            offer = group.create_task(self._attached.offer(data))
            detached = group.create_task(self._detached.wait())
            await asyncio.wait([offer, detached], return_when=asyncio.FIRST_COMPLETED)
            offer.cancel()
            detached.cancel()


@asynccontextmanager
async def open_shim(
    folder: Path,
    *,
    port: int = 0,
    egress: Path | None = None,
    command: Sequence[str] = (sys.executable, "-I", "-S", str(SHIM)),
) -> AsyncIterator[ShimProcess]:
    """Start a shim whose files are in `folder`; kill it and all that it started at the end."""
    settings = {
        "AIAGENTCHAT_FORWARD_PORT": str(port),
        "AIAGENTCHAT_EGRESS_SOCKET": str(egress or folder / "egress.sock"),
        "AIAGENTCHAT_NSS_DIR": str(folder),
    }
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **settings},
        start_new_session=True,
    )
    shim = ShimProcess(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(shim.pump(), name="engine")
        try:
            yield shim
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    # The end of its stdin makes it kill whatever it started; a SIGTERM behind it skips the grace.
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(10):
            while process.returncode is None:
                with contextlib.suppress(ProcessLookupError, TimeoutError):
                    process.terminate()
                    async with asyncio.timeout(0.1):
                        await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise


async def collect_until(
    link: RunnerLink,
    is_last: Callable[[UpEvent], bool],
    *,
    ack: bool = True,
    asides: list[str | None] | None = None,
) -> list[UpEvent]:
    """Events up to the one that is wanted, acknowledged as they come; lines that are not kept."""
    seen: list[UpEvent] = []
    asides = [] if asides is None else asides
    async with asyncio.timeout(_SILENCE_S):
        async for event in link.events():
            if isinstance(event, AsideLine):
                asides.append(event.line)
                continue
            seen.append(event)
            if is_last(event):
                # Whoever said it may have ended with it.
                with contextlib.suppress(WireClosedError):
                    await (link.ack(event.q) if ack else asyncio.sleep(0))
                break
            if ack:
                await link.ack(event.q)
    return seen


def exited(session: str) -> Callable[[UpEvent], bool]:
    """Whether this is the session's end."""
    return lambda event: isinstance(event, SessionExited) and event.session == session


def says(text: str) -> Callable[[UpEvent], bool]:
    """Whether this is exactly this line."""
    return lambda event: isinstance(event, CliLine) and event.line == text


def answers(command_id: str) -> Callable[[UpEvent], bool]:
    """Whether this answers the command."""
    return lambda event: isinstance(event, Applied | Refused) and event.command_id == command_id


def lines_of(events: Sequence[UpEvent], session: str | None = None) -> list[str]:
    """The lines among the events, of one session or of all."""
    return [
        event.line
        for event in events
        if isinstance(event, CliLine) and session in (None, event.session)
    ]


async def refusal(link: RunnerLink, command_id: str) -> str:
    """Why the command was refused."""
    event = (await collect_until(link, answers(command_id)))[-1]
    assert isinstance(event, Refused)
    return event.why


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something outside that nothing announces; fails after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- another process does it
            await asyncio.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """All living processes under one, by /proc."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] not in ("Z", "X"):
            child = int(stat.parent.name)
            found += [child, *descendants(child)]
    return found


async def start_python(
    link: RunnerLink,
    session: str,
    code: str,
    *,
    args: Sequence[str] = (),
    command_id: str = "",
    is_kept: bool = True,
) -> None:
    """Open a session whose CLI is this Python program."""
    await link.open_session(
        command_id or f"open:{session}",
        session,
        argv=[sys.executable, "-I", "-S", "-c", code, *args],
        env={},
        cwd="/",
        is_kept=is_kept,
    )


def status_kib(pid: int, key: str) -> int:
    """A line of /proc/PID/status that is in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not only waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def frame_line(**frame: object) -> bytes:
    """A frame for the shim, by hand."""
    return json.dumps(frame).encode() + b"\n"
