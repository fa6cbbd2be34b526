"""Engines with user namespaces and with gVisor: what a room is there, and what is refused.

On engines of the tests' own. Rooms are housed as `orchestrator up` houses them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.core.id_plan import PROBE_UID
from orchestrator.core.naming import room_uid
from orchestrator.errors import PreconditionError
from orchestrator.runners.engine import open_engine
from orchestrator.runners.engine_check import check_engine
from orchestrator.runners.probe import ProbePlan, run_probe
from tests.support.egress import REAL_KEY
from tests.support.lodged_room import LodgedRoom, open_lodged_room
from tests.support.private_engine import (
    REMAP_COUNT,
    REMAP_FIRST,
    PrivateEngine,
    open_private_engine,
)
from tests.support.runner_engine import new_installation
from tests.support.small_image import ensure_small_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

# Debian 12's runsc is of 2022: its name for --host-uds=open. The platform needs no KVM; and of a
# room's own empty network namespace this kernel makes it believe that it is the host's.
RUNSC = ("/usr/bin/runsc", "--platform=ptrace", "--network=none")
HOST_SOCKETS = "--fsgofer-host-uds"


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_small_image()


@pytest.fixture(scope="module")
def remapped(image: str) -> Iterator[PrivateEngine]:
    with open_private_engine(image, remap=True) as engine:
        yield engine


@pytest.fixture
async def room(remapped: PrivateEngine, image: str, tmp_path: Path) -> AsyncIterator[LodgedRoom]:
    host = remapped.docker_host
    async with open_lodged_room(
        tmp_path / "state", image, installation=new_installation(), docker_host=host
    ) as room:
        yield room


async def test_a_start_and_audits_beside_it_try_the_engine_out_one_after_the_other(
    image: str, tmp_path: Path
) -> None:
    plan = ProbePlan(installation=new_installation(), image=image, runtime=None)
    async with open_engine() as engine:
        seen = await asyncio.gather(
            *(run_probe(engine, plan, tmp_path / "probe", named="runc") for _ in range(3))
        )
    assert {(each.file_uid, each.peer_uid) for each in seen} == {(PROBE_UID, PROBE_UID)}
    assert list(tmp_path.iterdir()) == []


# ---- an engine with user namespaces


async def test_a_remapped_runner_is_nobody_on_the_host_not_even_as_its_root(
    room: LodgedRoom,
) -> None:
    assert (await room.run("whoami")).strip() == "agent"
    assert (await room.run("id", "-u")).strip() == str(room.spec.uid)
    pid = (await room.facts())["State"]["Pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert uids == [str(REMAP_FIRST + room.spec.uid)] * 4
    assert 0 < room.spec.uid < REMAP_COUNT
    as_root = await room.run("cat", "/proc/self/uid_map", user="0:0")
    assert as_root.split() == ["0", str(REMAP_FIRST), str(REMAP_COUNT)]


async def test_a_remapped_rooms_door_knows_the_room_by_its_uid_on_the_host(
    room: LodgedRoom,
) -> None:
    assert await room.request() == "200"
    (seen,) = room.upstream.seen
    assert seen.headers["x-api-key"] == REAL_KEY
    assert room.gateway.stats(room.spec.slug).peers_refused == 0
    # The container's own root is another uid: it may enter nothing of the room's, nor its door.
    refused = await room.run("sh", "-c", "cat /workspace/* || echo no", user="1:1")
    assert "no" in refused


async def test_a_remapped_rooms_places_are_its_own_and_the_wire_works(room: LodgedRoom) -> None:
    assert await room.link.ping() < 30
    places = "/workspace /home/agent /tmp /run/nss"
    found = (await room.run("stat", "-c", "%u:%g", *places.split())).split()
    assert found == [f"{room.spec.uid}:{room.spec.gid}"] * 4
    written = await room.run("sh", "-c", f"for d in {places}; do touch $d/x || echo $d; done")
    assert written == ""
    owner = (room.spec.workspace / "x").stat()
    assert (owner.st_uid, owner.st_gid) == (REMAP_FIRST + room.spec.uid,) * 2


async def test_the_limits_hold_on_a_remapping_engine(room: LodgedRoom) -> None:
    host = (await room.facts())["HostConfig"]
    limits = room.spec.limits
    assert (host["Memory"], host["PidsLimit"]) == (limits.memory_bytes, limits.pids)
    assert host["UsernsMode"] == ""
    shown = await room.run("cat", "/proc/self/status")
    assert "Seccomp:\t2" in shown
    assert "CapBnd:\t0000000000000000" in shown


async def test_an_installation_that_moves_to_a_remapping_engine_and_back_keeps_its_files(
    remapped: PrivateEngine, image: str, tmp_path: Path
) -> None:
    installation, state = new_installation(), tmp_path / "state"
    plain = room_uid(installation, 3)
    owners = []
    for turn, host in enumerate((None, remapped.docker_host, None)):
        async with open_lodged_room(
            state, image, installation=installation, docker_host=host, index=3
        ) as room:
            script = f"mkdir -p a/b && echo {turn} >> a/b/file && cat a/b/file"
            assert (await room.run("sh", "-c", script)).split() == [str(n) for n in range(turn + 1)]
            owners.append((room.spec.workspace / "a" / "b" / "file").stat().st_uid)
    assert (owners[0], owners[2]) == (plain, plain)
    assert REMAP_FIRST < owners[1] < REMAP_FIRST + REMAP_COUNT


# ---- what is refused


async def test_the_machines_engine_offers_what_rooms_need() -> None:
    async with open_engine() as engine:
        checked = await check_engine(engine, runtime=None, least_pids=512)
    assert "seccomp" in checked.facts.security
    assert checked.facts.runc


async def test_a_runtime_that_the_engine_does_not_have_ends_the_start_with_a_list() -> None:
    async with open_engine() as engine:
        with pytest.raises(PreconditionError, match=r"docker.runtime is kata.*It has: .*runc"):
            await check_engine(engine, runtime="kata", least_pids=512)


# ---- gVisor


@pytest.fixture(scope="module")
def sandboxing(image: str) -> Iterator[PrivateEngine]:
    if not Path(RUNSC[0]).exists():
        pytest.skip("NO GVISOR: the package runsc is not installed")
    runtimes = {
        "runsc": (*RUNSC, HOST_SOCKETS),
        "runsc-closed": RUNSC,
        "kata": ("/nonexistent/kata-runtime",),
    }
    with open_private_engine(image, runtimes=runtimes) as engine:
        yield engine


async def test_under_gvisor_a_room_has_its_wire_its_door_and_not_the_hosts_kernel(
    sandboxing: PrivateEngine, image: str, tmp_path: Path
) -> None:
    async with open_lodged_room(
        tmp_path / "state",
        image,
        installation=new_installation(),
        docker_host=sandboxing.docker_host,
        runtime="runsc",
    ) as room:
        assert await room.link.ping() < 30
        assert await room.request() == "200"
        assert room.gateway.stats(room.spec.slug).peers_refused == 0
        assert (await room.facts())["HostConfig"]["Runtime"] == "runsc"
        assert "gVisor" in await room.run("dmesg")
        # Its own filter stands between the sandbox and the host; ours isn't used.
        assert "Seccomp:\t0" in await room.run("cat", "/proc/self/status")
        assert (await room.run("whoami")).strip() == "agent"
        names = "import socket; print([name for _, name in socket.if_nameindex()])"
        assert (await room.run("python3", "-c", names)).strip() in {"[]", "['lo']"}
        assert room.spec.workspace.lstat().st_uid == room.spec.uid


@pytest.mark.parametrize(
    ("runtime", "words"),
    [("runsc-closed", "--host-uds=open"), ("kata", "did not start a runner")],
)
async def test_a_runtime_under_which_no_door_works_ends_the_start_with_the_remedy(
    sandboxing: PrivateEngine, image: str, tmp_path: Path, runtime: str, words: str
) -> None:
    with pytest.raises(PreconditionError, match=words):
        async with open_lodged_room(
            tmp_path / "state",
            image,
            installation=new_installation(),
            docker_host=sandboxing.docker_host,
            runtime=runtime,
        ):
            pass
    assert not (tmp_path / "state" / "probe").exists()
    with sandboxing.client() as client:
        assert client.containers.list(all=True) == []
