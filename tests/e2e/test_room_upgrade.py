"""A room is upgraded: workspace, conversation and a running turn go on in the new room."""

from __future__ import annotations

import docker
import pytest

from orchestrator.core import texts
from orchestrator.embedded.messages_model import Text
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def start(installation: Installation, **sections: object) -> tuple[MatrixUser, str]:
    await (await installation.configure(**sections)).start()
    alice = await installation.person()
    # Before version 12 its creator was one of the members with power, which a test can share out.
    room = await alice.create_room(installation.agent.user_id, room_version="11")
    await alice.wait_for_member(room, installation.agent.user_id)
    return alice, room


async def upgrade(installation: Installation, alice: MatrixUser, room: str, version: str) -> str:
    """As Element does it: the upgrade, then the members are invited anew."""
    new = await alice.upgrade(room, version=version)
    await alice.invite(new, installation.agent.user_id)
    await alice.wait_for_text(new, texts.ROOM_CONTINUES, sender=installation.agent.user_id)
    return new


async def test_files_and_conversation_go_on_in_the_room_that_replaces_theirs(
    installation: Installation,
) -> None:
    installation.api.when("keep this", [bash("echo forty-two > fact.txt")], "kept")
    installation.api.when("read it", [bash("cat fact.txt")])
    alice, room = await start(installation)
    agent = installation.agent.user_id
    await alice.send(room, "keep this: my cat is called Ada")
    await alice.wait_for_text(room, "kept", sender=agent)
    (before,) = await installation.orchestrator.runners()

    new = await upgrade(installation, alice, room, "12")
    await alice.send(new, "read it")
    await alice.wait_for_text(new, "forty-two", sender=agent)

    said = [message.text for message in installation.api.asked[-1].messages]
    assert any("my cat is called Ada" in text for text in said)
    (after,) = await installation.orchestrator.runners()
    assert (after.room_id, after.slug) == (new, before.slug)
    assert after.container_id == before.container_id

    await installation.orchestrator.kill()
    await installation.orchestrator.start()
    await alice.send(room, "is anybody still here?")
    await alice.wait_for_text(new, texts.ROOM_REPLACED, sender=agent)
    await alice.send(new, "and after a restart?")
    await alice.wait_for_text(new, "and after a restart?", sender=agent)
    assert alice.texts(new, sender=agent).count(texts.ROOM_CONTINUES) == 1


async def test_a_turn_that_runs_during_the_upgrade_is_answered_in_the_new_room_once(
    installation: Installation,
) -> None:
    installation.api.when("count", [Text(text="starting"), bash("sleep 6; echo x >> ran")], "done")
    alice, room = await start(installation)
    agent = installation.agent.user_id
    await alice.send(room, "count")
    await alice.wait_for_text(room, "starting", sender=agent)
    await alice.send(room, "and then this")

    new = await upgrade(installation, alice, room, "11")
    await alice.wait_for_text(new, "done", sender=agent)
    await alice.wait_for_text(new, "and then this", sender=agent)

    (ran,) = (installation.orchestrator.state_dir / "rooms").glob("*/workspace/ran")
    assert ran.read_text() == "x\n"
    everywhere = alice.texts(room, sender=agent) + alice.texts(new, sender=agent)
    for words in ("starting", "done", "You said: and then this"):
        assert everywhere.count(words) == 1
    client = docker.from_env()
    try:
        (runner,) = await installation.orchestrator.runners()
        assert client.containers.get(runner.container).attrs["RestartCount"] == 0
        assert runner.generation == 1
    finally:
        client.close()


async def test_a_room_is_not_followed_unless_both_rooms_say_so(
    installation: Installation,
) -> None:
    alice, room = await start(installation, access={"users": ["@alice-*:*"]})
    agent = installation.agent.user_id
    mallory = await installation.person("mallory")
    await alice.send(room, "mine")
    await alice.wait_for_text(room, "mine", sender=agent)
    await alice.invite(room, mallory.user_id)
    await mallory.join(room)
    levels = {"users": {alice.user_id: 100, mallory.user_id: 100}}
    await alice.set_state(room, "m.room.power_levels", levels)

    # By a stranger, who may write anything into the creation of a room of their own.
    trap = await mallory.create_room(
        alice.user_id, creation_content={"predecessor": {"room_id": room, "event_id": "$x"}}
    )
    await alice.join(trap)
    await alice.invite(trap, agent)
    await alice.wait_for_member(trap, agent)
    await mallory.set_state(room, "m.room.tombstone", {"body": "x", "replacement_room": trap})
    # By somebody who may, into a room that knows nothing of it.
    other = await alice.create_room(agent, name="other")
    await alice.wait_for_member(other, agent)
    await alice.set_state(room, "m.room.tombstone", {"body": "x", "replacement_room": other})

    await alice.send(trap, f"{agent}: what is said here?")
    await alice.wait_for_text(trap, "what is said here?", sender=agent)
    await alice.send(room, f"{agent}: still mine")
    await alice.wait_for_text(room, "still mine", sender=agent)
    assert not any("mine" in message.text for message in installation.api.asked[1].messages)
    runners = await installation.orchestrator.runners()
    assert {runner.room_id for runner in runners} == {room, trap}
    for somewhere in (room, trap, other):
        assert texts.ROOM_CONTINUES not in alice.texts(somewhere, sender=agent)
