"""The shim in memory: the wire as docs/protocol.md has it, for a `MemoryBackend`'s main process.

What it does is what `tests/contract/test_shim_*.py` hold the real one to: ids are applied once,
frames are numbered and kept until they are acknowledged, each hello is answered by its nonce and by
what is kept. CLIs are coroutines.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from orchestrator.runners.memory_stdio import MemoryProgram, MemoryStdio

SIGTERM_CODE = 143


class CliProcess:
    """One CLI: what the coroutine that plays it sees, and what the shim does to it."""

    def __init__(self, argv: list[str], env: Mapping[str, str], say: Callable[..., None]) -> None:
        self.argv = argv
        self.env = env
        self.is_deaf = False
        """True: SIGTERM and the end of stdin don't end it."""
        self.stdin_closed = False
        self.is_reaped = False
        self._say = say
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
        self.killed_by: int | None = None

    async def read(self) -> str | None:
        """The next line of stdin, or None at its end."""
        return await self._lines.get()

    def feed(self, line: str | None) -> None:
        """What the shim writes to stdin."""
        self._lines.put_nowait(line)

    def write(self, line: str) -> None:
        """Print a line."""
        self._say(t="out", d=line)

    def cut(self, head: str, size_bytes: int) -> None:
        """Print a line that is too long."""
        self._say(t="cut", bytes=size_bytes, head=head[:4096])

    def complain(self, text: str) -> None:
        """Print to stderr."""
        self._say(t="err", d=text, dropped=0)

    def kill(self, number: int) -> None:
        """End it by a signal."""
        if self.task is not None and not self.task.done():
            self.killed_by = number
            self.task.cancel()


Cli = Callable[[CliProcess], Coroutine[Any, Any, int]]
"""Plays a CLI; returns its exit code."""


class MemoryShim:
    """One life of a shim. Invariant: a command id is applied at most once."""

    _epochs = itertools.count(1)
    knows_asides = True
    """False: as one of an earlier release."""

    def __init__(self, stdio: MemoryStdio, cli: Cli, group: asyncio.TaskGroup) -> None:
        self.epoch = f"epoch{next(self._epochs)}"
        self.applied: list[str] = []
        self.sessions: dict[str, CliProcess] = {}
        self.statuses: dict[str, dict[str, Any]] = {}
        self.is_mute = False
        """True: it no longer does what it is told, and says nothing."""
        self.refuses: set[str] = set()
        """Sessions that it does not start."""
        self.refuses_steers = False
        """Whether what is to go into a running turn comes when its input has just ended."""
        self._stdio = stdio
        self._cli = cli
        self._group = group
        self._spool: list[dict[str, Any]] = []
        self._next_q = 1
        self._expected: int | None = None
        self._out: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._attach = 0
        self._pieces = ""

    @property
    def spooled(self) -> int:
        """Frames that were not acknowledged."""
        return len(self._spool)

    async def run(self) -> None:
        """Serve until cancelled."""
        writer = self._group.create_task(self._write(), name="shim writer")
        buffer = b""
        try:
            while data := await self._stdio.read():
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if line and not self.is_mute:
                        self._take(json.loads(line))
        finally:
            writer.cancel()

    async def _write(self) -> None:
        while True:
            attach, line = await self._out.get()
            if attach == self._attach and not self.is_mute:
                await self._stdio.write(line)

    def note(self, **frame: Any) -> None:
        """Say something without a number."""
        self._out.put_nowait((self._attach, json.dumps(frame).encode() + b"\n"))

    def say(self, **frame: Any) -> None:
        """Say something that is kept until it is acknowledged."""
        frame["q"] = self._next_q
        self._next_q += 1
        self._spool.append(frame)
        self.note(**frame)

    def raw(self, text: str) -> None:
        """Break the protocol."""
        self._out.put_nowait((self._attach, text.encode() + b"\n"))

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["t"] == "hello":
            self._hello(frame)
            return
        if self._expected is None:
            return
        assert frame.pop("n") == self._expected, frame
        self._expected += 1
        kind = frame.pop("t")
        if kind == "ack":
            assert frame["q"] < self._next_q
            self._forget(frame["q"])
        elif kind == "ping":
            self.note(t="pong", token=frame["token"])
        elif kind == "input" and frame.get("more"):
            self._pieces += frame["line"]
        elif frame["id"] in self.applied:
            self.say(t="applied", id=frame["id"], dup=True)
        else:
            self._command(kind, frame)

    def _hello(self, frame: dict[str, Any]) -> None:
        self._expected = 1
        self._pieces = ""
        self._attach += 1
        if frame["epoch"] == self.epoch:
            self._forget(frame["ack"])
        first = self._spool[0]["q"] if self._spool else self._next_q
        self.note(
            t="welcome",
            v=1,
            nonce=frame["nonce"],
            epoch=self.epoch,
            first=first,
            next=self._next_q,
            sessions=self.statuses,
        )
        for kept in self._spool:
            self.note(**kept)

    def _forget(self, q: int) -> None:
        self._spool = [frame for frame in self._spool if frame["q"] > q]

    def _command(self, kind: str, frame: dict[str, Any]) -> None:
        why = self._why_not(kind, frame)
        if kind == "input":
            frame["line"], self._pieces = self._pieces + frame["line"], ""
        if why is not None:
            self.say(t="refused", id=frame["id"], why=why)
            return
        self.applied.append(frame["id"])
        process = self.sessions.get(frame["s"])
        if kind == "input" and process is not None:
            process.feed(frame["line"])
        self.say(t="applied", id=frame["id"], dup=False)
        if kind == "open":
            self._open(frame["s"], frame["argv"], frame["env"], frame.get("kept", True))
        elif kind == "close" and process is not None:
            process.stdin_closed = True
            process.feed(None)
        elif kind == "signal" and process is not None:
            self._signal(process, frame["how"])

    def _why_not(self, kind: str, frame: dict[str, Any]) -> str | None:
        process = self.sessions.get(frame["s"])
        if kind == "open" and frame["s"] in self.refuses:
            return "no memory for it"
        if kind == "open":
            return None if process is None or process.is_reaped else "the session is running"
        if process is None:
            return "the session takes no input" if kind == "input" else "there is no such session"
        if kind == "input" and self.refuses_steers and ":steer:" in frame["id"]:
            return "the session takes no input"
        if kind == "input" and (process.is_reaped or process.stdin_closed):
            return "the session takes no input"
        if kind == "signal" and frame["how"] != "kill" and process.is_reaped:
            return "the session has ended"
        return None

    def _signal(self, process: CliProcess, how: str) -> None:
        if how == "kill":
            process.kill(9)
        elif not process.is_deaf:
            process.kill(15)

    def _open(self, session: str, argv: list[str], env: dict[str, str], is_kept: bool) -> None:
        def say(**frame: Any) -> None:
            if frame["t"] == "out" and not is_kept and self.knows_asides:
                self.note(s=session, **{**frame, "t": "aside"})
            else:
                self.say(s=session, **frame)

        process = self.sessions[session] = CliProcess(argv, env, say)
        self.statuses.pop(session, None)
        self.statuses[session] = {"state": "running", "pid": 7, "code": None, "signal": None}
        say(t="started", pid=7)
        process.task = self._group.create_task(self._serve(session, process), name=session)

    async def _serve(self, session: str, process: CliProcess) -> None:
        code: int | None = None
        number: int | None = None
        try:
            code = await self._cli(process)
        except asyncio.CancelledError:
            if process.killed_by is None:
                raise
            number = process.killed_by if process.killed_by == 9 else None
            code = None if number else SIGTERM_CODE
        process.is_reaped = True
        self.statuses[session] = {"state": "exited", "pid": 7, "code": code, "signal": number}
        self.say(t="exited", s=session, code=code, signal=number)


def shim_program(cli: Cli, lives: list[MemoryShim]) -> MemoryProgram:
    """A container's main process; each life is appended to `lives`."""

    async def program(stdio: MemoryStdio) -> int:
        async with asyncio.TaskGroup() as group:
            shim = MemoryShim(stdio, cli, group)
            lives.append(shim)
            serving = group.create_task(shim.run(), name="shim")
            await stdio.terminated.wait()
            serving.cancel()
            for process in shim.sessions.values():
                process.kill(9)
        return 0

    return program
