"""One attach to a runner's shim, from hello to the end of the stream.

Rules: one reader task, one writer lock. When the reader fails, everything that waits on the link
fails at once, after the events that came before. A consumer that stops taking events stops the
reading (and with it, in the end, the CLI); nothing gathers without bound, and a room that says more
than a CLI does is read at a pace, so that the others are served.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

from orchestrator.core.pace import Pace
from orchestrator.errors import WireClosedError, WireError, WireProtocolError
from orchestrator.model import Epoch, JsonValue, Seq
from orchestrator.ports import ByteStream
from orchestrator.runners import wire
from orchestrator.runners.event import (
    Applied,
    AsideLine,
    AsidePieces,
    CliLine,
    CliStderr,
    LineCut,
    LinkEvent,
    Reassembler,
    Refused,
    SessionExited,
    SessionStarted,
    UpEvent,
)
from orchestrator.runners.wire import SessionStatus, Welcome

__all__ = [
    "Applied",
    "AsideLine",
    "CliLine",
    "CliStderr",
    "LineCut",
    "LinkEvent",
    "Refused",
    "RunnerLink",
    "SessionExited",
    "SessionStarted",
    "SessionStatus",
    "UpEvent",
    "Welcome",
    "open_link",
]

HELLO_TIMEOUT_S: Final = 10.0
"""A shim answers within milliseconds; a container that has just started needs up to a second."""
WRITE_TIMEOUT_S: Final = 30.0
"""The shim always reads: a write that waits this long waits on a dead engine."""
# Before the welcome: what the shim was in the middle of saying. It can't be more than a full spool
# (8 MiB, and one line of 4 MiB that passes it, six bytes a character at worst).
_MAX_SKIPPED_BYTES: Final = 40 * 1024 * 1024
# Read and not yet taken by the consumer; one more event may pass it. Enough to never idle.
_MAX_BUFFERED_CHARS: Final = 1024 * 1024
_EVENT_COST_CHARS: Final = 200
# What a room may cost the event loop that all rooms share, in frames or KiB, whichever is more.
# Each takes about 0.1 ms from here to the room. A CLI says up to 100 a second, several subagents as
# many each; a replay after a restart is one spool, 8 MiB.
_COST_PER_S: Final = 1000.0
_COST_BURST: Final = 20_000.0
_COST_BYTES: Final = 1024
# A welcome names its type within these bytes: the shim writes it first.
_PREFIX: Final = 32


@asynccontextmanager
async def open_link(
    stream: ByteStream, *, epoch: Epoch | None, acked: Seq
) -> AsyncIterator[RunnerLink]:
    """Greet the shim behind `stream`; frames after `acked` of `epoch` are replayed to `events`.

    Ends nothing in the runner. The stream is the caller's to close, and of no use afterwards.

    Args:
        stream: a fresh attach.
        epoch: the shim's life that `acked` belongs to, or None when nothing is known.
        acked: the last frame whose effects are stored; 0 for none.

    Raises:
        WireClosedError: no welcome within 10 s, or the stream ended.
        WireVersionError: the shim speaks another version.
        WireProtocolError: the shim contradicts what is stored of its epoch.
    """
    splitter = wire.LineSplitter()
    welcome, rest = await _greet(stream, splitter, epoch=epoch, acked=acked)
    expected = wire.first_expected(welcome, epoch=epoch, acked=acked)
    link = RunnerLink(stream, welcome, expected=expected, is_new_epoch=welcome.epoch != epoch)
    body_error: Exception | None = None
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(link.read(splitter, rest), name="wire-reader")
        try:
            yield link
        except Exception as error:  # noqa: BLE001 -- raised again below: the group would wrap it
            body_error = error
        finally:
            reader.cancel()
    if body_error is not None:
        raise body_error


class RunnerLink:
    """A greeted attach. Use it inside `open_link` only.

    Every method raises WireClosedError or WireProtocolError once the link has failed. Commands
    carry an id of the caller's: the shim applies an id once in an epoch, so offering it again is
    harmless. A returned command was written, not applied: `Applied` or `Refused` says so among the
    events.
    """

    def __init__(
        self, stream: ByteStream, welcome: Welcome, *, expected: Seq, is_new_epoch: bool
    ) -> None:
        self.welcome = welcome
        self.is_new_epoch = is_new_epoch
        """True: not the epoch that was given; its frames are replayed from `welcome.first`."""
        self._stream = stream
        self._reassembler = Reassembler(expected)
        self._aside = AsidePieces()
        self._is_reading = False
        self._buffer = _EventBuffer()
        self._write_lock = asyncio.Lock()
        self._next_n = 1
        self._is_torn = False
        self._failure: WireError | None = None
        self._pongs: dict[str, asyncio.Future[None]] = {}
        self._acked = Seq(expected - 1)
        self._unacked: deque[tuple[int, int]] = deque()
        self._unacked_bytes = 0
        self._pace = Pace(rate=_COST_PER_S, burst=_COST_BURST)

    def __repr__(self) -> str:
        return (
            f"RunnerLink(epoch={self.welcome.epoch[:8]}, expected={self._reassembler.expected}, "
            f"acked={self._acked}, failure={self._failure!r})"
        )

    @property
    def epoch(self) -> Epoch:
        """This life of the shim."""
        return self.welcome.epoch

    @property
    def unacked_bytes(self) -> int:
        """What the shim's spool holds of frames that were received and not acknowledged.

        At wire.SPOOL_BYTES the shim stops reading the CLIs, and nothing more comes: acknowledge
        well before that (at a quarter, say), however few frames it is.
        """
        return self._unacked_bytes

    @property
    def is_listening(self) -> bool:
        """Whether all that the runner said was taken, and more is waited for.

        Only then its silence is its own.
        """
        return self._is_reading and self._buffer.is_awaited

    async def events(self) -> AsyncIterator[LinkEvent]:
        """What the shim says, in order, without gap or repeat. One consumer; never ends by itself.

        Cancel-safe: an event is taken only when it is returned.

        Raises:
            WireClosedError: the stream ended, or another client took over.
            WireProtocolError: the shim broke the protocol.
        """
        while True:
            yield await self._buffer.take()

    async def ack(self, seq: Seq) -> None:
        """Say that everything up to `seq` is stored; the shim forgets it. Repeats cost nothing."""
        if seq >= self._reassembler.expected:
            msg = f"frame {seq} was not received, so it can't be acknowledged"
            raise ValueError(msg)
        if seq > self._acked:
            self._acked = seq
            while self._unacked and self._unacked[0][0] <= seq:
                self._unacked_bytes -= self._unacked.popleft()[1]
            await self._send({"t": "ack", "q": seq})

    async def open_session(
        self,
        command_id: str,
        session: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        is_kept: bool = True,
    ) -> None:
        """Start a session's process; `env` goes over the image's environment.

        What a session prints that is not kept comes as `AsideLine`, once; from a shim of an earlier
        release, which keeps everything, as `CliLine`.

        Raises:
            RunnerError: arguments and environment together are over the limit of a frame.
        """
        frame = _command("open", command_id, session)
        kept: dict[str, JsonValue] = {} if is_kept else {"kept": False}
        await self._send({**frame, "argv": list(argv), "env": dict(env), "cwd": cwd, **kept})

    async def send_line(self, command_id: str, session: str, line: str) -> None:
        """Queue one line (without its end) for the session's stdin.

        Raises:
            RunnerError: the line is over wire.MAX_INPUT_LINE_BYTES.
        """
        frame = _command("input", command_id, session)
        *pieces, last = wire.split_input(line)
        frames = [{**frame, "line": piece, "more": True} for piece in pieces]
        await self._send(*frames, {**frame, "line": last})

    async def signal_session(
        self, command_id: str, session: str, how: Literal["interrupt", "terminate", "kill"]
    ) -> None:
        """Interrupt the process, terminate its group, or kill everything that it ever started."""
        await self._send({**_command("signal", command_id, session), "how": how})

    async def close_session(self, command_id: str, session: str) -> None:
        """Close the session's stdin, after what is queued for it."""
        await self._send(_command("close", command_id, session))

    async def ping(self, *, timeout_s: float = 10) -> float:
        """Seconds until the shim's loop answered.

        The answer stands behind what was sent before it, so a consumer that takes no events for
        `timeout_s` makes this fail, too.

        Raises:
            WireClosedError: no answer within `timeout_s`.
        """
        token = secrets.token_hex(8)
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs[token] = pong
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await self._send({"t": "ping", "token": token})
                await pong
        except TimeoutError:
            msg = f"the runner did not answer a ping within {timeout_s:g} s"
            raise WireClosedError(msg) from None
        finally:
            del self._pongs[token]
        return time.monotonic() - started

    async def read(self, splitter: wire.LineSplitter, rest: Sequence[bytes | None]) -> None:
        """The reader task: ends by failing the link. `rest` came together with the welcome."""
        try:
            await self._take_lines(rest)
            while data := await self._read():
                await self._take_lines(splitter.feed(data))
            msg = "the stream to the runner ended"
            raise WireClosedError(msg)
        except WireError as error:
            self._fail(error)

    async def _read(self) -> bytes:
        self._is_reading = True
        try:
            return await self._stream.read()
        finally:
            self._is_reading = False

    async def _take_lines(self, lines: Sequence[bytes | None]) -> None:
        for line in lines:
            if line is not None and b'"t":"welcome"' in line[:_PREFIX] and wire.is_welcome(line):
                msg = "another client has attached to the runner"
                raise WireClosedError(msg)
            frame = wire.parse_frame(line)
            await self._take(frame, size_bytes=len(line or b""))
            await self._wait_for_pace(len(line or b""))

    async def _wait_for_pace(self, size_bytes: int) -> None:
        """Let a room that says very much wait, and with it, once its spool is full, its CLIs."""
        cost = max(1.0, size_bytes / _COST_BYTES)
        delay = self._pace.spend(cost, now=asyncio.get_running_loop().time())
        if delay > 0:
            await asyncio.sleep(delay)

    async def _take(self, frame: wire.UpFrame, *, size_bytes: int) -> None:
        if isinstance(frame, wire.PongFrame):
            pong = self._pongs.get(frame.token)
            if pong is not None and not pong.done():
                pong.set_result(None)
        elif isinstance(frame, wire.FaultFrame):
            # Bytes of an earlier attach came between ours: a new attach settles it.
            msg = f"the runner ended this attach: {frame.why}"
            raise WireClosedError(msg)
        elif isinstance(frame, wire.AsideFrame):
            line = self._aside.accept(frame)
            if line is not None:
                await self._buffer.put(line)
        else:
            event = self._reassembler.accept(frame)
            self._unacked.append((frame.q, size_bytes + wire.FRAME_OVERHEAD_BYTES))
            self._unacked_bytes += self._unacked[-1][1]
            if event is not None:
                await self._buffer.put(event)

    def _fail(self, error: WireError) -> None:
        self._failure = error
        self._buffer.fail(error)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(error)

    async def _send(self, *frames: Mapping[str, JsonValue]) -> None:
        async with self._write_lock:
            if self._failure is not None:
                raise self._failure
            if self._is_torn:
                msg = "an earlier write to the runner was cut short"
                raise WireClosedError(msg)
            lines = [
                wire.render_frame({"n": n, **frame})
                for n, frame in enumerate(frames, start=self._next_n)
            ]
            self._next_n += len(lines)
            self._is_torn = True
            for line in lines:
                await _write(self._stream, line)
            self._is_torn = False


class _EventBuffer:
    """Invariant: at most _MAX_BUFFERED_CHARS and one event wait here; nothing follows a failure."""

    def __init__(self) -> None:
        self._events: deque[tuple[LinkEvent, int]] = deque()
        self.is_awaited = False
        """Whether it is empty, and somebody waits for the next."""
        self._chars = 0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._failure: WireError | None = None

    async def put(self, event: LinkEvent) -> None:
        """Append, waiting for room."""
        while self._chars >= _MAX_BUFFERED_CHARS:
            self._has_room.clear()
            await self._has_room.wait()
        size = _size_chars(event)
        self._events.append((event, size))
        self._chars += size
        self._changed.set()

    async def take(self) -> LinkEvent:
        """Take the oldest, waiting for one; raises the failure behind the last."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            self.is_awaited = True
            try:
                await self._changed.wait()
            finally:
                self.is_awaited = False
        event, size = self._events.popleft()
        self._chars -= size
        self._has_room.set()
        return event

    def fail(self, error: WireError) -> None:
        """Nothing comes any more."""
        self._failure = error
        self._changed.set()


def _size_chars(event: LinkEvent) -> int:
    match event:
        case AsideLine():
            return _EVENT_COST_CHARS + len(event.line or "")
        case CliLine():
            return _EVENT_COST_CHARS + len(event.line)
        case CliStderr():
            return _EVENT_COST_CHARS + len(event.text)
        case _:
            return _EVENT_COST_CHARS


def _command(kind: str, command_id: str, session: str) -> dict[str, JsonValue]:
    wire.check_command_id(command_id)
    wire.check_name(session)
    return {"t": kind, "id": command_id, "s": session}


async def _greet(
    stream: ByteStream, splitter: wire.LineSplitter, *, epoch: Epoch | None, acked: Seq
) -> tuple[Welcome, list[bytes | None]]:
    """Say hello; the welcome, and the lines that came with it."""
    nonce = secrets.token_hex(16)
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            await stream.write(wire.render_hello(nonce, epoch=epoch, acked=acked))
            return await _find_welcome(stream, splitter, nonce)
    except TimeoutError:
        msg = f"the runner did not answer our hello within {HELLO_TIMEOUT_S:g} s"
        raise WireClosedError(msg) from None


async def _find_welcome(
    stream: ByteStream, splitter: wire.LineSplitter, nonce: str
) -> tuple[Welcome, list[bytes | None]]:
    skipped_bytes = 0
    while data := await stream.read():
        lines = splitter.feed(data)
        for index, line in enumerate(lines):
            welcome = wire.parse_welcome(line, nonce)
            if welcome is not None:
                return welcome, lines[index + 1 :]
        skipped_bytes += len(data)
        if skipped_bytes > _MAX_SKIPPED_BYTES:
            msg = "the runner says everything but welcome"
            raise WireProtocolError(msg)
    msg = "the stream to the runner ended before its welcome"
    raise WireClosedError(msg)


async def _write(stream: ByteStream, data: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await stream.write(data)
    except TimeoutError:
        msg = f"the runner took nothing for {WRITE_TIMEOUT_S:g} s"
        raise WireClosedError(msg) from None
