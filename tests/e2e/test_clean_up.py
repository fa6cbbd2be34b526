"""`orchestrator gc` on a real installation: what it lists, what it removes, and what it leaves."""

from __future__ import annotations

import asyncio
import os

import docker
import pytest

from orchestrator.runners.image import IMAGE_NAME
from tests.e2e.conftest import Installation
from tests.support.orchestrator import ORCHESTRATOR

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def gc(installation: Installation, *options: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *("gc", "--state-dir", str(installation.orchestrator.state_dir), *options),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_only_what_nobody_needs_goes(installation: Installation) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    kept, left = [await installation.room(alice, name=name) for name in ("kept", "left")]
    for room in (kept, left):
        await alice.send(room, "hello")
        await alice.wait_for_text(room, "hello", sender=installation.agent.user_id)
    runners = {one.room_id: one for one in await orchestrator.runners()}
    client = docker.from_env()
    old = f"{IMAGE_NAME}:000000000000"
    client.images.get(client.containers.get(runners[kept].container).image.id).tag(old)
    await alice.kick(left, installation.agent.user_id)
    async with asyncio.timeout(60):
        while client.containers.get(runners[left].container).status == "running":  # noqa: ASYNC110 - the engine
            await asyncio.sleep(0.5)

    rooms = orchestrator.state_dir / "rooms"
    code, said = await gc(installation)
    assert code == 0
    assert f"would   remove container {runners[left].container}" in said
    assert f"would   remove image {old}" in said
    assert f"keep    room's files {runners[left].slug} (the agent is not in it" in said
    assert runners[kept].slug not in said
    assert client.containers.get(runners[left].container).status == "exited"

    code, said = await gc(installation, "--yes")
    assert code == 0, said
    assert f"removed container {runners[left].container}" in said
    assert f"removed image {old}" in said
    assert client.containers.get(runners[kept].container).status == "running"
    assert (rooms / runners[left].slug).is_dir()
    code, said = await gc(installation, "--yes", "--all")
    assert code == 3
    assert "another orchestrator" in said

    await orchestrator.stop()
    code, said = await gc(installation, "--yes", "--all")
    assert code == 0, said
    assert f"removed room's files {runners[left].slug}" in said
    assert not (rooms / runners[left].slug).exists()
    assert (rooms / runners[kept].slug).is_dir()
    await orchestrator.start()
    await alice.send(kept, "still there?")
    await alice.wait_for_text(kept, "still there?", sender=installation.agent.user_id)
    client.close()


async def test_where_there_is_no_installation_it_says_so(installation: Installation) -> None:
    await installation.configure()
    code, said = await gc(installation)
    assert (code, "does not exist" in said) == (3, True)
    installation.orchestrator.state_dir.mkdir()
    code, said = await gc(installation)
    assert (code, "there is no installation in" in said) == (3, True)
