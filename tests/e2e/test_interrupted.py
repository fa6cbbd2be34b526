"""A runner dies in mid-turn, and the room's settings say that its message goes on by itself."""

from __future__ import annotations

import asyncio

import docker
import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_an_interrupted_turn_is_resumed_in_its_session_and_nothing_is_done_twice(
    installation: Installation,
) -> None:
    work = {"command": "echo once >> ledger; sleep 4248", "description": "work"}
    installation.api.when("do the work", [ToolUse(name="Bash", input=work)])
    # The model, told that it may have done part of it, looks first.
    look = ToolUse(name="Bash", input={"command": "cat ledger", "description": "look"})
    installation.api.when("may be done already", [look], "It was done already.")
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "on_interrupt": "resume"}
    )
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    agent = installation.agent.user_id

    await alice.send(room, "do the work")
    rooms = orchestrator.state_dir / "rooms"
    async with asyncio.timeout(60):
        while not list(rooms.glob("*/workspace/ledger")):  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.1)
    (runner,) = await orchestrator.runners()
    client = docker.from_env()
    await asyncio.to_thread(client.containers.get(runner.container).kill)
    client.close()

    told = await alice.wait_for_text(room, "Interrupted", timeout_s=60)
    assert "while I worked on `do the work`. Going on with it (1 of 3)" in told["content"]["body"]
    assert told["content"]["org.aiagentchat.turn"]["final"] is False
    done = await alice.wait_for_text(room, "It was done already.", timeout_s=60)
    assert done["content"]["org.aiagentchat.turn"]["outcome"] == "done"
    assert (
        done["content"]["org.aiagentchat.turn"]["asked"]
        == told["content"]["org.aiagentchat.turn"]["asked"]
    )
    (ledger,) = rooms.glob("*/workspace/ledger")
    assert ledger.read_text() == "once\n"
    last = installation.api.asked[-1]
    assert sum("do the work" in text for text in last.user_texts) == 2, "the same conversation"
    said = alice.texts(room, sender=agent)
    assert sum("Interrupted" in text for text in said) == 1
