"""A person at a client with end-to-end encryption, of another make than the agent's own code."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nio

from tests.support.synapse import SynapseServer


@asynccontextmanager
async def open_encrypted_user(
    server: SynapseServer, directory: Path
) -> AsyncIterator[nio.AsyncClient]:
    """A logged-in client of a new account; its keys are below `directory`."""
    account = server.register(f"alice-{secrets.token_hex(4)}")
    store = directory / "nio"
    store.mkdir()
    client = nio.AsyncClient(
        server.base_url,
        account.user_id,
        store_path=str(store),
        config=nio.AsyncClientConfig(encryption_enabled=True),
    )
    try:
        assert isinstance(await client.login(account.password), nio.LoginResponse)
        await sync(client)
        yield client
    finally:
        await client.close()  # type: ignore[no-untyped-call] # nio has no types here
        if client.store is not None:
            client.store.database.close()


async def sync(client: nio.AsyncClient) -> None:
    """One sync, and what the client owes the homeserver after it."""
    await client.sync(timeout=500)
    if client.should_upload_keys:
        await client.keys_upload()
    if client.should_query_keys:
        await client.keys_query()
    await client.send_to_device_messages()


async def create_encrypted_room(client: nio.AsyncClient, agent: str, *others: str) -> str:
    """A room with encryption; its id, once the agent has joined."""
    created = await client.room_create(
        invite=[agent, *others],
        initial_state=[nio.EnableEncryptionBuilder().as_dict()],  # type: ignore[no-untyped-call] # nio has no types here
    )
    assert isinstance(created, nio.RoomCreateResponse), created
    async with asyncio.timeout(60):
        while agent not in getattr(client.rooms.get(created.room_id), "users", {}):
            await sync(client)
    return str(created.room_id)


async def say(client: nio.AsyncClient, room_id: str, text: str) -> None:
    """Send a text, encrypted."""
    content = {"msgtype": "m.text", "body": text}
    sent = await client.room_send(
        room_id, "m.room.message", content, ignore_unverified_devices=True
    )
    assert isinstance(sent, nio.RoomSendResponse), sent


async def read_until(client: nio.AsyncClient, room_id: str, text: str, sender: str) -> None:
    """Sync until the sender has said it; every message of the sender's must be encrypted."""
    said: list[object] = []
    try:
        async with asyncio.timeout(60):
            while True:
                await sync(client)
                answer = await client.room_messages(room_id, limit=100)
                assert isinstance(answer, nio.RoomMessagesResponse)
                said = [e for e in answer.chunk if getattr(e, "sender", None) == sender]
                messages = [e for e in said if isinstance(e, nio.RoomMessageFormatted)]
                assert all(message.decrypted for message in messages)
                if any(text in message.body for message in messages):
                    return
    except TimeoutError:
        seen = [getattr(event, "body", type(event).__name__) for event in said]
        msg = f"{sender} has not said {text!r}: {seen}"
        raise AssertionError(msg) from None
