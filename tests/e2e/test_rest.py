"""Rooms at rest, on real parts: the CLI ends, the container stops, the next message has it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from orchestrator.control.models import RunnerView
from orchestrator.embedded.messages_model import ToolUse
from orchestrator.model import RunnerState
from tests.e2e.conftest import Installation
from tests.support.port import free_port

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def wait_runners(
    installation: Installation, condition: Callable[[list[RunnerView]], bool]
) -> list[RunnerView]:
    async with asyncio.timeout(60):
        while not condition(  # noqa: ASYNC110 - asked of another process
            found := list(await installation.orchestrator.runners())
        ):
            await asyncio.sleep(0.5)
    return found


async def test_a_room_falls_asleep_and_goes_on_where_it_was(installation: Installation) -> None:
    installation.api.when("my number", "I keep 4711 in mind.")
    installation.api.when("which number", "It was 4711.")
    resting = {"permissions": "bypass", "idle_stop_s": 3, "hibernate_s": 12}
    orchestrator = await installation.configure(defaults=resting)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)

    await alice.send(room, "my number is 4711")
    await alice.wait_for_text(room, "I keep 4711")
    (awake,) = await wait_runners(installation, lambda found: not found[0].cli_running)
    assert awake.state is RunnerState.RUNNING
    assert awake.pids is not None
    assert awake.pids < 10, "the shim and its forwarder; a live CLI has more threads than that"

    (asleep,) = await wait_runners(installation, lambda found: found[0].state is RunnerState.EXITED)
    assert asleep.disk_used_bytes is not None, "known although it is not mounted"
    assert asleep.disk_limit_bytes is not None
    assert 0 < asleep.disk_used_bytes < asleep.disk_limit_bytes
    await alice.send(room, "which number was it?")
    await alice.wait_for_text(room, "It was 4711")
    (again,) = await orchestrator.runners()
    assert again.container_id != awake.container_id
    asked = str(installation.api.asked[-1].messages)
    assert "my number is 4711" in asked, "the conversation went on"


async def test_with_one_place_two_rooms_are_answered_one_after_the_other(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure(docker={"max_runners": 1})
    await orchestrator.start()
    alice = await installation.person()
    rooms = [await installation.room(alice, name=name) for name in ("one", "two")]

    await asyncio.gather(*(alice.send(room, f"echo {room}") for room in rooms))
    for room in rooms:
        await alice.wait_for_text(room, room, sender=installation.agent.user_id)
    found = await wait_runners(
        installation, lambda found: sum(one.state is RunnerState.RUNNING for one in found) == 1
    )
    assert len(found) == 2


async def test_with_one_start_at_a_time_all_rooms_are_answered(installation: Installation) -> None:
    address = f"127.0.0.1:{free_port()}"
    orchestrator = await installation.configure(
        docker={"max_starts": 1}, observability={"metrics": address}
    )
    await orchestrator.start()
    alice = await installation.person()
    rooms = [await installation.room(alice, name=name) for name in ("one", "two", "three")]

    await asyncio.gather(*(alice.send(room, f"echo {room}") for room in rooms))
    for room in rooms:
        await alice.wait_for_text(room, room, sender=installation.agent.user_id)
    async with aiohttp.request("GET", f"http://{address}/metrics") as answer:
        text = await answer.text()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["aiagentchat_runner_start_seconds_count"]) == 3
    assert float(figures["aiagentchat_runner_start_waits_total"]) >= 1
    assert float(figures["aiagentchat_starts_waiting"]) == 0


async def test_where_memory_is_short_idle_rooms_rest_and_one_that_works_does_not(
    installation: Installation,
) -> None:
    # Of no host is so much available: this is pressure from the start.
    orchestrator = await installation.configure(
        docker={"memory_pressure": {"available_percent": 99.9}},
        defaults={"permissions": "bypass"},
    )
    work = ToolUse(name="Bash", input={"command": "sleep 75", "description": "test"})
    installation.api.when("take long", [work], "I worked to the end.")
    await orchestrator.start()
    alice = await installation.person()
    idle, busy = [await installation.room(alice, name=name) for name in ("idle", "busy")]
    await alice.send(idle, "echo first")
    await alice.wait_for_text(idle, "first", sender=installation.agent.user_id)
    await alice.send(busy, "take long")

    def one(found: list[RunnerView], room: str) -> RunnerView:
        return next(view for view in found if view.room_id == room)

    found = await wait_runners(
        installation, lambda found: one(found, idle).state is RunnerState.EXITED
    )
    assert one(found, busy).state is RunnerState.RUNNING
    assert one(found, busy).cli_running
    await alice.send(idle, "echo again")
    await alice.wait_for_text(idle, "again", sender=installation.agent.user_id)
    await alice.wait_for_text(busy, "I worked to the end", timeout_s=120)
