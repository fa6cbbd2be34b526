"""One attach to one runner, as a task that fills mailboxes: one a turn, and the room's own.

Nobody reads the stream itself: who listens takes items from a mailbox, so that a wait with a
deadline can be given up without losing a frame.

Rule: the runner is told that a frame needs no replay once no line needs it; where no line is open,
once whoever takes in the rest says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from orchestrator.errors import AiAgentChatError, RunnerError, WireClosedError, first_error
from orchestrator.model import Epoch, Seq
from orchestrator.ports import RunnerBackend
from orchestrator.rooms.line import MAILBOX_FRAMES, Line
from orchestrator.rooms.line import Item as Item
from orchestrator.rooms.line import LinkLost as LinkLost
from orchestrator.runners import file_client
from orchestrator.runners.event import AsideLine, CliLine, SessionExited, SessionStarted, UpEvent
from orchestrator.runners.file_client import FileClient
from orchestrator.runners.link import RunnerLink, open_link

CLONE = "clone"
SIDE_SESSIONS = frozenset({file_client.SESSION, CLONE})
"""Programs of ours in the runner that are no conversation's."""


class Connection:
    """Runs one attach. Invariant: after a LinkLost no item follows."""

    def __init__(
        self,
        backend: RunnerBackend,
        name: str,
        *,
        epoch: Epoch | None,
        acked: Seq,
        followed: Collection[str] = (),
    ) -> None:
        """`followed`: sessions in which turns run, whose followers come a moment later."""
        self._backend = backend
        self._name = name
        self._epoch = epoch
        self._acked = acked
        self._mailbox: asyncio.Queue[Item] = asyncio.Queue(MAILBOX_FRAMES)
        self._reserved = [Line(session, start=acked) for session in followed]
        self._lines: list[Line] = list(self._reserved)
        self._at = acked
        self._ready: asyncio.Future[RunnerLink] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._wait: asyncio.Timeout | None = None
        self.lost = False
        self._lost_by: AiAgentChatError | None = None
        self.live_sessions: set[str] = set()
        self.known_sessions: set[str] = set()
        """The live ones, and those that have ended: what they left behind can still be killed."""
        self.side_sessions: set[str] = set()
        """Those of SIDE_SESSIONS that were started; the sets above are of conversations alone."""
        self.live_side_sessions: set[str] = set()
        self.files: FileClient | None = None
        """The room's files, once the runner has answered."""
        self.listeners: set[Callable[[Item], None]] = set()
        """Told of each item before it goes into the mailbox; they must not block."""

    def __repr__(self) -> str:
        state = "lost" if self.lost else "open" if self._ready.done() else "opening"
        return f"<Connection {self._name} {state} waiting={self._mailbox.qsize()}>"

    async def run(self) -> None:
        """Attach, and move frames into the mailbox until the stream or `close` ends it."""
        try:
            async with (
                self._backend.attach(self._name) as stream,
                open_link(stream, epoch=self._epoch, acked=self._acked) as link,
                asyncio.TaskGroup() as group,
            ):
                running = {s for s, at in link.welcome.sessions.items() if at.state == "running"}
                self.known_sessions = set(link.welcome.sessions) - SIDE_SESSIONS
                self.side_sessions = set(link.welcome.sessions) & SIDE_SESSIONS
                self.live_sessions = running - SIDE_SESSIONS
                self.live_side_sessions = running & SIDE_SESSIONS
                self.files = FileClient(link, is_live=file_client.SESSION in running)
                self._at = Seq(link.welcome.first - 1)
                for line in self._lines:
                    line.acked = self._at
                pump = group.create_task(self._pump(link), name=f"pump {self._name}")
                self._ready.set_result(link)
                await self._closing.wait()
                pump.cancel()
        except* AiAgentChatError as errors:
            self._fail(first_error(errors))
        else:
            self._fail(WireClosedError())

    async def _pump(self, link: RunnerLink) -> None:
        try:
            async for event in link.events():
                if not isinstance(event, AsideLine):
                    self._note(event)
                    await self._deliver(event)
                elif self.files is not None:
                    self.files.hear_aside(event)
        except AiAgentChatError as e:
            self._fail(e)
            await self._mailbox.put(LinkLost(e))
            self._closing.set()

    def _note(self, event: UpEvent) -> None:
        match event:
            case SessionStarted() if event.session in SIDE_SESSIONS:
                self.side_sessions.add(event.session)
                self.live_side_sessions.add(event.session)
            case SessionStarted():
                self.live_sessions.add(event.session)
                self.known_sessions.add(event.session)
            case SessionExited():
                self.live_sessions.discard(event.session)
                self.live_side_sessions.discard(event.session)
        for listener in tuple(self.listeners):
            listener(event)

    async def _deliver(self, event: UpEvent) -> None:
        """To the lines that it is for; what is for none goes into the room's own mailbox."""
        is_claimed, heard = False, self._heard(event)
        for line in list(self._lines):
            if line.is_for(event):
                is_claimed = True
                await line.put(event)
            else:
                line.pass_over(event.q)
        if not is_claimed:
            await self._mailbox.put(heard)
        self._at = event.q

    def _heard(self, event: UpEvent) -> UpEvent:
        """What the worker need only acknowledge is not kept for it."""
        is_of_files = self.files is not None and self.files.hear(event)
        return replace(event, line="") if is_of_files and isinstance(event, CliLine) else event

    def _fail(self, error: AiAgentChatError) -> None:
        if not self.lost:
            for line in self._lines:
                line.put_now(LinkLost(error))
        self.lost, self._lost_by = True, self._lost_by or error
        if self.files is not None:
            self.files.lose(error if isinstance(error, RunnerError) else WireClosedError())
        for listener in tuple(self.listeners):
            listener(LinkLost(error))
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()

    @property
    def unacked_bytes(self) -> int:
        """What the runner keeps for a replay."""
        is_open = self._ready.done() and self._ready.exception() is None
        return self._ready.result().unacked_bytes if is_open else 0

    async def ready(self) -> RunnerLink:
        """The link, once the runner has answered.

        Raises:
            RunnerError: what the attach or the greeting failed with.
        """
        return await asyncio.shield(self._ready)

    # Lines...

    @property
    def claimed_sessions(self) -> frozenset[str]:
        """Those that somebody follows a turn in."""
        return frozenset(line.session for line in self._lines)

    def open_line(self, session: str) -> Line:
        """Bring what is the session's to one listener, from here on and with what waits.

        A session that was to be followed from the beginning has its line already.
        """
        for line in self._reserved:
            if line.session == session:
                self._reserved.remove(line)
                return line
        waiting = [self._mailbox.get_nowait() for _ in range(self._mailbox.qsize())]
        own: list[UpEvent] = []
        line = Line(session, start=self._at)
        for item in waiting:
            if not isinstance(item, LinkLost) and line.is_for(item):
                own.append(item)
            else:
                self._mailbox.put_nowait(item)
        if own:
            line.acked = Seq(own[0].q - 1)
        for event in own:
            line.put_now(event)
        if self.lost:
            line.put_now(LinkLost(self._lost_by or WireClosedError()))
        self._lines.append(line)
        return line

    def release(self, session: str) -> None:
        """Nobody will follow a session that has its line already. Idempotent."""
        for line in [one for one in self._reserved if one.session == session]:
            self._reserved.remove(line)
            self.close_line(line)

    def close_line(self, line: Line) -> None:
        """Its listener has all that it needs. Idempotent."""
        line.close()
        if line in self._lines:
            self._lines.remove(line)

    async def acknowledge(self, line: Line, seq: Seq) -> None:
        """Its listener needs no replay up to this frame; the runner is told what no line needs.

        Raises:
            RunnerError: the connection is lost.
        """
        line.acked = max(line.acked, seq)
        link = await self.ready()
        done = min(other.acked for other in (line, *self._lines))
        await link.ack(done)

    def close(self) -> None:
        """Detach soon; the runner goes on. Who waits for an item is woken."""
        self._closing.set()
        self.nudge()

    async def receive(self, deadline: float | None) -> Item | None:
        """The next item, or None at the deadline (loop time) or after a `nudge`. Cancel-safe."""
        try:
            async with asyncio.timeout_at(deadline) as self._wait:
                return await self._mailbox.get()
        except TimeoutError:
            return None
        finally:
            self._wait = None

    @property
    def is_empty(self) -> bool:
        """Whether no item waits."""
        return self._mailbox.empty()

    def nudge(self) -> None:
        """Make a `receive` that is waiting return None now, here and at every line."""
        for line in self._lines:
            line.nudge()
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())
