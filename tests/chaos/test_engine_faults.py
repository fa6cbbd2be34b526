"""The Docker Engine is killed again and again under running turns, and hangs for a minute."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from orchestrator.embedded.messages_model import Text
from tests.e2e import conftest, test_engine_faults
from tests.e2e.test_engine_faults import LEDGER, Site, bash, expect_interruption

pytestmark = [
    pytest.mark.docker,
    pytest.mark.synapse,
    pytest.mark.cli,
    pytest.mark.long,
    pytest.mark.timeout(900),
]
installation = conftest.installation
private_engine = test_engine_faults.private_engine
site = test_engine_faults.site

TURNS = 6
SEED = 3


async def test_turns_under_an_engine_that_is_killed_all_the_time_are_answered_once(
    site: Site,
) -> None:
    """Kills at random moments; whoever waits for it is found again within seconds."""
    for number in range(TURNS):
        command = f"for n in 1 2 3 4 5; do sleep 1; echo {number}.$n >> ledger; done"
        steps = [Text(text=f"starting {number}"), bash(command)]
        site.api.when(f"^count {number}$", steps, f"done with {number}")
    await site.start()
    chance = random.Random(SEED)
    killing = asyncio.create_task(_kill_for_ever(site, chance))  # noqa: TID251 - ended below
    try:
        for number in range(TURNS):
            await site.say(f"count {number}")
            await site.hear(f"done with {number}", timeout_s=240)
    finally:
        killing.cancel()
        await asyncio.wait([killing])
        if not site.engine.is_up:
            await site.engine_does(site.engine.start, live_restore=True)
    await site.settle()

    assert site.ledger == [f"{number}.{n}" for number in range(TURNS) for n in range(1, 6)]
    for number in range(TURNS):
        assert site.count(f"starting {number}") == 1
        assert site.count(f"done with {number}") == 1
    assert site.count("Interrupted") == 0


async def test_an_engine_that_hangs_for_a_minute_costs_no_turn(site: Site) -> None:
    command = "for n in 1 2 3; do sleep 1; echo $n >> ledger; done"
    site.api.when("^count$", [Text(text="starting"), bash(command)], "all done")
    await site.start()
    await site.say("count")
    await site.hear("starting")
    await site.engine_does(site.engine.freeze)
    try:
        await site.say("!status")
        await site.hear("Version")
        await site.settle(70)  # longer than a call of the engine may take
        # Nor does a call that hangs hold an orchestrator that is told to stop.
        assert await site.installation.orchestrator.stop() == 0
    finally:
        await site.engine_does(site.engine.thaw)
    await site.installation.orchestrator.start()
    await site.hear("all done")
    await site.ask("and on")

    assert site.ledger == ["1", "2", "3"]
    assert (site.count("starting"), site.count("all done")) == (1, 1)


async def test_a_killed_orchestrator_finds_its_turn_after_its_engine_was_away_too(
    site: Site,
) -> None:
    site.api.when("count", [Text(text="starting"), bash(f"sleep 2; {LEDGER}; sleep 8")], "all done")
    await site.start()
    await site.say("count")
    await site.hear("starting")
    await site.engine_does(site.engine.kill)
    await site.installation.orchestrator.kill()
    with pytest.raises(AssertionError, match=r"(?s)ended with 3.*No Docker Engine answers"):
        await site.installation.orchestrator.start()
    await site.wait_ledger()
    await site.engine_does(site.engine.start, live_restore=True)
    await site.installation.orchestrator.start()
    await site.hear("all done")
    await site.settle()

    assert site.ledger == ["ran"]
    assert (site.count("starting"), site.count("all done")) == (1, 1)


async def test_an_idle_runner_that_is_stopped_or_removed_by_hand_is_replaced(site: Site) -> None:
    await site.start()
    await site.by_hand(lambda one: one.stop(timeout=0))
    await site.ask("after the stop")
    await site.by_hand(lambda one: one.remove(force=True))
    await site.ask("after the removal")

    assert len(await site.containers()) == 1
    assert (await site.runner()).generation == 3
    assert any("warm up" in message.text for message in site.api.asked[-1].messages)


async def test_a_turn_whose_runner_is_frozen_by_hand_goes_on_when_it_is_thawed(
    site: Site,
) -> None:
    site.api.when("count", [Text(text="starting"), bash(f"sleep 2; {LEDGER}")], "all done")
    await site.start()
    await site.say("count")
    await site.hear("starting")
    await site.by_hand(lambda one: one.pause())
    await site.settle(12)  # longer than a ping of the wire is waited for
    assert site.ledger == []
    await site.by_hand(lambda one: one.unpause())
    await site.hear("all done")

    assert site.ledger == ["ran"]
    assert (site.count("starting"), site.count("all done")) == (1, 1)
    assert site.count("Interrupted") == 0


async def test_a_runner_that_was_created_and_never_started_is_started(site: Site) -> None:
    """The orchestrator died between the two calls."""
    await site.start()
    await site.by_hand(lambda one: one.stop(timeout=0))
    await site.installation.orchestrator.kill()
    own = (await site.containers())[0].split()[0]

    def create_again() -> None:
        with site.engine.client() as client:
            api, facts = client.api, client.api.inspect_container(own)
            api.remove_container(own, force=True)
            config = {**facts["Config"], "HostConfig": facts["HostConfig"]}
            api.create_container_from_config(config, own)

    await asyncio.to_thread(create_again)
    await site.installation.orchestrator.start()
    await site.ask("and on")
    assert await site.containers() == [f"{own} running"]


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
async def test_a_turn_whose_runner_ends_is_told_once_and_not_run_again(
    site: Site, signal: str
) -> None:
    """SIGTERM: the shim says its last frames, and exits with 0."""
    await expect_interruption(site, lambda one: one.kill(signal))


async def _kill_for_ever(site: Site, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(2, 8))
        # Whole: a start that is given up half-way would leave an engine that nobody knows.
        await asyncio.shield(site.engine_does(_restart(site, chance.uniform(0, 3))))


def _restart(site: Site, pause_s: float) -> Callable[[], None]:
    def work() -> None:
        site.engine.kill()
        time.sleep(pause_s)
        site.engine.start(live_restore=True)

    return work
