"""SIGTERM: what waits is sent, within a bound; what can't be is sent by the next start, once."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing

import pytest

from orchestrator.embedded.messages_model import Stall, Text
from tests.e2e.conftest import Installation
from tests.support.audit import wait_settled
from tests.support.matrix_user import MatrixUser
from tests.support.synapse import SynapseServer

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]
ROOMS = 2


async def start(installation: Installation) -> tuple[MatrixUser, list[str]]:
    """Rooms that were heard of, each with a live runner."""
    installation.api.when(r"slow \d", [Stall(seconds=4), Text(text="worth the wait")])
    await installation.configure()
    await installation.orchestrator.start()
    alice = await installation.person()
    rooms = [await installation.room(alice, name=f"room {i}") for i in range(ROOMS)]
    for room in rooms:
        await alice.send(room, "warm up")
    for room in rooms:
        await alice.wait_for_text(room, "warm up", sender=installation.agent.user_id)
    return alice, rooms


def outbox(installation: Installation) -> dict[str, int]:
    """How many rows are in each state."""
    path = installation.orchestrator.state_dir / "state.sqlite3"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT state, count(*) FROM outbox GROUP BY state").fetchall())


async def freeze_with_answers_waiting(
    installation: Installation, alice: MatrixUser, rooms: list[str], word: str
) -> int:
    """Ask in each room, freeze the homeserver, and wait for the answers to wait; how many rows."""
    asked = len(installation.api.asked)
    for i, room in enumerate(rooms):
        await alice.send(room, f"{word} {i}")
    await installation.api.wait_until(lambda api: len(api.asked) >= asked + len(rooms))
    await asyncio.to_thread(installation.server.pause)
    async with asyncio.timeout(60):
        while outbox(installation).get("queued", 0) < len(rooms):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.1)
    return outbox(installation)["queued"]


async def wait_until_stopping(installation: Installation, count: int) -> None:
    async with asyncio.timeout(60):
        while installation.orchestrator.log.count("Stopping (press") < count:  # noqa: ASYNC110 - another process's log
            await asyncio.sleep(0.05)


def unfreeze(server: SynapseServer) -> None:
    server.container.reload()
    if server.container.status == "paused":
        server.unpause()


async def test_sigterm_sends_what_waits_and_what_can_not_be_sent_waits_for_the_next_start(
    installation: Installation,
) -> None:
    """Thrice: the homeserver comes back in time; it does not; it does not, and a second SIGTERM."""
    alice, rooms = await start(installation)
    orchestrator, server = installation.orchestrator, installation.server
    agent = installation.agent.user_id
    try:
        waiting = await freeze_with_answers_waiting(installation, alice, rooms, "slow")
        before = outbox(installation)["sent"]
        orchestrator.send_signal(signal.SIGTERM)
        await wait_until_stopping(installation, 1)
        server.unpause()
        assert await orchestrator.wait_ended() == 0
        assert outbox(installation) == {"sent": before + waiting}
        for room in rooms:
            await alice.wait_for_text(room, "worth the wait", sender=agent)

        await orchestrator.start()
        waiting = await freeze_with_answers_waiting(installation, alice, rooms, "slow")
        orchestrator.send_signal(signal.SIGTERM)
        assert await orchestrator.wait_ended() == 0
        assert outbox(installation)["queued"] == waiting
        assert "messages wait for the next start" in orchestrator.log
        unfreeze(server)

        await orchestrator.start()
        waiting = await freeze_with_answers_waiting(installation, alice, rooms, "slow")
        orchestrator.send_signal(signal.SIGTERM)
        await wait_until_stopping(installation, 3)
        assert "not waiting any longer" not in orchestrator.log
        orchestrator.send_signal(signal.SIGTERM)
        assert await orchestrator.wait_ended() == 0
        assert "not waiting any longer" in orchestrator.log
        assert outbox(installation)["queued"] == waiting
    finally:
        unfreeze(server)

    await orchestrator.start()
    audit = await wait_settled(
        orchestrator.state_dir, "--config", str(installation.config_path), timeout_s=90
    )
    assert (audit.code, audit.report["findings"], audit.report["remarks"]) == (0, [], [])
    assert audit.report["answered"] == audit.report["messages"] == 4 * len(rooms)
    for room in rooms:
        events = await alice.messages(room)
        said = [e["content"].get("body") for e in events if e["sender"] == agent]
        # Beside the answers and their marks nothing: no start says anything in a room.
        assert [text for text in said if text] == ["You said: warm up"] + ["worth the wait"] * 3
