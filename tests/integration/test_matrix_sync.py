"""The sync loop on a real Synapse: nothing lost, nothing twice, everything in order."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.errors import LoginRefusedError
from orchestrator.matrix.client import MatrixClient, open_matrix
from orchestrator.matrix.sync import SyncStatus, run_sync
from orchestrator.model import RoomId, UserId
from orchestrator.store.api import InboxKind
from tests.support.matrix_server import (
    SynapseServer,
    eventually,
    open_user,
    register,
    run_synapse,
)
from tests.support.memory_sync_store import MemorySyncStore

pytestmark = pytest.mark.synapse


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SynapseServer]:
    with run_synapse(tmp_path_factory.mktemp("synapse")) as synapse:
        yield synapse


class Syncing:
    """A loop that runs in the background of a test, and what it told."""

    def __init__(self, client: MatrixClient, store: MemorySyncStore) -> None:
        self.client = client
        self.store = store
        self.statuses: list[SyncStatus] = []
        self.typing: list[tuple[RoomId, frozenset[UserId]]] = []
        self.commits = 0

    def bodies(self, *, history: bool = False) -> list[str]:
        events = [json.loads(r.raw) for r in self.store.of(InboxKind.TIMELINE, history=history)]
        return [e["content"]["body"] for e in events if e["type"] == "m.room.message"]

    def count_commit(self) -> None:
        self.commits += 1

    async def run(self) -> None:
        await run_sync(
            self.client,
            self.store,
            on_commit=self.count_commit,
            on_typing=lambda room, users: self.typing.append((room, users)),
            on_status=self.statuses.append,
            clock=time.time,
        )


@asynccontextmanager
async def syncing(client: MatrixClient, store: MemorySyncStore) -> AsyncIterator[Syncing]:
    loop = Syncing(client, store)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(loop.run())
        await eventually(lambda: loop.statuses and loop.statuses[-1].connected)
        yield loop
        task.cancel()


def config_of(server: SynapseServer, user_id: str) -> MatrixConfig:
    return MatrixConfig.model_validate({"homeserver": server.base_url, "user_id": user_id})


def password(name: str) -> Secrets:
    return Secrets(matrix_password=SecretStr(f"pw-{name}"))


async def test_everything_said_while_away_comes_complete_and_in_order(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "away")
    store = MemorySyncStore()
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("away"), tmp_path) as client,
    ):
        rooms = [RoomId(await alice.create_room(agent)) for _ in range(2)]
        for room_id in rooms:
            await client.join(room_id)
        await alice.say(rooms[0], "before the first sync")
        async with syncing(client, store) as loop:
            assert loop.bodies() == []
            assert loop.bodies(history=True) == ["before the first sync"]
        for n in range(150):
            await alice.say(rooms[0], f"a{n}")
        await alice.say(rooms[1], "b0")
        async with syncing(client, store) as loop:
            await eventually(lambda: len(loop.bodies()) >= 151)
            await alice.say(rooms[0], "after")
            await eventually(lambda: "after" in loop.bodies())
            in_first = [
                json.loads(r.raw)["content"]["body"]
                for r in store.of(InboxKind.TIMELINE)
                if r.room_id == rooms[0]
            ]
        assert in_first == [*(f"a{n}" for n in range(150)), "after"]
        assert loop.bodies().count("b0") == 1


async def test_an_old_token_asked_again_stores_nothing_twice(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "again")
    store = MemorySyncStore()
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("again"), tmp_path) as client,
    ):
        room_id = RoomId(await alice.create_room(agent))
        await client.join(room_id)
        async with syncing(client, store):
            pass
        old = store.token
        await alice.say(room_id, "once")
        for _ in range(3):
            store.token = old
            async with syncing(client, store) as loop:
                await eventually(lambda: "once" in loop.bodies())
        assert loop.bodies() == ["once"]


async def test_after_an_invitation_only_what_follows_it_is_new(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "guest")
    store = MemorySyncStore()
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("guest"), tmp_path) as client,
        syncing(client, store) as loop,
    ):
        room_id = RoomId(await alice.create_room(name="Old room"))
        await alice.say(room_id, "old")
        await alice.ask("POST", f"/rooms/{room_id}/invite", {"user_id": agent})
        await alice.say(room_id, "sent before the agent joined")
        await eventually(lambda: store.of(InboxKind.INVITE))
        invite = json.loads(store.of(InboxKind.INVITE)[0].raw)
        assert any(e["type"] == "m.room.member" for e in invite["events"])
        await client.join(room_id)
        await alice.say(room_id, "sent after")
        await eventually(lambda: "sent after" in loop.bodies())
        assert loop.bodies() == ["sent before the agent joined", "sent after"]
        assert loop.bodies(history=True) == ["old"]
        names = [json.loads(r.raw) for r in store.of(InboxKind.STATE)]
        assert any(e["content"].get("name") == "Old room" for e in names)
        assert store.of(InboxKind.SUMMARY)
        await alice.ask("POST", f"/rooms/{room_id}/kick", {"user_id": agent})
        await eventually(lambda: store.of(InboxKind.LEAVE))


async def test_typing_is_told_and_not_stored(server: SynapseServer, tmp_path: Path) -> None:
    agent = await register(server, "watch")
    store = MemorySyncStore()
    async with (
        open_user(server, "alice") as alice,
        open_matrix(config_of(server, agent), password("watch"), tmp_path) as client,
    ):
        room_id = RoomId(await alice.create_room(agent))
        await client.join(room_id)
        async with syncing(client, store) as loop:
            path = f"/rooms/{room_id}/typing/{alice.user_id}"
            await alice.ask("PUT", path, {"typing": True, "timeout": 30000})
            await eventually(lambda: (room_id, frozenset({alice.user_id})) in loop.typing)
            await alice.ask("PUT", path, {"typing": False})
            await eventually(lambda: (room_id, frozenset()) in loop.typing)
        assert not any("m.typing" in row.raw for row in store.rows)


async def test_a_session_that_is_ended_for_good_ends_the_loop(
    server: SynapseServer, tmp_path: Path
) -> None:
    agent = await register(server, "ended")
    async with (
        open_user(server, "ended") as admin,
        open_matrix(config_of(server, agent), password("ended"), tmp_path) as client,
    ):
        loop = Syncing(client, MemorySyncStore())
        ended: list[LoginRefusedError] = []

        async def run() -> None:
            try:
                await loop.run()
            except LoginRefusedError as e:
                ended.append(e)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(run())
            await eventually(lambda: loop.statuses)
            admin.token = client.secret_values[0]
            await admin.ask("POST", "/logout", {})
        assert ended
