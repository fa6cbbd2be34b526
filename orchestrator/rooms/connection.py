"""One attach to one runner, as a task that fills a mailbox.

The worker never reads the stream itself: it takes items from the mailbox, so that a wait with a
deadline can be given up without losing a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.errors import AiAgentChatError, RunnerError, WireClosedError, first_error
from orchestrator.model import Epoch, Seq
from orchestrator.ports import RunnerBackend
from orchestrator.runners import file_client
from orchestrator.runners.event import CliLine, SessionExited, SessionStarted, UpEvent
from orchestrator.runners.file_client import FileClient
from orchestrator.runners.link import RunnerLink, open_link

CLONE = "clone"
SIDE_SESSIONS = frozenset({file_client.SESSION, CLONE})
"""Programs of ours in the runner that are no conversation's."""
# Frames that the worker has not looked at; behind it, reading from the runner stops.
_MAILBOX_FRAMES = 256


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The connection ended; nothing more comes from it."""

    error: AiAgentChatError


Item = UpEvent | LinkLost


class Connection:
    """Runs one attach. Invariant: after a LinkLost no item follows."""

    def __init__(
        self, backend: RunnerBackend, name: str, *, epoch: Epoch | None, acked: Seq
    ) -> None:
        self._backend = backend
        self._name = name
        self._epoch = epoch
        self._acked = acked
        self._mailbox: asyncio.Queue[Item] = asyncio.Queue(_MAILBOX_FRAMES)
        self._ready: asyncio.Future[RunnerLink] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._wait: asyncio.Timeout | None = None
        self.lost = False
        self.live_sessions: set[str] = set()
        self.known_sessions: set[str] = set()
        """The live ones, and those that have ended: what they left behind can still be killed."""
        self.side_sessions: set[str] = set()
        """Those of SIDE_SESSIONS that were started; the sets above are of conversations alone."""
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
                self.files = FileClient(link, is_live=file_client.SESSION in running)
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
                self._note(event)
                await self._mailbox.put(self._heard(event))
        except AiAgentChatError as e:
            self._fail(e)
            await self._mailbox.put(LinkLost(e))
            self._closing.set()

    def _note(self, event: UpEvent) -> None:
        match event:
            case SessionStarted() if event.session in SIDE_SESSIONS:
                self.side_sessions.add(event.session)
            case SessionStarted():
                self.live_sessions.add(event.session)
                self.known_sessions.add(event.session)
            case SessionExited():
                self.live_sessions.discard(event.session)
        for listener in tuple(self.listeners):
            listener(event)

    def _heard(self, event: UpEvent) -> UpEvent:
        """What the worker need only acknowledge is not kept for it."""
        is_of_files = self.files is not None and self.files.hear(event)
        return replace(event, line="") if is_of_files and isinstance(event, CliLine) else event

    def _fail(self, error: AiAgentChatError) -> None:
        self.lost = True
        if self.files is not None:
            self.files.lose(error if isinstance(error, RunnerError) else WireClosedError())
        for listener in tuple(self.listeners):
            listener(LinkLost(error))
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()

    async def ready(self) -> RunnerLink:
        """The link, once the runner has answered.

        Raises:
            RunnerError: what the attach or the greeting failed with.
        """
        return await asyncio.shield(self._ready)

    def close(self) -> None:
        """Detach soon; the runner goes on."""
        self._closing.set()

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
        """Make a `receive` that is waiting return None now."""
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())
