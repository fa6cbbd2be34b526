"""A message into the running turn of the real CLI: read after its tool, also across a kill."""

from __future__ import annotations

import pytest

from orchestrator.core.texts import conversation as texts
from orchestrator.embedded.messages_model import Stall, Text, ToolUse
from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_it_is_read_after_the_tool_and_answered_in_one_turn_across_a_kill(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    waits = ToolUse(name="Bash", input={"command": "sleep 6"})
    api.when("a long task", [waits], [ToolUse(name="Bash", input={"command": "true"})], "all done")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    asked = await alice.send(room, "a long task")
    while not api.asked:
        await alice.sync()
    steered = await alice.send(room, "!steer with great care")
    await alice.wait_for_text(room, texts.STEERED, sender=agent)
    await orchestrator.kill()
    await orchestrator.start()
    answer = await alice.wait_for_text(room, "all done", sender=agent)
    mark = answer["content"]["org.aiagentchat.turn"]
    assert set(mark["asked"]) == {asked, steered}
    assert mark["final"]
    assert str(api.asked[-1].messages).count("with great care") == 1
    assert alice.texts(room, sender=agent).count("all done") == 1


async def test_what_comes_after_the_last_tool_is_worked_on_right_after(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when("think long", [Text(text="begin"), Stall(seconds=5), Text(text="end")])
    api.when("and briefly", "in brief")
    defaults = {"permissions": "bypass", "while_running": "steer"}
    orchestrator = await installation.configure(defaults=defaults)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "think long")
    while not api.asked:
        await alice.sync()
    await alice.send(room, "and briefly")
    answer = await alice.wait_for_text(room, "in brief", sender=agent)
    assert answer["content"]["org.aiagentchat.turn"]["final"]
    assert len(answer["content"]["org.aiagentchat.turn"]["asked"]) == 2
    assert any("begin" in text for text in alice.texts(room, sender=agent))
