"""A room with end-to-end encryption, seen by a client that shares no code with the agent."""

from __future__ import annotations

import nio
import pytest

from tests.e2e.conftest import Installation
from tests.support.encrypted_user import (
    create_encrypted_room,
    read_until,
    say,
)

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


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
