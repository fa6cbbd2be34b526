"""A room that sends a thousand messages: each ends, the room is told once, another room goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import NoReturn

import pytest

from orchestrator.core import texts
from orchestrator.rooms.outgoing import TURN_KEY
from tests.chaos.test_floods import answer_to, image
from tests.e2e.conftest import Installation, installation
from tests.support.audit import audit_messages, wait_settled
from tests.support.matrix_user import MatrixUser

__all__ = ["image", "installation"]

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.timeout(300)]

MESSAGES = 1000
# Their events are answered by Synapse one by one; so many requests are under way at the same time.
SENDERS = 8


def states_of(installation: Installation, room: str) -> Counter[tuple[str, str | None]]:
    """State and reason of all messages of the person in the room, as the store has them."""
    path = installation.orchestrator.state_dir / "state.sqlite3"
    query = (
        "SELECT inbox.state, turns.outcome FROM inbox LEFT JOIN turns USING (turn_id) "
        "WHERE inbox.room_id = ? AND inbox.turn_id IS NOT NULL"
    )
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return Counter(db.execute(query, (room,)).fetchall())


async def send_many(person: MatrixUser, room: str, count: int) -> list[str]:
    async def send(numbers: range) -> list[str]:
        return [await person.send(room, f"message {n}") for n in numbers]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(range(i, count, SENDERS))) for i in range(SENDERS)]
    return [event for task in tasks for event in task.result()]


async def look(person: MatrixUser) -> NoReturn:
    while True:
        await person.sync()


async def flood(installation: Installation, image: str) -> tuple[MatrixUser, str, list[str]]:
    """A thousand messages in one room, and turns of another one meanwhile."""
    await installation.configure(docker={"image": image})
    await installation.orchestrator.start()
    person, other = await installation.person(), await installation.person("bob")
    noisy, quiet = await installation.room(person), await installation.room(other)
    await answer_to(other, await other.send(quiet, "before"))
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send_many(person, noisy, MESSAGES))
        # Who does not look for so long is shown the end of the timeline only.
        looking = group.create_task(look(person))
        while not sending.done():
            said = await answer_to(other, await other.send(quiet, "meanwhile"))
            assert said["content"][TURN_KEY]["outcome"] == "done"
        looking.cancel()
    async with asyncio.timeout(120):
        while states_of(installation, noisy).total() < MESSAGES:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.2)
    return person, noisy, sending.result()


async def test_of_a_thousand_messages_each_has_an_end_and_the_room_is_told_once(
    installation: Installation, image: str
) -> None:
    began = time.monotonic()
    person, noisy, _ = await flood(installation, image)
    await person.wait_for_text(noisy, texts.too_fast(60, 30))
    minutes = (time.monotonic() - began) / 60
    states = states_of(installation, noisy)
    assert {state for state, _ in states} == {"used"}
    assert {outcome for _, outcome in states} <= {"done", "refused", None}
    # 60 at once, then 30 a minute, for as long as the flood lasts on this machine.
    assert states["used", "refused"] >= MESSAGES - 60 - 30 * (minutes + 1)
    told = person.texts(noisy, sender=installation.agent.user_id)
    assert told.count(texts.too_fast(60, 30)) == 1
    audit = await audit_messages(
        installation.orchestrator.state_dir, "--config", str(installation.config_path)
    )
    assert (audit.code, audit.problems()) == (0, []), audit


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_each_of_a_thousand_messages_is_named_once_by_an_end(
    installation: Installation, image: str
) -> None:
    person, noisy, sent = await flood(installation, image)

    def ends() -> Counter[str]:
        marks = (
            event["content"].get(TURN_KEY, {})
            for event in person.timeline
            if event["room_id"] == noisy and event["sender"] == installation.agent.user_id
        )
        return Counter(asked for mark in marks if mark.get("final") for asked in mark["asked"])

    await person.collect(lambda _: ends().total() >= MESSAGES, timeout_s=300)
    assert ends() == Counter(sent)
    settled = await wait_settled(
        installation.orchestrator.state_dir, "--config", str(installation.config_path)
    )
    assert (settled.code, settled.problems()) == (0, []), settled
