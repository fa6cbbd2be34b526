"""What a room's people set holds for the real CLI from the next turn on; schedules run on time."""

from __future__ import annotations

import pytest

from orchestrator.core.texts import setting as texts
from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_settings_hold_from_the_next_turn_on_and_the_conversation_goes_on(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "first words")
    await alice.wait_for_text(room, "You said: first words", sender=agent)
    usual = api.asked[-1].model
    for command, answer in (
        ("!model sonnet", "Model: `sonnet`"),
        ("!mode plan", "Permissions: `plan`"),
        ("!effort xhigh", "Effort: `xhigh`"),
        ("!restart", texts.RESTARTED),
    ):
        await alice.send(room, command)
        await alice.wait_for_text(room, answer, sender=agent)
    await alice.send(room, "!schedule in 12s scheduled words")
    await alice.wait_for_text(room, "Scheduled for", sender=agent)
    await alice.send(room, "second words")
    await alice.wait_for_text(room, "You said: second words", sender=agent)
    asked = api.asked[-1]
    assert asked.model != usual
    assert "sonnet" in asked.model
    assert "first words" in str(asked.messages), "the conversation goes on in another container"
    assert "plan mode" in str(asked.messages).lower()
    await alice.wait_for_text(room, "You said: scheduled words", sender=agent)
