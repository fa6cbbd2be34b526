"""The Docker Engine dies, hangs, restarts, or loses what it had: nothing lost, nothing run twice.

On an engine of the tests' own. What a turn does twice shows in its ledger, a file of the workspace
that its tool appends to; what the room is told twice shows in the room.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container

from orchestrator.control.models import RunnerView
from orchestrator.embedded.messages_model import Text
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.private_engine import PrivateEngine, open_private_engine
from tests.support.socket_proxy import open_socket_proxy
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

# What is appended while the engine is away, or by a turn that is then cut off.
LEDGER = "echo ran >> ledger"


@pytest.fixture(scope="module")
def private_engine() -> Iterator[PrivateEngine]:
    with open_private_engine() as engine:
        yield engine


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, installation: Installation, private_engine: PrivateEngine
) -> AsyncIterator[Site]:
    """With the engine's own socket, or by way of the socket proxy where a test asks for that."""
    await asyncio.to_thread(private_engine.clear)
    installation.env["DOCKER_HOST"] = private_engine.docker_host
    site = Site(installation, private_engine)
    async with contextlib.AsyncExitStack() as stack:
        if getattr(request, "param", "") == "proxied":
            folder, state = installation.directory / "engine", installation.directory / "state"
            opened = open_socket_proxy(folder, state, "--engine", private_engine.docker_host)
            proxy = await stack.enter_async_context(opened)
            installation.env["DOCKER_HOST"] = proxy.address
            # The engine is in a mount namespace of its own, and who listens for it is not.
            site.sections["docker"] = {"disk_quota": "measured"}
        try:
            yield site
        finally:
            if site.is_started:
                await installation.orchestrator.close()


either_way = pytest.mark.parametrize("site", ["direct", "proxied"], indirect=True)


class Site:
    """An installation on the private engine, and a person in a room of it."""

    def __init__(self, installation: Installation, engine: PrivateEngine) -> None:
        self.installation = installation
        self.engine = engine
        self.api = installation.api
        self.agent = installation.agent.user_id
        self.alice: MatrixUser
        self.room: str
        self.is_started = False
        self.sections: dict[str, object] = {}

    async def start(self, **sections: object) -> None:
        """Up and warm: a first message is answered."""
        orchestrator = await self.installation.configure(**self.sections, **sections)
        self.is_started = True
        await orchestrator.start()
        self.alice = await self.installation.person()
        self.room = await self.installation.room(self.alice)
        await self.ask("warm up")

    async def engine_does(self, work: Callable[..., None], **options: bool) -> None:
        """Start, end, freeze or thaw it, without holding the tests' own loop."""
        await asyncio.to_thread(work, **options)

    async def ask(self, text: str, room: str | None = None) -> None:
        """Send a text that the API answers by repeating it, and wait for that."""
        await self.say(text, room)
        await self.hear(f"You said: {text}", room)

    async def say(self, text: str, room: str | None = None) -> None:
        await self.alice.send(room or self.room, text)

    async def hear(self, text: str, room: str | None = None, *, timeout_s: float = 45) -> None:
        await self.alice.wait_for_text(
            room or self.room, text, sender=self.agent, timeout_s=timeout_s
        )

    def count(self, text: str) -> int:
        """In how many messages of the agent in the room it stands."""
        return sum(text in said for said in self.alice.texts(self.room, sender=self.agent))

    def times_asked(self, text: str) -> int:
        """How many turns with this text reached the model (not how many of its requests)."""
        asked = {
            request.messages[-1].text
            for request in self.api.asked
            if request.last_user_text == text and not request.tool_results
        }
        return len(asked)

    @property
    def ledger(self) -> list[str]:
        """What the tools of all turns wrote."""
        rooms = self.installation.orchestrator.state_dir / "rooms"
        files: list[Path] = list(rooms.glob("*/workspace/ledger"))
        return [line for file in files for line in file.read_text().splitlines()]

    async def wait_ledger(self, lines: int = 1) -> None:
        async with asyncio.timeout(60):
            while len(self.ledger) < lines:  # noqa: ASYNC110 - written by another process
                await asyncio.sleep(0.05)

    async def runner(self) -> RunnerView:
        (runner,) = await self.installation.orchestrator.runners()
        return runner

    async def by_hand(self, work: Callable[[Container], object]) -> None:
        """What a person with the engine's own tools does to the room's container."""
        name = (await self.runner()).container

        def do() -> None:
            with self.engine.client() as client:
                work(client.containers.get(name))

        await asyncio.to_thread(do)

    async def containers(self) -> list[str]:
        """The names of all containers, and their states."""

        def look() -> list[str]:
            with self.engine.client() as client:
                found = client.containers.list(all=True)
                return sorted(f"{one.name} {one.status}" for one in found)

        return await asyncio.to_thread(look)

    async def settle(self, seconds: float = 3) -> None:
        """Give a wrong second answer the time to come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self.alice.sync()


async def expect_interruption(site: Site, break_it: Callable[[], Awaitable[None]]) -> None:
    """What is done to a running turn ends it, once; the next message works."""
    site.api.when("take long", [bash(f"{LEDGER}; sleep 600")])
    await site.start()
    await site.say("take long")
    await site.wait_ledger()
    await break_it()
    await site.hear("Interrupted")
    await site.ask("still there?")
    await site.settle()

    assert site.count("Interrupted") == 1
    assert site.ledger == ["ran"]
    assert site.times_asked("take long") == 1
    assert len(await site.containers()) == 1


# ---- the engine itself


@either_way
async def test_a_turn_goes_on_while_its_engine_is_killed_and_started_again(site: Site) -> None:
    """With live-restore: what the CLI prints meanwhile waits in the shim."""
    site.api.when("count", [Text(text="starting"), bash(f"sleep 3; {LEDGER}")], "all done")
    await site.start()
    before = await site.runner()

    await site.say("count")
    await site.hear("starting")
    await site.engine_does(site.engine.kill)
    # The tool runs, and the CLI goes on to its answer, while nobody can listen.
    await site.api.wait_until(lambda api: len(api.asked) == 3)
    await site.engine_does(site.engine.start, live_restore=True)
    await site.hear("all done")
    await site.ask("and on")

    assert site.ledger == ["ran"]
    assert (site.count("starting"), site.count("all done")) == (1, 1)
    assert (await site.runner()).generation == before.generation
    assert site.count("Interrupted") == 0


async def test_a_turn_whose_engine_restarts_without_live_restore_is_told_once(site: Site) -> None:
    async def restart() -> None:
        await site.engine_does(site.engine.stop)
        await site.engine_does(site.engine.start, live_restore=False)

    await restart()
    await expect_interruption(site, restart)


async def test_a_message_waits_for_an_engine_that_is_down_and_is_answered_once(
    site: Site,
) -> None:
    await site.start()
    await site.engine_does(site.engine.kill)
    await site.say("are you there?")
    await site.hear("This waits")
    await site.say("!status")
    await site.hear("Version")
    await site.engine_does(site.engine.start, live_restore=True)
    await site.hear("You said: are you there?")
    await site.settle()

    assert site.count("This waits") == 1
    assert site.count("You said: are you there?") == 1


@either_way
async def test_a_frozen_engine_blocks_neither_commands_nor_the_end_of_its_turns(
    site: Site,
) -> None:
    site.api.when("count", [Text(text="starting"), bash(f"sleep 3; {LEDGER}")], "all done")
    await site.start()
    other = await site.installation.room(site.alice, name="other")
    await site.ask("warm up, too", other)

    await site.say("count")
    await site.hear("starting")
    await site.engine_does(site.engine.freeze)
    try:
        await site.wait_ledger()
        await site.say("!status")
        await site.hear("Version")
        await site.say("!help", other)
        await site.hear("!cancel", other)
        await site.say("wait for it", other)
        await site.settle(4)
    finally:
        await site.engine_does(site.engine.thaw)
    await site.hear("all done")
    await site.hear("You said: wait for it", other)
    await site.settle()

    assert site.ledger == ["ran"]
    assert (site.count("starting"), site.count("all done")) == (1, 1)
    assert site.count("Interrupted") == 0


async def test_a_runner_that_died_while_its_engine_was_away_is_told_once(site: Site) -> None:
    """No event tells of it."""

    async def die_unseen() -> None:
        pids: list[int] = []
        await site.by_hand(lambda one: pids.append(one.attrs["State"]["Pid"]))
        await site.engine_does(site.engine.kill)
        os.kill(pids[0], signal.SIGKILL)
        await site.engine_does(site.engine.start, live_restore=True)

    await expect_interruption(site, die_unseen)


# ---- what a person does to the containers


async def test_an_idle_runner_that_is_frozen_by_hand_is_replaced_by_the_next_message(
    site: Site,
) -> None:
    """Its connection stays open; only a ping shows that it is not there."""
    await site.start()
    await site.by_hand(lambda one: one.pause())
    await site.ask("after the pause")

    assert len(await site.containers()) == 1
    assert (await site.runner()).generation == 2
    assert any("warm up" in message.text for message in site.api.asked[-1].messages)


async def test_a_turn_whose_runner_is_removed_by_hand_is_told_once_and_not_run_again(
    site: Site,
) -> None:
    await expect_interruption(site, lambda: site.by_hand(lambda one: one.remove(force=True)))


async def test_copies_of_a_runner_are_removed_at_the_start_and_the_rooms_own_is_adopted(
    site: Site,
) -> None:
    await site.start()
    own = (await site.runner()).container
    await site.installation.orchestrator.kill()

    def copy() -> None:
        with site.engine.client() as client:
            one = client.containers.get(own)
            labels, image = one.labels, one.attrs["Image"]
            older = labels | {"aiagentchat.generation": "0"}
            client.containers.create(image, labels=older, network_mode="none", name="older")
            running = client.containers.create(
                image,
                entrypoint=["sleep", "600"],
                labels=labels,
                network_mode="none",
                name="running",
            )
            running.start()
            client.containers.create(image, network_mode="none", name="somebody-elses")

    await asyncio.to_thread(copy)
    await site.installation.orchestrator.start()
    await site.ask("and on")
    assert sorted(await site.containers()) == sorted([f"{own} running", "somebody-elses created"])
    assert (await site.runner()).generation == 1


async def test_a_missing_image_is_told_in_words_and_the_next_start_makes_it_good(
    site: Site,
) -> None:
    """Untagged and removed by somebody who needed the space."""
    name = "aiagentchat/test-image:mine"

    def make() -> None:
        with site.engine.client() as client:
            container = client.containers.create(client.images.list()[0].id)
            container.commit(*name.split(":"))
            container.remove()

    def unmake() -> None:
        with site.engine.client() as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
            client.images.remove(name, force=True)

    await asyncio.to_thread(make)
    await site.start(docker={"image": name})
    await asyncio.to_thread(unmake)
    await site.say("are you there?")
    await site.hear("The runner image is not there")
    await asyncio.to_thread(make)
    assert await site.installation.orchestrator.stop() == 0
    await site.installation.orchestrator.start()
    await site.ask("and now?")
    assert site.count("The runner image is not there") == 1
    await asyncio.to_thread(unmake)


# ---- another version with a turn in flight


async def test_a_turn_in_a_runner_of_an_older_specification_ends_there_before_it_is_replaced(
    site: Site,
) -> None:
    site.api.when("count", [Text(text="starting"), bash(f"sleep 4; {LEDGER}")], "all done")
    await site.start()
    before = await site.runner()
    await site.say("count")
    await site.hear("starting")
    orchestrator = site.installation.orchestrator
    assert await orchestrator.stop() == 0
    limits = {"pids": 500}
    await site.installation.configure(defaults={"permissions": "bypass", "limits": limits})
    await site.installation.orchestrator.start()
    await site.hear("all done")
    assert (await site.runner()).generation == before.generation
    assert site.ledger == ["ran"]

    await site.ask("and on")
    assert (await site.runner()).generation == before.generation + 1
    assert len(await site.containers()) == 1
    assert any("count" in message.text for message in site.api.asked[-1].messages)
    assert site.count("Interrupted") == 0
