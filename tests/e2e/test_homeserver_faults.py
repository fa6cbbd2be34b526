"""A homeserver, or what stands before it, fails: everything is answered, once, and nothing is hot.

A person talks to the homeserver directly; the orchestrator reaches it through a proxy that fails.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest

from orchestrator.core import texts
from orchestrator.embedded.messages_model import Text, ToolUse
from tests.e2e.conftest import Installation
from tests.support.fault_proxy import (
    Answer,
    Cut,
    Fault,
    FaultProxy,
    Slow,
    Stall,
    Truncate,
    open_fault_proxy,
)
from tests.support.matrix_server import eventually
from tests.support.matrix_user import MatrixUser, open_matrix_user

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

SYNC, MESSAGES = "GET /sync", "GET */messages"
# Of messages alone: signs on them are tried once.
SEND = "PUT */send/m.room.message/*"
PAGE = Answer(status=502, body=b"<html>Bad Gateway</html>", headers={"Content-Type": "text/html"})
LIMIT = {"errcode": "M_LIMIT_EXCEEDED"}


@dataclass(frozen=True)
class Scene:
    """An orchestrator behind the proxy, a person, and a room of theirs that was warmed up."""

    installation: Installation
    proxy: FaultProxy
    alice: MatrixUser
    room: str

    @property
    def agent(self) -> str:
        return self.installation.agent.user_id

    async def answered(self, *words: str, room: str = "") -> None:
        """Wait until each of these was answered."""
        for word in words:
            await self.alice.wait_for_text(
                room or self.room, f"You said: {word}", sender=self.agent, timeout_s=120
            )

    def check_once(self, *words: str, room: str = "") -> None:
        """Each was answered once, in this order, and given to the model once."""
        said = [
            text.removeprefix("You said: ")
            for text in self.alice.texts(room or self.room, sender=self.agent)
        ]
        assert [word for word in said if word in words] == list(words)
        asked = [request.last_user_text for request in self.installation.api.asked]
        assert {word: asked.count(word) for word in words} == dict.fromkeys(words, 1)


@pytest.fixture
async def scene(installation: Installation) -> AsyncIterator[Scene]:
    async with open_fault_proxy(installation.server.base_url) as proxy:
        yield await open_scene(installation, proxy)


async def open_scene(installation: Installation, proxy: FaultProxy) -> Scene:
    matrix = {"homeserver": proxy.base_url, "user_id": installation.agent.user_id}
    await (await installation.configure(matrix=matrix)).start()
    alice = await installation.person()
    scene = Scene(installation, proxy, alice, await installation.room(alice))
    await alice.send(scene.room, "warm up")
    await scene.answered("warm up")
    return scene


# What the sync meets, and what the answer's sending meets, one pair for each message.
PAIRS: list[tuple[Fault, Fault]] = [
    (Cut(body_bytes=60), Cut(with_head=False)),
    (Truncate(body_bytes=60), Truncate(body_bytes=5)),
    (PAGE, PAGE),
    (Answer(status=504), Answer(status=429, body=LIMIT, headers={"Retry-After": "1"})),
    (Answer(status=429), Answer(status=429, body={**LIMIT, "retry_after_ms": 700})),
    (Slow(bytes_per_s=2000), Slow(bytes_per_s=400)),
]


async def test_whatever_breaks_an_answer_of_the_homeserver_each_message_is_answered_once(
    scene: Scene,
) -> None:
    words = [f"through fault {number}" for number in range(len(PAIRS))]
    for word, (sync_fault, send_fault) in zip(words, PAIRS, strict=True):
        scene.proxy.inject(SYNC, sync_fault, times=1)
        scene.proxy.inject(SEND, send_fault, times=1)
        await scene.alice.send(scene.room, word)
        await scene.answered(word)
    scene.check_once(*words)
    assert len(met(scene.proxy)) == 2 * len(PAIRS)


def met(proxy: FaultProxy) -> list[Fault]:
    return [seen.fault for seen in proxy.seen if seen.fault is not None]


async def test_an_answer_that_is_too_large_for_the_homeserver_is_told(scene: Scene) -> None:
    scene.proxy.inject(SEND, Answer(status=413, body={"errcode": "M_TOO_LARGE"}), times=1)
    await scene.alice.send(scene.room, "too much")
    await scene.alice.wait_for_text(scene.room, texts.MESSAGE_TOO_LARGE, sender=scene.agent)
    await scene.alice.send(scene.room, "go on")
    await scene.answered("go on")
    scene.check_once("go on")


async def test_a_homeserver_that_is_away_is_asked_seldom_and_nothing_is_lost_meanwhile(
    scene: Scene,
) -> None:
    other = await scene.installation.room(scene.alice)
    working = [Text(text="begun"), ToolUse(name="Bash", input={"command": "sleep 3"})]
    scene.installation.api.when("work", working, "worked")
    await scene.alice.send(scene.room, "work")
    await scene.alice.wait_for_text(scene.room, "begun", sender=scene.agent)

    gone_at = time.monotonic()
    await scene.proxy.refuse()
    await scene.alice.send(scene.room, "one")
    await scene.alice.send(other, "elsewhere")
    await scene.installation.api.wait_until(lambda api: len(api.asked) >= 3)
    scene.proxy.inject("* *", PAGE)
    await scene.proxy.accept()
    await asyncio.sleep(4)
    away_s = time.monotonic() - gone_at
    hot = [len(scene.proxy.requests(endpoint, since=gone_at)) for endpoint in (SYNC, SEND)]
    scene.proxy.clear()

    await scene.answered("one")
    await scene.answered("elsewhere", room=other)
    scene.check_once("one")
    scene.check_once("elsewhere", room=other)
    said = scene.alice.texts(scene.room, sender=scene.agent)
    assert said == ["You said: warm up", "begun", "worked", "You said: one"]
    # However slow this machine is: no more than one attempt a second.
    assert max(hot) <= away_s + 1


async def test_a_session_that_was_revoked_ends_it_with_what_to_do_and_leaves_the_runners(
    scene: Scene,
) -> None:
    working = [Text(text="begun"), ToolUse(name="Bash", input={"command": "sleep 5"})]
    scene.installation.api.when("work", working, "worked")
    orchestrator = scene.installation.orchestrator
    (runner,) = await orchestrator.runners()
    await scene.alice.send(scene.room, "work")
    await scene.alice.wait_for_text(scene.room, "begun", sender=scene.agent)

    server = scene.installation.server
    async with open_matrix_user(server.base_url, scene.installation.agent) as elsewhere:
        await elsewhere.request("POST", "/_matrix/client/v3/logout/all", {})
    assert await orchestrator.wait_ended() == 5
    last = orchestrator.log[-2000:]
    assert "The homeserver ended the session" in last
    assert "MATRIX_PASSWORD" in last
    assert "Traceback" not in last
    client = docker.from_env()
    try:
        assert client.containers.get(runner.container).status == "running"
    finally:
        client.close()

    await orchestrator.start()
    await scene.alice.wait_for_text(scene.room, "worked", sender=scene.agent)
    said = scene.alice.texts(scene.room, sender=scene.agent)
    assert said == ["You said: warm up", "begun", "worked"]


async def test_a_room_that_the_agent_is_banned_from_stops_alone_and_works_when_it_is_back(
    scene: Scene,
) -> None:
    room, alice, agent = scene.room, scene.alice, scene.agent
    other = await scene.installation.room(alice)
    keeping = ToolUse(name="Bash", input={"command": "echo kept > file; sleep 60"}, id="toolu_keep")
    scene.installation.api.when("keep", [Text(text="begun"), keeping])
    reading = ToolUse(name="Bash", input={"command": "cat file"}, id="toolu_read")
    scene.installation.api.when("read", [reading])
    await alice.send(room, "keep")
    await alice.wait_for_text(room, "begun", sender=agent)
    (runner,) = await scene.installation.orchestrator.runners()
    rooms = scene.installation.orchestrator.state_dir / "rooms"
    await eventually(lambda: list(rooms.glob("*/workspace/file")), within_s=60)

    banned_at = time.monotonic()
    path = f"/_matrix/client/v3/rooms/{room}"
    await alice.request("POST", f"{path}/ban", {"user_id": agent})
    client = docker.from_env()
    try:
        container = client.containers.get(runner.container)
        await eventually(lambda: status_of(container) == "exited", within_s=60)
    finally:
        client.close()
    await alice.send(other, "and here?")
    await scene.answered("and here?", room=other)
    assert len(scene.proxy.requests(f"PUT /rooms/*{room[1:12]}*/send/*", since=banned_at)) <= 3

    await alice.request("POST", f"{path}/unban", {"user_id": agent})
    await alice.invite(room, agent)
    await alice.collect(
        lambda events: sum(is_join(event, room, agent) for event in events) == 2,
        what="the agent back in the room",
    )
    await alice.send(room, "read")
    await alice.wait_for_text(room, "The tool said: kept", sender=agent)


def status_of(container: Any) -> str:
    container.reload()
    return str(container.status)


def is_join(event: Any, room: str, user: str) -> bool:
    return (
        event["room_id"] == room
        and event["type"] == "m.room.member"
        and event.get("state_key") == user
        and event["content"]["membership"] == "join"
    )


async def flood(scene: Scene, count: int, *, every: int) -> list[str]:
    """So many events in the room, each n-th a message; their words."""
    words: list[str] = []
    for number in range(count):
        if number % every == every - 1:
            words.append(f"in the flood {number}")
            await scene.alice.send(scene.room, words[-1])
        else:
            await scene.alice.send_event(scene.room, "org.example.noise", {"n": number})
    return words


async def test_a_flood_that_no_sync_shows_whole_is_handled_once_and_in_order_also_after_a_kill(
    scene: Scene,
) -> None:
    orchestrator, proxy = scene.installation.orchestrator, scene.proxy
    await orchestrator.kill()
    words = await flood(scene, 500, every=125)
    # The gap's pages fail, break off and stall; the next life starts in mid-gap.
    proxy.inject(MESSAGES, Cut(body_bytes=1000), times=1, skip=1)
    proxy.inject(MESSAGES, Answer(status=500, body={"errcode": "M_UNKNOWN"}), times=1)
    proxy.inject(MESSAGES, Stall(), skip=1)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(orchestrator.start())
        await eventually(lambda: any(isinstance(f, Stall) for f in met(proxy)), within_s=90)
        starting.cancel()
    await orchestrator.kill()
    assert {type(fault) for fault in met(proxy)} == {Cut, Answer, Stall}
    proxy.clear()
    await orchestrator.start()
    # They came together: one turn with all of them, in order, or a few.
    text = "\n\n".join(words)
    await scene.alice.wait_for_text(scene.room, words[-1], sender=scene.agent, timeout_s=120)
    said = scene.alice.texts(scene.room, sender=scene.agent)[1:]
    assert "\n\n".join(part.removeprefix("You said: ") for part in said) == text
    asked = [request.last_user_text for request in scene.installation.api.asked]
    assert json.dumps(asked).count("in the flood") == len(words)
