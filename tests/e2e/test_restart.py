"""The orchestrator dies and comes back: nothing is lost, nothing is said or done twice."""

from __future__ import annotations

import asyncio
import signal

import docker
import pytest

from orchestrator.core.cli_command import CLAUDE
from orchestrator.embedded.messages_model import Stall, Text
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def start(installation: Installation) -> tuple[MatrixUser, str]:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "warm up")
    await alice.wait_for_text(room, "warm up", sender=installation.agent.user_id)
    return alice, room


async def cli_pids(installation: Installation) -> list[str]:
    """The pids, on the host, of the CLI processes in the one runner."""
    (runner,) = await installation.orchestrator.runners()
    client = docker.from_env()
    try:
        rows = await asyncio.to_thread(client.containers.get(runner.container).top)
    finally:
        client.close()
    pid, command = rows["Titles"].index("PID"), rows["Titles"].index("CMD")
    found = [row[pid] for row in rows["Processes"] if row[command].startswith(f"{CLAUDE} ")]
    assert found, "no CLI runs"
    return found


async def settle(alice: MatrixUser, seconds: float = 4) -> None:
    """Give a wrong second answer the time to come."""
    async with asyncio.timeout(seconds + 30):
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await alice.sync()


async def test_a_kill_in_mid_turn_loses_nothing_and_the_cli_lives_on(
    installation: Installation,
) -> None:
    installation.api.when("count", [Text(text="starting"), bash("sleep 6; echo x >> ran")], "done")
    alice, room = await start(installation)
    before = await cli_pids(installation)
    agent = installation.agent.user_id

    await alice.send(room, "count")
    await alice.wait_for_text(room, "starting")
    await installation.orchestrator.kill()
    await installation.orchestrator.start()
    await alice.wait_for_text(room, "done", sender=agent)
    await settle(alice)

    assert await cli_pids(installation) == before
    said = alice.texts(room, sender=agent)
    assert said.count("starting") == 1
    assert said.count("done") == 1
    (ran,) = (installation.orchestrator.state_dir / "rooms").glob("*/workspace/ran")
    assert ran.read_text() == "x\n"


async def test_an_answer_that_came_while_the_orchestrator_was_dead_is_shown_once(
    installation: Installation,
) -> None:
    installation.api.when("meanwhile", [Stall(seconds=3), Text(text="it was worth the wait")])
    alice, room = await start(installation)
    agent = installation.agent.user_id

    await alice.send(room, "meanwhile")
    await installation.api.wait_until(lambda api: len(api.asked) == 2)
    await installation.orchestrator.kill()
    await asyncio.sleep(5)
    await installation.orchestrator.start()
    await alice.wait_for_text(room, "worth the wait")
    await settle(alice)

    # The API may be asked twice: the gateway died with the request, and the CLI tries again.
    assert alice.texts(room, sender=agent).count("it was worth the wait") == 1


async def test_a_kill_right_after_a_message_was_received_answers_it_once(
    installation: Installation,
) -> None:
    alice, room = await start(installation)
    agent = installation.agent.user_id

    for delay_s in (0.0, 0.1, 0.3, 0.6):
        text = f"killed after {delay_s}"
        await alice.send(room, text)
        await asyncio.sleep(delay_s)
        await installation.orchestrator.kill()
        await installation.orchestrator.start()
        await alice.wait_for_text(room, text, sender=agent)
    await settle(alice)

    for delay_s in (0.0, 0.1, 0.3, 0.6):
        text = f"killed after {delay_s}"
        assert alice.texts(room, sender=agent).count(f"You said: {text}") == 1
        # A request that was under way is asked again by the CLI; its conversation has the message
        # once, which is what was given to the model.
        conversation = [message.text for message in installation.api.asked[-1].messages]
        assert sum(text in said for said in conversation if said.startswith("killed after")) == 1


async def test_a_message_sent_while_the_orchestrator_is_down_is_answered_when_it_is_up(
    installation: Installation,
) -> None:
    alice, room = await start(installation)
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0

    await alice.send(room, "anybody there?")
    other = await alice.create_room(installation.agent.user_id, name="while down")
    await alice.send(other, "and in here?")
    await installation.orchestrator.start()

    agent = installation.agent.user_id
    await alice.wait_for_text(room, "anybody there?", sender=agent)
    await alice.wait_for_text(other, "and in here?", sender=agent)


async def test_sigterm_leaves_a_running_turn_and_sigint_stops_the_runners(
    installation: Installation,
) -> None:
    installation.api.when("go on", [bash("sleep 5")], "went on")
    alice, room = await start(installation)
    before = await cli_pids(installation)

    await alice.send(room, "go on")
    await installation.api.wait_until(lambda api: len(api.asked) == 2)
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0
    await installation.orchestrator.start()
    await alice.wait_for_text(room, "went on")
    assert await cli_pids(installation) == before

    (runner,) = await installation.orchestrator.runners()
    assert await installation.orchestrator.stop(signal.SIGINT) == 0
    client = docker.from_env()
    try:
        assert client.containers.get(runner.container).status == "exited"
    finally:
        client.close()


async def test_a_second_orchestrator_on_the_same_state_is_refused(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    twin = await installation.configure()
    with pytest.raises(AssertionError, match="another orchestrator"):
        await twin.start()


async def test_stricter_permissions_hold_from_the_next_turn_on(installation: Installation) -> None:
    installation.api.when("make a file", [bash("touch made")])
    alice, room = await start(installation)
    before = await cli_pids(installation)
    assert await installation.orchestrator.stop(signal.SIGTERM) == 0

    await installation.configure(defaults={"permissions": "ask"})
    await installation.orchestrator.start()
    await alice.send(room, "make a file")
    await alice.wait_for_text(room, "Not run")

    assert await cli_pids(installation) != before
    rooms = installation.orchestrator.state_dir / "rooms"
    assert list(rooms.glob("*/workspace/made")) == []
    await alice.send(room, "what did I say first?")
    await alice.wait_for_text(room, "what did I say first?", sender=installation.agent.user_id)
    asked = installation.api.asked[-1]
    assert any("warm up" in message.text for message in asked.messages)
