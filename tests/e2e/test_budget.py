"""A room's budget, as the people in the room meet it: the daemon, the real CLI, a restart."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_a_room_past_its_budget_reads_why_also_after_a_restart_and_others_go_on(
    installation: Installation,
) -> None:
    alice = await installation.person()
    poor, rich = await installation.room(alice, name="p"), await installation.room(alice, name="r")
    orchestrator = await installation.configure(rooms={poor: {"budget": {"usd_per_day": 0.000001}}})
    await orchestrator.start()
    for room in (poor, rich):
        await alice.send(room, "first")
        await alice.wait_for_text(room, "You said: first", timeout_s=90)
    asked = len(installation.api.asked)
    await alice.send(poor, "second")
    await alice.wait_for_text(
        poor, "Failed: this room has spent its budget for today: $", timeout_s=60
    )
    await orchestrator.stop()
    await orchestrator.start()
    await alice.send(poor, "third")
    await alice.send(rich, "fourth")
    await alice.wait_for_text(rich, "You said: fourth", timeout_s=90)
    await alice.send(poor, "!status")
    await alice.wait_for_text(poor, "of $0.000001 spent today (UTC)", timeout_s=60)
    agent = installation.agent.user_id
    await alice.collect(
        lambda _: sum("spent its budget" in t for t in alice.texts(poor, sender=agent)) > 1,
        what="a second refusal",
    )
    told = alice.texts(poor, sender=agent)
    assert sum("spent its budget" in text for text in told) == 2
    assert not [text for text in told if "You said: third" in text]
    assert [r.last_user_text for r in installation.api.asked[asked:]] == ["fourth"]
