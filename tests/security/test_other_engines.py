"""A whole installation on other engines: with user namespaces, under gVisor; and a rootless one.

The same orchestrator, homeserver, CLI and scripted API as everywhere; each takes about a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.id_plan import PROBE_UID
from orchestrator.errors import PreconditionError
from orchestrator.runners.engine import open_engine
from orchestrator.runners.engine_check import check_engine
from tests.e2e.conftest import Installation, installation
from tests.integration.test_engine_hardening import HOST_SOCKETS, RUNSC
from tests.support.private_engine import (
    REMAP_COUNT,
    REMAP_FIRST,
    PrivateEngine,
    open_private_engine,
)
from tests.support.rootless_engine import (
    USER,
    RootlessEngine,
    can_run_rootless,
    open_rootless_engine,
)
from tests.support.small_image import ensure_small_image
from tests.support.tool import bash

__all__ = ["installation"]

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


async def ask_who_it_is(installation: Installation, docker_host: str, **docker: str) -> list[str]:
    """One turn of the real CLI, with a tool: its uid and the kernel that it sees."""
    installation.env["DOCKER_HOST"] = docker_host
    orchestrator = await installation.configure(docker=docker)
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    installation.api.when("who are you", bash("(id -u; grep Seccomp: /proc/self/status) > who"))
    await alice.send(room, "who are you")
    await alice.wait_for_text(
        room, "The tool said", sender=installation.agent.user_id, timeout_s=120
    )
    assert "Isolation: " in orchestrator.log
    (who,) = (orchestrator.state_dir / "rooms").glob("*/workspace/who")
    return [*who.read_text().split(), str(who.stat().st_uid)]


@pytest.fixture
def remapping() -> Iterator[PrivateEngine]:
    with open_private_engine(remap=True) as engine:
        yield engine


@pytest.fixture
def sandboxing() -> Iterator[PrivateEngine]:
    if not Path(RUNSC[0]).exists():
        pytest.skip("NO GVISOR: the package runsc is not installed")
    with open_private_engine(runtimes={"runsc": (*RUNSC, HOST_SOCKETS)}) as engine:
        yield engine


@pytest.mark.synapse
@pytest.mark.cli
async def test_a_turn_on_a_remapping_engine(
    remapping: PrivateEngine, installation: Installation
) -> None:
    uid, _, seccomp, owner = await ask_who_it_is(installation, remapping.docker_host)
    assert 0 < int(uid) < REMAP_COUNT
    assert int(owner) == REMAP_FIRST + int(uid)
    assert seccomp == "2"


@pytest.mark.synapse
@pytest.mark.cli
async def test_a_turn_under_gvisor(sandboxing: PrivateEngine, installation: Installation) -> None:
    host = sandboxing.docker_host
    uid, _, seccomp, owner = await ask_who_it_is(installation, host, runtime="runsc")
    assert uid == owner
    assert seccomp == "0"


# ---- a rootless engine


@pytest.fixture(scope="module")
def rootless() -> Iterator[RootlessEngine]:
    if not can_run_rootless():
        pytest.skip("NO ROOTLESS ENGINE: install rootlesskit and uidmap")
    with open_rootless_engine(ensure_small_image()) as engine:
        yield engine


async def test_a_rootless_engine_that_can_keep_no_limit_is_refused(
    rootless: RootlessEngine,
) -> None:
    """On cgroup v1 it never can; on v2 only with delegated controllers."""
    async with open_engine(rootless.docker_host) as engine:
        with pytest.raises(PreconditionError, match="can't limit memory, processes, processors"):
            await check_engine(engine, runtime=None, least_pids=512)


# Run in the engine's own namespaces, without the check that it fails here.
_FIND_IDS = """
import asyncio, sys
from pathlib import Path
from orchestrator.model import InstallationId
from orchestrator.runners import engine_check
from orchestrator.runners.engine import open_engine

async def main(host, image, folder):
    async with open_engine(host) as engine:
        checked = engine_check.CheckedEngine(engine, await engine_check._read_facts(engine), None)
        print(checked.describe())
        print(await checked.find_ids(
            installation=InstallationId("0" * 16), image=image, state_dir=Path(folder)
        ))

asyncio.run(main(*sys.argv[1:]))
"""


def test_an_orchestrator_in_a_rootless_engines_namespace_sees_its_rooms_ids_as_they_are(
    rootless: RootlessEngine,
) -> None:
    state = rootless.home / "state"
    state.mkdir(mode=0o700)
    os.chown(state, USER, USER)
    # Not the tests' own interpreter, which may be in root's home.
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    inside = ("nsenter", "--target", str(rootless.pid), "--user", "--mount")
    arguments = (rootless.docker_host, ensure_small_image(), str(state))
    found = subprocess.run(
        [*inside, "/usr/bin/python3", "-c", _FIND_IDS, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT}/.venv/lib/python{version}/site-packages",
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    described, ids = found.stdout.splitlines()[-2:]
    assert "a rootless engine" in described
    assert f"uid={PROBE_UID}, host_uid={PROBE_UID}" in ids or "uid=32768, host_uid=32768" in ids
    assert "peer_uid=None" in ids
