"""The homeserver over a long time: killed again and again, away for minutes, silent."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation
from tests.support.fault_proxy import FaultProxy, Stall, open_fault_proxy
from tests.support.matrix_user import MatrixUser
from tests.support.messages_api import open_scripted_api
from tests.support.synapse import SynapseServer

pytestmark = [
    pytest.mark.docker,
    pytest.mark.synapse,
    pytest.mark.cli,
    pytest.mark.long,
    pytest.mark.timeout(3600),
]

# Figures G3: 20 restarts and 10 minutes; less of them for a quick look.
KILLS = int(os.environ.get("CHAOS_HOMESERVER_KILLS", "20"))
AWAY_S = float(os.environ.get("CHAOS_HOMESERVER_AWAY_S", "600"))


@pytest.fixture
async def behind_proxy(
    tmp_path: Path, own_synapse: SynapseServer
) -> AsyncIterator[tuple[Installation, FaultProxy]]:
    """An installation on a Synapse of its own, which it reaches through a proxy."""
    agent = own_synapse.register("claude")
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_scripted_api())
        proxy = await stack.enter_async_context(open_fault_proxy(own_synapse.base_url))
        installation = Installation(tmp_path, own_synapse, api, agent, stack)
        matrix = {"homeserver": proxy.base_url, "user_id": agent.user_id}
        await (await installation.configure(matrix=matrix)).start()
        yield installation, proxy


async def ask(alice: MatrixUser, rooms: list[str], word: str, asked: dict[str, list[str]]) -> None:
    for room in rooms:
        await alice.send(room, word)
        asked[room].append(word)


async def check_answered(
    installation: Installation, alice: MatrixUser, asked: dict[str, list[str]]
) -> None:
    """Every word once in an answer, in order; however they came together."""
    agent = installation.agent.user_id
    for room, words in asked.items():
        await alice.wait_for_text(room, words[-1], sender=agent, timeout_s=300)
    for room, words in asked.items():
        said = [t.removeprefix("You said: ") for t in alice.texts(room, sender=agent)]
        told = [t for t in said if not t.startswith("Queued: ")]
        assert "\n\n".join(told) == "\n\n".join(words)
    prompts = "\n\n".join(request.last_user_text for request in installation.api.asked)
    assert sorted(prompts.split("\n\n")) == sorted(w for words in asked.values() for w in words)


async def test_a_homeserver_that_is_killed_again_and_again_loses_and_doubles_nothing(
    behind_proxy: tuple[Installation, FaultProxy],
) -> None:
    installation, _ = behind_proxy
    rng = random.Random(11)
    alice = await installation.person()
    rooms = [await installation.room(alice) for _ in range(3)]
    asked: dict[str, list[str]] = {room: [] for room in rooms}
    for number in range(KILLS):
        await ask(alice, rooms, f"before kill {number}", asked)
        await asyncio.sleep(rng.uniform(0, 3))
        await asyncio.to_thread(installation.server.kill)
        await asyncio.sleep(rng.uniform(0, 5))
        await asyncio.to_thread(installation.server.start)
    await ask(alice, rooms, "at the end", asked)
    await check_answered(installation, alice, asked)
    print(f"kills={KILLS} sent={sum(map(len, asked.values()))} lost=0 doubled=0")  # noqa: T201 - the figures are what it is run for


async def test_minutes_without_a_homeserver_are_asked_through_seldom_and_lose_nothing(
    behind_proxy: tuple[Installation, FaultProxy],
) -> None:
    installation, proxy = behind_proxy
    alice = await installation.person()
    rooms = [await installation.room(alice) for _ in range(2)]
    asked: dict[str, list[str]] = {room: [] for room in rooms}
    await ask(alice, rooms, "before", asked)
    await check_answered(installation, alice, asked)

    proxy.inject("* *", Stall(), times=1)
    await ask(alice, rooms, "while one request stalls", asked)
    await check_answered(installation, alice, asked)

    await asyncio.to_thread(installation.server.stop)
    gone_at = time.monotonic()
    await asyncio.sleep(AWAY_S)
    attempts = [seen.at - gone_at for seen in proxy.requests("GET /sync", since=gone_at)]
    await asyncio.to_thread(installation.server.start)
    back_at = time.monotonic()
    await ask(alice, rooms, "after", asked)
    await check_answered(installation, alice, asked)
    late_s = time.monotonic() - back_at
    first = sum(at < 60 for at in attempts)
    later = len(attempts) - first
    print(f"away={AWAY_S:.0f} s attempts={first}+{later} answered {late_s:.0f} s after its return")  # noqa: T201 - the figures are what it is run for
    assert first <= 60
    assert later <= max(0.0, AWAY_S - 60) / 30 + 1
