"""A new version is started over an earlier one's state while a turn runs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import docker
import pytest

from orchestrator.runners.image import read_source
from orchestrator.store.copying import list_copies
from orchestrator.store.schema import MIGRATIONS
from tests.e2e.conftest import Installation
from tests.e2e.test_restart import settle
from tests.support.earlier_version import bring_back, make_earlier_program
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(600)]

EARLIER = len(MIGRATIONS) - 1


def images_of_runners(installation: Installation, containers: list[str]) -> list[str]:
    client = docker.from_env()
    try:
        return [client.containers.get(name).image.tags[0] for name in containers]
    finally:
        client.close()


async def test_a_turn_that_runs_at_an_upgrade_is_answered_once_and_its_runner_replaced_when_idle(
    installation: Installation, tmp_path: Path
) -> None:
    installation.api.when("long work", [bash("sleep 8; echo x >> ran")], "The work is done.")
    program = make_earlier_program(tmp_path / "earlier")
    old_tag = read_source(program / "runner-image").tag
    orchestrator = await installation.configure()
    await orchestrator.spawn({"PYTHONPATH": str(program)})
    await orchestrator.wait_ready()
    alice = await installation.person()
    agent = installation.agent.user_id
    room = await installation.room(alice)
    await alice.send(room, "remember the colour teal")
    await alice.wait_for_text(room, "teal", sender=agent)
    (runner,) = await orchestrator.runners()
    assert images_of_runners(installation, [runner.container]) == [old_tag]

    await alice.send(room, "long work")
    await installation.api.wait_until(lambda api: len(api.asked) == 2)
    assert await orchestrator.stop() == 0
    database = orchestrator.state_dir / "state.sqlite3"
    bring_back(database, EARLIER)
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT count(*) FROM turns WHERE state = 'running'").fetchone() == (1,)

    await orchestrator.start()
    await alice.wait_for_text(room, "The work is done.", sender=agent)
    await settle(alice)

    said = alice.texts(room, sender=agent)
    assert said.count("The work is done.") == 1
    assert not [text for text in said if "Interrupted" in text]
    (ran,) = (orchestrator.state_dir / "rooms").glob("*/workspace/ran")
    assert ran.read_text() == "x\n"
    versions = []
    for copy in list_copies(orchestrator.state_dir):
        with closing(sqlite3.connect(copy)) as db:
            versions.append(db.execute("PRAGMA user_version").fetchone()[0])
    assert EARLIER in versions, "a copy of what was before the migration"

    await alice.send(room, "which colour?")
    await alice.wait_for_text(room, "which colour?", sender=agent)
    (runner,) = await orchestrator.runners()
    assert images_of_runners(installation, [runner.container]) == [read_source().tag]
    assert any("teal" in text for text in installation.api.asked[-1].user_texts)

    await asyncio.to_thread(forget_image, old_tag)


async def test_an_earlier_version_refuses_what_a_newer_one_has_left_and_changes_nothing(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    await orchestrator.stop()
    database = orchestrator.state_dir / "state.sqlite3"
    with closing(sqlite3.connect(database)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = database.read_bytes()

    with pytest.raises(AssertionError, match=r"ended with 4(.|\n)*newer version(.|\n)*restore"):
        await orchestrator.start()

    assert database.read_bytes() == before


def forget_image(tag: str) -> None:
    client = docker.from_env()
    try:
        client.images.remove(tag)
    finally:
        client.close()
