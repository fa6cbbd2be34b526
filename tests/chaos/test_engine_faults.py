"""The Docker Engine is killed again and again under running turns, and hangs for a minute."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from orchestrator.embedded.messages_model import Text
from tests.e2e import conftest, test_engine_faults
from tests.e2e.test_engine_faults import Site, bash

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
    finally:
        await site.engine_does(site.engine.thaw)
    await site.hear("all done")
    await site.ask("and on")

    assert site.ledger == ["1", "2", "3"]
    assert (site.count("starting"), site.count("all done")) == (1, 1)


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
