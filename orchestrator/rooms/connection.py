"""One attach to one runner, as a task that fills a mailbox.

The worker never reads the stream itself: it takes items from the mailbox, so that a wait with a
deadline can be given up without losing a frame.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchestrator.errors import AiAgentChatError, WireClosedError, first_error
from orchestrator.model import Epoch, Seq
from orchestrator.ports import RunnerBackend
from orchestrator.runners.event import SessionExited, SessionStarted, UpEvent
from orchestrator.runners.link import RunnerLink, open_link

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
                self.known_sessions = set(link.welcome.sessions)
                self.live_sessions = {
                    s for s, at in link.welcome.sessions.items() if at.state == "running"
                }
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
                match event:
                    case SessionStarted():
                        self.live_sessions.add(event.session)
                        self.known_sessions.add(event.session)
                    case SessionExited():
                        self.live_sessions.discard(event.session)
                await self._mailbox.put(event)
        except AiAgentChatError as e:
            self.lost = True
            await self._mailbox.put(LinkLost(e))
            self._closing.set()

    def _fail(self, error: AiAgentChatError) -> None:
        self.lost = True
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
