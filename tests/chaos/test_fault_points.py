"""Killed at each step of a message's way, the orchestrator loses nothing and does nothing twice.

AIAGENTCHAT_TEST_POINTS (names, separated by commas) tries these alone, to look into one;
AIAGENTCHAT_TEST_OCCURRENCES is how often each is met in the long form, 3 unless said otherwise.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from orchestrator.faultpoint import FaultPoint
from tests.chaos.site import open_site
from tests.chaos.sweep import SweepReport, discover, plan, strike_at_birth, sweep
from tests.support.synapse import SynapseServer

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli]

LANES = 3
ONLY = os.environ.get("AIAGENTCHAT_TEST_POINTS")
OCCURRENCES = int(os.environ.get("AIAGENTCHAT_TEST_OCCURRENCES", "3"))


async def strike_all(
    directory: Path, server: SynapseServer, *, named_only: bool, occurrences: int
) -> SweepReport:
    async with open_site(directory / "first", server) as site:
        found, at_birth = await discover(site)
        missing = [point for point in FaultPoint if point not in found]
        assert missing == [], "the acts don't pass all points that have a name"
        if named_only or ONLY:
            names = ONLY.split(",") if ONLY else list(FaultPoint)
            found, at_birth = {name: found[name] for name in names}, []
        strikes = plan(found, occurrences=occurrences)
        report = await sweep(directory, server, strikes, lanes=LANES, first=site)
    report += await strike_at_birth(directory, server, at_birth)
    sys.stdout.write(f"{report.summary()}\n")
    return report


@pytest.mark.timeout(600)
async def test_a_kill_at_each_named_step_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    report = await strike_all(tmp_path, synapse, named_only=True, occurrences=1)
    assert report.failures == []
    assert report.unreached == []
    assert ONLY or len(report.died) == len(FaultPoint)


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_a_kill_at_each_step_and_each_commit_three_times_loses_nothing(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    report = await strike_all(tmp_path, synapse, named_only=False, occurrences=OCCURRENCES)
    assert report.failures == []
    # What is passed but once or twice in three acts has no third time.
    assert [fault for fault in report.unreached if fault.endswith(":1")] == []
