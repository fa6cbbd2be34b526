"""Poison and ordinary messages in one answer of the homeserver: only the poison is left out."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import Any

import nio
import pytest

from tests.e2e.conftest import Installation
from tests.support.encrypted_user import create_encrypted_room, read_until, say
from tests.support.matrix_server import eventually
from tests.support.matrix_user import MatrixRefusalError, MatrixUser
from tests.support.poison import (
    encrypted_poison,
    message_poison,
    state_poison,
    to_device_poison,
)

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def poison_device(mallory: MatrixUser, agent: str, device: str, curve: str) -> None:
    """From an account that shares no room with the agent."""
    for number, content in enumerate(to_device_poison(curve)):
        kind = content.pop("_type", "m.room.encrypted")
        body = {"messages": {agent: {device: content}}}
        await mallory.request("PUT", f"/_matrix/client/v3/sendToDevice/{kind}/p{number}", body)


async def poison_room(alice: MatrixUser, room: str) -> int:
    """In a room; how many of it the homeserver took."""
    taken = 0
    events = [("m.room.message", content) for content in message_poison()]
    events += [("m.room.encrypted", content) for content in encrypted_poison()]
    for kind, content in events:
        with contextlib.suppress(MatrixRefusalError):
            await alice.send_event(room, kind, content)
            taken += 1
    for kind, content in state_poison():
        with contextlib.suppress(MatrixRefusalError):
            await alice.set_state(room, kind, content)
            taken += 1
    return taken


async def test_what_was_said_among_poison_is_answered_once_in_plain_and_encrypted_rooms(
    installation: Installation, person: nio.AsyncClient
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    agent = installation.agent.user_id
    alice, mallory = await installation.person(), await installation.person("mallory")
    plain = await installation.room(alice)
    sealed = await create_encrypted_room(person, agent, alice.user_id)
    await alice.join(sealed)
    session = json.loads((orchestrator.state_dir / "matrix-session.json").read_text())
    device = session["device_id"]
    await orchestrator.kill()

    keys = await mallory.request(
        "POST", "/_matrix/client/v3/keys/query", {"device_keys": {agent: []}}
    )
    curve = keys["device_keys"][agent][device]["keys"][f"curve25519:{device}"]
    await poison_device(mallory, agent, device, curve)
    taken = await poison_room(alice, plain) + await poison_room(alice, sealed)
    assert taken > 20  # the rest is what Synapse refuses to carry
    await alice.send(plain, "plain words")
    await say(person, sealed, f"{agent} sealed words")
    taken += await poison_room(alice, plain) + await poison_room(alice, sealed)
    await orchestrator.start()

    await alice.wait_for_text(plain, "plain words", sender=agent)
    await read_until(person, sealed, "sealed words", agent)
    await alice.send(plain, "still there?")
    await alice.wait_for_text(plain, "still there?", sender=agent)
    # A turn may have some of the odd texts with it, where they came together.
    asked = "\n".join(request.last_user_text for request in installation.api.asked)
    for words in ("plain words", "sealed words", "still there?"):
        assert asked.count(words) == 1
    await eventually(lambda: not waiting(orchestrator.state_dir / "state.sqlite3"), within_s=60)
    assert await orchestrator.stop() == 0
    assert "Traceback" not in orchestrator.log


def waiting(database: Any) -> set[str]:
    """Rows that nobody has looked at; those that wait for a key are none of them."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        return {raw for (raw,) in db.execute("SELECT raw FROM inbox WHERE state = 'new'")}
