"""A room with end-to-end encryption, seen by a client that shares no code with the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nio
import pytest

from tests.e2e.conftest import Installation
from tests.support.encrypted_user import create_encrypted_room, open_encrypted_user, say, sync

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


@pytest.fixture
async def person(installation: Installation, tmp_path: Path) -> AsyncIterator[nio.AsyncClient]:
    """A logged-in client with encryption."""
    async with open_encrypted_user(installation.server, tmp_path) as client:
        yield client


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
    room = await create_encrypted_room(person, agent)

    await say(person, room, "is this private?")
    await read_until(person, room, "is this private?", agent)

    await orchestrator.kill()
    await say(person, room, "and after a restart?")
    await orchestrator.start()
    await read_until(person, room, "and after a restart?", agent)
