"""A person in rooms of a running installation, and where the time of each turn went."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel

from orchestrator.embedded.messages_api import open_messages_api
from orchestrator.embedded.messages_model import MessagesRequest, Reply
from orchestrator.rooms.outgoing import TURN_KEY
from tests.support.matrix_user import Json, MatrixUser, open_matrix_user
from tests.support.messages_api import ScriptedApi
from tests.support.synapse import Account

_STAGES = """
    SELECT inbox.received_at, turns.created_at, turns.ended_at
    FROM inbox JOIN turns ON turns.turn_id = inbox.turn_id WHERE inbox.event_id = ?
"""


class TimedApi(ScriptedApi):
    """The scripted API, which also notes when (Unix time) it was first asked for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_at: dict[str, float] = {}

    def reply(self, request: MessagesRequest) -> Reply:
        """As scripted."""
        self.asked_at.setdefault(request.last_user_text, time.time())
        return super().reply(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message and its answer, as the person's client saw them (Unix times)."""

    text: str
    event_id: str
    sent_at: float
    """Before the request that sends the message leaves."""
    seen_at: float
    """When the sync that brought the last message of the answer has answered."""

    @property
    def seconds(self) -> float:
        """From sending to seeing."""
        return self.seen_at - self.sent_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """A turn's seconds, stage by stage; together they are all of it."""

    arrive: float
    """The homeserver takes the message and hands it to the orchestrator's sync."""
    window: float
    """Stored, read, waited for more of a burst, made a turn."""
    to_api: float
    """Container and CLI if there are none, wire, shim, the CLI's own work, egress."""
    from_api: float
    """The stand-in's answer through egress and CLI, back over the wire, turn stored as ended."""
    leave: float
    """Outbox, homeserver, the person's sync."""


class _Embedded(BaseModel):
    """`embedded.json`, as far as it is needed here."""

    homeserver: str
    user_id: str
    password: str
    agent_user_id: str


class Person:
    """The embedded homeserver's user, and the agent that they talk to."""

    def __init__(self, user: MatrixUser, agent: str) -> None:
        self._user = user
        self._agent = agent

    def __repr__(self) -> str:
        return f"Person({self._user!r})"

    async def lift_limit(self) -> None:
        """No message or invitation limit for the person: it would be measured otherwise."""
        path = f"/_synapse/admin/v1/users/{quote(self._user.user_id, safe='')}/override_ratelimit"
        await self._user.request("POST", path, {"messages_per_second": 0, "burst_count": 0})

    async def new_room(self, name: str) -> str:
        """A room with the agent in it; nothing was said there, so it has no container."""
        room_id = await self._user.create_room(self._agent, name=name)
        await self._user.wait_for_member(room_id, self._agent)
        return room_id

    async def send(self, room_id: str, text: str) -> tuple[float, str]:
        """Send; the time before it, and the event's id."""
        sent_at = time.time()
        return sent_at, await self._user.send(room_id, text)

    def has_answer(self, event_id: str) -> bool:
        """Whether what was seen so far has the end of this event's turn."""
        return any(_ends(event, event_id) for event in reversed(self._user.timeline))

    async def wait_for_answer(self, event_id: str) -> Json:
        """The message that ends the turn of this event.

        Raises:
            AssertionError: it did not come, or the turn did not end well.
        """
        answer = await self._user.wait_for(lambda event: _ends(event, event_id), what="the answer")
        outcome = answer["content"][TURN_KEY]["outcome"]
        if outcome != "done":
            msg = f"a turn ended as {outcome}: {answer['content'].get('body', '')}"
            raise AssertionError(msg)
        return answer

    async def ask(self, room_id: str, text: str) -> Turn:
        """Send a message and wait for the answer."""
        sent_at, event_id = await self.send(room_id, text)
        await self.wait_for_answer(event_id)
        return Turn(text=text, event_id=event_id, sent_at=sent_at, seen_at=time.time())

    async def watch(self, room_id: str, text: str) -> Watched:
        """Send a message and note what is seen of its turn, up to the end."""
        sent_at, event_id = await self.send(room_id, text)
        seen, first_at = len(self._user.timeline), None
        events = 0
        while not self.has_answer(event_id):
            await self._user.sync()
            new, seen = self._user.timeline[seen:], len(self._user.timeline)
            shown = [event for event in new if event["type"] == "m.room.message"]
            shown = [event for event in shown if TURN_KEY in event["content"]]
            events += len(shown)
            first_at = first_at or (time.time() if shown else None)
        last_at = time.time()
        first_s = (first_at or last_at) - sent_at
        return Watched(first_s=first_s, last_s=last_at - sent_at, events=events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was seen of a turn: seconds from sending, and how many events it took."""

    first_s: float
    last_s: float
    events: int


def _ends(event: Json, event_id: str) -> bool:
    mark = event.get("content", {}).get(TURN_KEY, {})
    return bool(mark.get("final")) and event_id in mark.get("asked", ())


@asynccontextmanager
async def open_timed_api() -> AsyncIterator[TimedApi]:
    """Serve a timed API on 127.0.0.1 while the context lasts."""
    api = TimedApi()
    async with open_messages_api(api) as base_url:
        api.base_url = base_url
        yield api


@asynccontextmanager
async def open_person(state_dir: Path) -> AsyncIterator[Person]:
    """The user of an embedded homeserver that is ready, logged in."""
    embedded = _Embedded.model_validate_json((state_dir / "embedded.json").read_bytes())
    account = Account(user_id=embedded.user_id, password=embedded.password)
    async with open_matrix_user(embedded.homeserver, account) as user:
        await user.sync()
        yield Person(user, embedded.agent_user_id)


def read_stages(state_dir: Path, turn: Turn, api: TimedApi) -> Stages:
    """Where a finished turn's time went, from the orchestrator's own tables and the API's clock."""
    uri = f"file:{quote(str(state_dir / 'state.sqlite3'))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        row = db.execute(_STAGES, (turn.event_id,)).fetchone()
    if row is None:
        msg = f"the store has no turn for {json.dumps(turn.text)}"
        raise AssertionError(msg)
    received_at, created_at, ended_at = row
    asked_at = api.asked_at[turn.text]
    return Stages(
        arrive=received_at - turn.sent_at,
        window=created_at - received_at,
        to_api=asked_at - created_at,
        from_api=ended_at - asked_at,
        leave=turn.seen_at - ended_at,
    )
