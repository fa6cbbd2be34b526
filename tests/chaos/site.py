"""One installation under test: an orchestrator that is killed, a person, rooms, a model.

The person is one client that lives on while the orchestrator dies; what it waits for may come from
any life of it.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.embedded.messages_api import open_messages_api
from orchestrator.faultpoint import FAULT, TRACE
from tests.chaos.judge import (
    Json,
    Sent,
    Verdict,
    judge,
    mark_of,
    read_ledger,
    read_pending,
    replied_to,
)
from tests.chaos.model import ChaosModel
from tests.support.audit import audit_messages
from tests.support.matrix_user import MatrixUser, open_matrix_user
from tests.support.orchestrator import Orchestrator, open_orchestrator, write_config
from tests.support.synapse import SynapseServer

# Turns wait for each other, for CLIs that are started, and for a busy machine; a failure takes this
# long, a success never does.
PATIENCE_S = 120.0
_POLL_S = 0.05


class Site:
    """Invariant: `sent` has every message that the person sent to the agent."""

    def __init__(
        self, orchestrator: Orchestrator, person: MatrixUser, agent: str, model: ChaosModel
    ) -> None:
        self.orchestrator = orchestrator
        self.person = person
        self.agent = agent
        self.model = model
        self.sent: list[Sent] = []
        self.refused: set[str] = set()
        self.rooms: list[str] = []
        self._config = orchestrator.state_dir.parent / "config.yaml"
        self._trace = orchestrator.state_dir.parent / "trace"
        self._syncing = asyncio.Lock()
        self._ids = itertools.count(1)
        self._ended: set[str] = set()

    def __repr__(self) -> str:
        return f"<Site {self.agent} rooms={len(self.rooms)} sent={len(self.sent)}>"

    # The person...

    def new_id(self) -> str:
        """An id that no other message of this site has."""
        return f"m{next(self._ids)}"

    async def send(self, room: str, text: str) -> Sent:
        """Send a message or a command."""
        event_id = await self.person.send(room, text)
        message = Sent(event_id=event_id, room_id=room, text=text)
        self.sent.append(message)
        return message

    async def ask(self, room: str, kind: str) -> Sent:
        """Send a prompt of this kind with an id of its own."""
        return await self.send(room, f"{self.new_id()} {kind}")

    async def new_room(self) -> str:
        """A room with an invitation for the agent, who need not be there yet."""
        room = await self.person.create_room(self.agent)
        self.rooms.append(room)
        return room

    async def until_joined(self, room: str) -> None:
        """Wait for the agent in the room."""

        def has_joined(event: Json) -> bool:
            is_join = event["content"].get("membership") == "join"
            return event.get("state_key") == self.agent and is_join

        await self.until(
            lambda: any(e["room_id"] == room and has_joined(e) for e in self.person.timeline)
        )

    async def until_answered(self, *messages: Sent, timeout_s: float = PATIENCE_S) -> None:
        """Wait until each has its end, whatever that is."""
        await self.until(lambda: all(map(self.is_answered, messages)), timeout_s=timeout_s)

    def is_answered(self, message: Sent) -> bool:
        """Whether the person has seen the end of what the message began."""
        return message.event_id in self._ended

    def answers(self, message: Sent) -> list[Json]:
        """All that the person has seen of the turn that a message is part of."""
        return [e for e in self.person.timeline if message.event_id in mark_of(e).get("asked", ())]

    async def until(self, is_met: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> None:
        """Sync until it is met; many may wait, one syncs.

        Raises:
            TimeoutError: it was not in time.
        """
        async with asyncio.timeout(timeout_s):
            while not is_met():
                async with self._syncing:
                    if not is_met():
                        self._note(await self.person.sync())

    def _note(self, events: Iterable[Json]) -> None:
        for event in events:
            if event["sender"] == self.agent:
                mark = mark_of(event)
                self._ended.update(mark["asked"] if mark.get("final") else ())
                self._ended.add(replied_to(event) or "")

    # The orchestrator...

    async def spawn(self, fault: str | None = None) -> None:
        """Start it, armed or not, and don't wait for anything."""
        self._trace.unlink(missing_ok=True)
        armed = {FAULT: fault} if fault else {}
        await self.orchestrator.spawn({TRACE: str(self._trace), **armed})

    def trace(self) -> list[tuple[float, str]]:
        """The places that this life has reached, with their monotonic time."""
        text = self._trace.read_text() if self._trace.exists() else ""
        lines = (line.split(" ", 1) for line in text.splitlines())
        return [(float(at), name) for at, name in lines]

    async def until_settled(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the database has nothing more to do.

        Raises:
            TimeoutError: it still has.
        """
        async with asyncio.timeout(timeout_s):
            while any(read_pending(self.orchestrator.state_dir).values()):  # noqa: ASYNC110 - a file
                await asyncio.sleep(_POLL_S)

    # The verdict...

    async def verdict(self) -> Verdict:
        """What became of all that was sent."""
        events = {room: await read_history(self.person, room) for room in self.rooms}
        return judge(
            self.sent,
            events,
            agent=self.agent,
            model=self.model,
            ledger=read_ledger(self.orchestrator.state_dir),
            refused=self.refused,
        )

    async def audit(self) -> list[str]:
        """What `orchestrator audit messages` finds amiss, beside what no room could be shown."""
        options = ("--config", str(self._config), "--settled")
        audit = await audit_messages(self.orchestrator.state_dir, *options)
        assert audit.code in {0, 1}, audit.err
        found = [f for f in audit.report["findings"] if f["event_id"] not in self.refused]
        in_hand = audit.report["in_hand"]
        return [*map(str, found), *([f"{in_hand} in hand"] if in_hand else [])]


def died_of_kill(code: int | None) -> bool:
    """Whether a process ended as one that was killed."""
    return code == -signal.SIGKILL


async def read_history(person: MatrixUser, room: str) -> list[Json]:
    """All events of a room as the homeserver has them, oldest first."""
    pages: list[Json] = []
    place = ""
    while True:
        answer = await person.messages_page(room, place)
        pages += answer["chunk"]
        place = answer.get("end", "")
        if not place or not answer["chunk"]:
            return list(reversed(pages))


@asynccontextmanager
async def open_site(directory: Path, server: SynapseServer, **sections: Any) -> AsyncIterator[Site]:
    """An installation below `directory`, configured and not started; short windows."""
    agent = await asyncio.to_thread(server.register, f"claude-{secrets.token_hex(4)}")
    account = await asyncio.to_thread(server.register, f"alice-{secrets.token_hex(4)}")
    model = ChaosModel()
    directory.mkdir(parents=True, exist_ok=True)
    async with open_messages_api(model) as upstream:
        config = write_config(
            directory / "config.yaml",
            homeserver=server.base_url,
            user_id=agent.user_id,
            upstream=upstream,
            defaults={"permissions": "bypass"},
            # Text is shown while a turn still runs, so that it can be lost or doubled.
            gateway={"outbound_window_s": 0.1, "max_answer_messages": 2},
            **sections,
        )
        arguments = ("--config", str(config))
        environment = {"MATRIX_PASSWORD": agent.password}
        async with (
            open_orchestrator(directory, *arguments, env=environment) as orchestrator,
            open_matrix_user(server.base_url, account) as person,
        ):
            yield Site(orchestrator, person, agent.user_id, model)
