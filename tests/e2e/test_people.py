"""People as a room on real parts knows them: greeted, told apart, given roles, kept to a budget."""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_a_room_is_greeted_once_its_levels_give_roles_and_its_turns_are_counted(
    installation: Installation,
) -> None:
    alice, bob = await installation.person(), await installation.person("bob")
    agent = installation.agent.user_id
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "greet": True, "budget": {"turns_per_day": 2}},
        access={
            "users": [alice.user_id],
            "power_levels": {"admin": 100, "approver": 50, "user": 10},
        },
    )
    await orchestrator.start()
    room = await installation.room(alice, bob.user_id)
    await alice.wait_for_text(room, "I am a Claude Code agent")
    await bob.join(room)
    await alice.wait_for_member(room, bob.user_id)

    # Bob has no level and is on no list; Alice made the room, and is an admin by its levels.
    await bob.send(room, f"{agent} hello")
    await bob.wait_for_text(room, "I only take turns from people")
    levels = await alice.get_state(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 10}
    await alice.set_state(room, "m.room.power_levels", levels)
    await bob.send(room, f"{agent} may I?")
    await bob.wait_for_text(room, "You said:", timeout_s=90)
    asked = installation.api.asked[-1]
    name = bob.user_id[1:].partition(":")[0]
    assert re.search(rf"\[(?:{name} )?\(?{re.escape(bob.user_id)}\)? #[0-9a-f]{{16}}\]", str(asked))

    await orchestrator.stop()
    await orchestrator.start()
    await alice.send(room, f"{agent} second")
    await alice.wait_for_text(room, "second", timeout_s=90)
    await alice.send(room, f"{agent} third")
    await alice.wait_for_text(room, "this room has had its 2 turns for today")
    await bob.send(room, "!budget +1 turns")
    await bob.wait_for_text(room, "is for admins of this room")
    await alice.send(room, "!budget +1 turns")
    await alice.wait_for_text(room, "3 turns until 00:00 UTC")
    before = len(installation.api.asked)
    await alice.send(room, f"{agent} fourth")
    await alice.collect(
        lambda _: len(installation.api.asked) > before, what="a turn after the raise"
    )
    await alice.send(room, "!cost")
    await alice.wait_for_text(room, bob.user_id)
    greetings = [t for t in alice.texts(room, sender=agent) if "I am a Claude Code agent" in t]
    assert len(greetings) == 1
