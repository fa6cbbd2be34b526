"""What Synapse refuses to relate is sent without the relation: the room gets the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from orchestrator.core.thread import parse_thread
from orchestrator.errors import RequestRefusedError
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.matrix.client import open_matrix
from orchestrator.model import JsonObject, Priority, RoomId, TxnId
from orchestrator.store.api import NewOutboxRow, OutboxRow
from orchestrator.store.store import open_store
from tests.integration.test_matrix_client import config_of, password, room_with
from tests.support.matrix_server import SynapseServer, eventually, open_user, register, run_synapse

pytestmark = pytest.mark.synapse


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SynapseServer]:
    with run_synapse(tmp_path_factory.mktemp("synapse")) as synapse:
        yield synapse


def in_thread(root: str) -> JsonObject:
    relation: JsonObject = {
        "rel_type": "m.thread",
        "event_id": root,
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": root},
    }
    return {"msgtype": "m.text", "body": "the answer", "m.relates_to": relation}


@pytest.mark.parametrize("root", ["unknown", "a relation", "redacted"])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_an_answer_whose_thread_synapse_refuses_reaches_the_room(
    server: SynapseServer, tmp_path: Path, root: str, *, encrypted: bool
) -> None:
    name = f"relates{root[0]}{int(encrypted)}"
    agent = await register(server, name)
    async with (
        open_user(server, "alice") as alice,
        open_store(tmp_path) as store,
        open_matrix(config_of(server, agent), password(name), tmp_path) as client,
    ):
        room_id = RoomId(
            await alice.create_room(agent, encrypted=True)
            if encrypted
            else await room_with(alice, agent)
        )
        await client.join(room_id)
        event = await make_root(alice, room_id, root)
        refused: list[str] = []

        async def on_refused(_: OutboxRow, error: RequestRefusedError) -> None:
            refused.append(error.errcode)

        row = NewOutboxRow(
            room_id=room_id,
            txn_id=TxnId("answer"),
            event_type="m.room.message",
            content=in_thread(event),
            priority=Priority.FINAL,
        )
        if root != "redacted":
            with pytest.raises(RequestRefusedError) as error:
                await client.send_event(room_id, row.event_type, row.content, TxnId("before"))
            assert (error.value.status, error.value.errcode) == (400, "M_UNKNOWN")
        await store.outbox.add([row], now=time.time())
        sender = OutboxSender(store.outbox, client, on_refused=on_refused)

        async def own() -> Any:
            return await client.recent_own_events(room_id, 5)

        async with asyncio.TaskGroup() as group:
            running = group.create_task(sender.run())
            (answer,) = await eventually(own)
            running.cancel()
        assert answer.content["body"] == "the answer"
        assert parse_thread(answer.content) == (event if root == "redacted" else None)
        assert refused == []


async def make_root(alice: Any, room_id: RoomId, root: str) -> str:
    if root == "unknown":
        return "$nobodyHasThisEventAtAllOrNotAnyMore0000000"
    said: str = await alice.say(room_id, "look")
    if root == "redacted":
        await alice.ask("PUT", f"/rooms/{quote(room_id)}/redact/{quote(said)}/r1", {})
        return said
    relation = {"rel_type": "m.annotation", "event_id": said, "key": "👍"}
    reaction: str = await alice.send(room_id, "m.reaction", {"m.relates_to": relation})
    return reaction
