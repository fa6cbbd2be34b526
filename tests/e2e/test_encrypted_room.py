"""A room with end-to-end encryption, seen by a client that shares no code with the agent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import nio
import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


@pytest.fixture
async def person(installation: Installation, tmp_path: Path) -> AsyncIterator[nio.AsyncClient]:
    """A logged-in client with encryption."""
    account = installation.server.register(f"alice-{secrets.token_hex(4)}")
    store = tmp_path / "nio"
    store.mkdir()
    client = nio.AsyncClient(
        installation.server.base_url,
        account.user_id,
        store_path=str(store),
        config=nio.AsyncClientConfig(encryption_enabled=True),
    )
    try:
        assert isinstance(await client.login(account.password), nio.LoginResponse)
        await sync(client)
        yield client
    finally:
        await client.close()
        if client.store is not None:
            client.store.database.close()


async def sync(client: nio.AsyncClient) -> None:
    await client.sync(timeout=500)
    if client.should_upload_keys:
        await client.keys_upload()
    if client.should_query_keys:
        await client.keys_query()
    await client.send_to_device_messages()


async def open_sealed_room(client: nio.AsyncClient, agent: str, *others: str) -> str:
    """An encrypted room with the agent in it, others invited."""
    created = await client.room_create(
        invite=[agent, *others],
        initial_state=[nio.EnableEncryptionBuilder().as_dict()],
    )
    assert isinstance(created, nio.RoomCreateResponse), created
    async with asyncio.timeout(60):
        while agent not in getattr(client.rooms.get(created.room_id), "users", {}):
            await sync(client)
    room_id: str = created.room_id
    return room_id


async def say(client: nio.AsyncClient, room_id: str, text: str) -> None:
    content = {"msgtype": "m.text", "body": text}
    sent = await client.room_send(
        room_id, "m.room.message", content, ignore_unverified_devices=True
    )
    assert isinstance(sent, nio.RoomSendResponse), sent


async def read_until(client: nio.AsyncClient, room_id: str, text: str, sender: str) -> None:
    """Sync until the sender has said it; every message of the sender's must be encrypted."""
    async with asyncio.timeout(60):
        while True:
            await sync(client)
            answer = await client.room_messages(room_id, limit=100)
            assert isinstance(answer, nio.RoomMessagesResponse)
            said = [e for e in answer.chunk if e.sender == sender]
            messages = [e for e in said if isinstance(e, nio.RoomMessageText)]
            assert all(message.decrypted for message in messages)
            if any(text in message.body for message in messages):
                return


async def test_an_encrypted_room_is_answered_encrypted_also_after_a_kill(
    installation: Installation, person: nio.AsyncClient
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    agent = installation.agent.user_id
    room = await open_sealed_room(person, agent)

    await say(person, room, "is this private?")
    await read_until(person, room, "is this private?", agent)

    await orchestrator.kill()
    await say(person, room, "and after a restart?")
    await orchestrator.start()
    await read_until(person, room, "and after a restart?", agent)
