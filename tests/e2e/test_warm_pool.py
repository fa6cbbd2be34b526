"""A runner made ahead, on real parts: the next room is answered from it, and it is well guarded."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Sequence

import pytest

from orchestrator.control.models import RunnerView
from orchestrator.model import RunnerState
from tests.e2e.conftest import Installation
from tests.e2e.test_audit_isolation import audit

pytestmark = [
    pytest.mark.docker,
    pytest.mark.synapse,
    pytest.mark.cli,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="the audit needs root"),
]


async def wait_spares(
    installation: Installation, is_so: Callable[[Sequence[RunnerView]], bool]
) -> list[RunnerView]:
    """Those that run and are no room's."""
    async with asyncio.timeout(90):
        while True:
            found = await installation.orchestrator.runners()
            spares = [view for view in found if view.is_spare and view.state is RunnerState.RUNNING]
            if is_so(spares):
                return spares
            await asyncio.sleep(0.5)


async def test_a_new_room_has_the_runner_that_was_made_ahead_and_the_next_is_made(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure(docker={"prewarm": 1})
    await orchestrator.start()
    (spare,) = await wait_spares(installation, lambda found: len(found) == 1)
    door = orchestrator.state_dir / "rooms" / spare.slug / "egress"
    assert not list(door.iterdir()), "nobody's runner has a way out"
    said = await audit(installation, "--json")
    report = json.loads(said.out)
    assert said.code == 0, said.out
    assert [room["room_id"] for room in report["rooms"]] == ["spare"]

    # A stop leaves it running, and the next start finds it.
    await orchestrator.stop()
    await orchestrator.start()
    (again,) = await wait_spares(installation, lambda found: len(found) == 1)
    assert again.container_id == spare.container_id

    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "echo hello")
    await alice.wait_for_text(room, "hello", sender=installation.agent.user_id)
    mine = next(view for view in await orchestrator.runners() if view.room_id == room)
    assert (mine.container_id, mine.slug) == (spare.container_id, spare.slug)
    (next_one,) = await wait_spares(installation, lambda found: len(found) == 1)
    assert next_one.slug != spare.slug
    said = await audit(installation, "--json")
    report = json.loads(said.out)
    assert said.code == 0, said.out
    assert sorted(room["room_id"] for room in report["rooms"]) == sorted([room, "spare"])


async def test_a_room_with_a_profile_of_its_own_has_nothing_of_the_defaults(
    installation: Installation,
) -> None:
    alice = await installation.person()
    # The room's name is not known before; its alias is.
    profile = {"limits": {"disk": "64 MiB", "memory": "1 GiB"}}
    orchestrator = await installation.configure(docker={"prewarm": 1})
    await orchestrator.start()
    await wait_spares(installation, lambda found: len(found) == 1)
    await orchestrator.stop()
    room = await alice.create_room(installation.agent.user_id, name="own")
    orchestrator = await installation.configure(docker={"prewarm": 1}, rooms={room: profile})
    await orchestrator.start()
    await alice.wait_for_member(room, installation.agent.user_id)
    await alice.send(room, "echo hello")
    await alice.wait_for_text(room, "hello", sender=installation.agent.user_id)
    mine = next(view for view in await orchestrator.runners() if view.room_id == room)
    assert mine.slug.startswith("room---"), "it took the place"
    assert mine.memory_limit_bytes == 1 << 30
    assert mine.disk_limit_bytes is not None
    assert mine.disk_limit_bytes <= 64 << 20
    shown = subprocess.run(
        ["docker", "inspect", mine.container, "--format", "{{.HostConfig.Memory}}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(shown.stdout) == 1 << 30
