"""A person at another client, matrix-js-sdk with its Rust crypto, in an encrypted room."""

from __future__ import annotations

import secrets

import pytest

from orchestrator.embedded.messages_model import Stall, Text
from tests.e2e.conftest import Installation
from tests.support.web_client import open_web_client

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_an_encrypted_room_of_another_client_is_answered(installation: Installation) -> None:
    installation.api.when(
        "colour of the sky", [Text(text="I look."), Stall(seconds=3), Text(text="It is **blue**.")]
    )
    orchestrator = await installation.configure(
        defaults={"stream": "edit", "permissions": "bypass"}
    )
    await orchestrator.start()
    account = installation.server.register(f"bob-{secrets.token_hex(4)}")
    async with open_web_client(
        installation.server.base_url, account.user_id, account.password
    ) as bob:
        room = await bob.create_room(installation.agent.user_id, encrypted=True)
        await bob.send(room, "What is the colour of the sky?")
        answer = await bob.wait_for(
            room,
            lambda e: e["sender"] != bob.user_id and "blue" in e["content"].get("body", ""),
        )
        assert answer["is_encrypted"]
        assert answer["is_edited"], "it grew in one message, and its edits were opened"
        shown = [e for e in await bob.timeline(room) if e["sender"] != bob.user_id]
        assert sum(e["type"] == "m.room.message" for e in shown) == 1
        assert "<strong>blue</strong>" in answer["content"]["formatted_body"]
