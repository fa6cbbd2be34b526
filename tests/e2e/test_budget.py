"""A room's budget, as the people in the room meet it: the daemon, the real CLI, a restart."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_a_room_past_its_budget_reads_why_also_after_a_restart(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "budget": {"usd_per_day": 0.000001}}
    )
    await orchestrator.start()
    alice, agent = await installation.person(), installation.agent.user_id
    room = await installation.room(alice)
    await alice.send(room, "first")
    await alice.wait_for_text(room, "You said: first", timeout_s=90)
    asked = len(installation.api.asked)
    await alice.send(room, "second")
    await alice.wait_for_text(room, "this room has spent its budget for today: $")
    await orchestrator.stop()
    await orchestrator.start()
    await alice.send(room, "third")
    await alice.collect(
        lambda _: sum("spent its budget" in t for t in alice.texts(room, sender=agent)) > 1,
        what="a second refusal",
    )
    await alice.send(room, "!status")
    await alice.wait_for_text(room, "of $0.000001 spent today (UTC)")
    assert len(installation.api.asked) == asked
    refused = [t for t in alice.texts(room, sender=agent) if "spent its budget" in t]
    assert [t for t in refused if "until 00:00 UTC" in t] == refused
