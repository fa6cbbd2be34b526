"""A turn is stopped: by a person, by its clock, by its runner's death, by its memory limit."""

from __future__ import annotations

import asyncio

import docker
import pytest

from orchestrator.embedded.messages_model import Stall
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser, body_of
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def wait_for_process(name: str, word: str, *, present: bool, timeout_s: float = 30) -> None:
    """Wait until a process with the word in its command line is, or is not, in the container."""
    client = docker.from_env()
    try:
        container = client.containers.get(name)
        async with asyncio.timeout(timeout_s):
            while True:
                rows = await asyncio.to_thread(container.top)
                if any(word in " ".join(row) for row in rows["Processes"]) is present:
                    return
                await asyncio.sleep(0.1)
    finally:
        client.close()


async def container_of(installation: Installation) -> str:
    (runner,) = await installation.orchestrator.runners()
    return runner.container


async def start(installation: Installation, **sections: object) -> tuple[MatrixUser, str]:
    orchestrator = await installation.configure(**sections)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "warm up")
    await alice.wait_for_text(room, "warm up", sender=installation.agent.user_id)
    return alice, room


async def test_cancel_stops_a_running_tool_and_the_next_message_works(
    installation: Installation,
) -> None:
    installation.api.when("take long", [bash("sleep 4242")])
    installation.api.once("still there", "Still here.")
    alice, room = await start(installation)
    name = await container_of(installation)

    await alice.send(room, "take long")
    await wait_for_process(name, "sleep 4242", present=True)
    await alice.send(room, "!cancel")
    await alice.wait_for_text(room, "Cancelled.")
    await wait_for_process(name, "sleep 4242", present=False)

    await alice.send(room, "still there?")
    await alice.wait_for_text(room, "Still here.", sender=installation.agent.user_id)
    assert any("warm up" in message.text for message in installation.api.asked[-1].messages)


async def test_a_turn_without_progress_times_out_and_no_process_is_left(
    installation: Installation,
) -> None:
    script = "(setsid sleep 4243 >/dev/null 2>&1 &); trap '' INT TERM; sleep 4244"
    installation.api.when("hang", [bash(script)])
    alice, room = await start(
        installation, defaults={"permissions": "bypass", "timeout_s": 8, "ceiling_s": 600}
    )
    name = await container_of(installation)

    await alice.send(room, "hang")
    await wait_for_process(name, "sleep 4244", present=True)
    await alice.wait_for_text(room, "nothing came for 8 s", timeout_s=60)
    await wait_for_process(name, "sleep 424", present=False)
    await wait_for_process(name, "claude", present=False)

    await alice.send(room, "still there?")
    await alice.wait_for_text(room, "still there?", sender=installation.agent.user_id)
    assert any("warm up" in message.text for message in installation.api.asked[-1].messages)


async def test_a_turn_that_goes_on_for_ever_meets_its_ceiling(installation: Installation) -> None:
    installation.api.when("go on", *[[bash(f"sleep 2; echo {i}")] for i in range(60)])
    alice, room = await start(
        installation, defaults={"permissions": "bypass", "timeout_s": 60, "ceiling_s": 10}
    )

    await alice.send(room, "go on")
    await alice.wait_for_text(room, "the longest that is allowed", timeout_s=60)


async def test_a_stalled_api_times_out(installation: Installation) -> None:
    installation.api.when("stall", [Stall(seconds=600)])
    alice, room = await start(
        installation, defaults={"permissions": "bypass", "timeout_s": 6, "ceiling_s": 600}
    )
    await alice.send(room, "stall")
    await alice.wait_for_text(room, "nothing came for 6 s", timeout_s=60)


async def test_a_runner_killed_in_mid_turn_is_told_and_the_next_message_works(
    installation: Installation,
) -> None:
    installation.api.when("take long", [bash("sleep 4245")])
    installation.api.once("may be done already", "Not quite, now it is.")
    alice, room = await start(installation)
    name = await container_of(installation)

    await alice.send(room, "take long")
    await wait_for_process(name, "sleep 4245", present=True)
    client = docker.from_env()
    await asyncio.to_thread(client.containers.get(name).kill)
    client.close()
    told = await alice.wait_for_text(room, "Interrupted", timeout_s=60)
    assert "while I worked on `take long`. It was not run again." in body_of(told)

    await alice.send(room, "still there?")
    await alice.wait_for_text(room, "still there?", sender=installation.agent.user_id)
    (runner,) = await installation.orchestrator.runners()
    assert runner.generation == 2
    said = alice.texts(room, sender=installation.agent.user_id)
    assert sum("Interrupted" in text for text in said) == 1
    asked = [request.last_user_text for request in installation.api.asked]
    assert asked.count("take long") == 1

    await alice.send(room, "!retry")
    again = await alice.wait_for_text(room, "Not quite, now it is.")
    assert set(told["content"]["org.aiagentchat.turn"]["asked"]) < set(
        again["content"]["org.aiagentchat.turn"]["asked"]
    )
    assert installation.api.asked[-1].last_user_text.endswith("take long")


async def test_the_memory_limit_is_told_with_its_number(installation: Installation) -> None:
    hog = bash("python3 -c 'x = bytearray(10**9); print(len(x))'; echo survived")
    installation.api.when("eat memory", [hog])
    limits = {"memory": "600m"}
    alice, room = await start(installation, defaults={"permissions": "bypass", "limits": limits})
    await alice.send(room, "eat memory")
    await alice.wait_for_text(room, "memory limit of 600 MiB", timeout_s=60)
