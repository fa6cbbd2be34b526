"""The short form of `python -m tests.chaos.kills`: some random kills under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kills import run_kills, say
from tests.support.synapse import SynapseServer

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(900)]


async def test_random_kills_under_load_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    report = await run_kills(tmp_path, synapse, kills=10, rooms=4, seed=20261125, say=say)
    assert report.is_clean, "\n".join(report.lines())
    assert report.deaths == 10
    assert report.verdict.answered > 0
