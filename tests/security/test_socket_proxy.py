"""Somebody who has taken over the orchestrator, at the socket proxy, before the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import socket
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import docker
import pytest
from docker.models.containers import Container

from orchestrator.core.naming import runner_name
from orchestrator.core.sandbox import SandboxSpec, build_labels, build_options
from orchestrator.model import InstallationId
from orchestrator.runners.docker_config import container_config
from orchestrator.runners.image import build_query, read_source
from tests.support.runner_engine import ensure_runner_image, new_installation
from tests.support.socket_proxy import SocketProxy, open_socket_proxy, room_in_state

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

_SECRET = f"canary-{secrets.token_hex(8)}"
_SLEEP = ["/usr/bin/python3", "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_runner_image()


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def foreign(engine: docker.DockerClient, image: str) -> Iterator[Container]:
    """Somebody else's, of another installation at that."""
    container = engine.containers.run(
        image,
        entrypoint=_SLEEP,
        detach=True,
        network_mode="none",
        environment={"PASSWORD": _SECRET},
        labels={"aiagentchat.installation": "f" * 16, "aiagentchat.room": "foreign"},
    )
    yield container
    container.remove(force=True)


@pytest.fixture
def installation() -> InstallationId:
    return new_installation()


@pytest.fixture
def spec(tmp_path: Path, installation: InstallationId, image: str) -> SandboxSpec:
    return room_in_state(tmp_path / "state", installation, image)


@pytest.fixture
async def proxy(
    tmp_path: Path, spec: SandboxSpec, engine: docker.DockerClient
) -> AsyncIterator[SocketProxy]:
    async with open_socket_proxy(tmp_path / "engine", tmp_path / "state") as opened:
        yield opened
    labels = f"aiagentchat.installation={spec.installation}"
    for container in engine.containers.list(all=True, filters={"label": labels}):
        container.remove(force=True)


@pytest.fixture
def intruder(proxy: SocketProxy) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=proxy.address, version="1.41", timeout=20)
    yield client
    client.close()


def body_of(spec: SandboxSpec) -> dict[str, Any]:
    made = container_config(build_options(spec), build_labels(spec))
    body: dict[str, Any] = json.loads(json.dumps(made))
    return body


def make(client: docker.APIClient, spec: SandboxSpec) -> str:
    made = client.create_container_from_config(body_of(spec), spec.name)
    return str(made["Id"])


async def test_somebody_elses_container_is_not_there(
    proxy: SocketProxy,
    intruder: docker.APIClient,
    foreign: Container,
    spec: SandboxSpec,
    engine: docker.DockerClient,
) -> None:
    await asyncio.to_thread(make, intruder, spec)
    calls: list[Callable[[str], object]] = [
        intruder.inspect_container,
        intruder.diff,
        intruder.stop,
        intruder.start,
        intruder.unpause,
        lambda one: intruder.top(one, ps_args="-eLo pid,lwp"),
        lambda one: intruder.stats(one, stream=False, one_shot=True),
        lambda one: intruder.remove_container(one, force=True),
        lambda one: intruder.exec_create(one, ["id"], stderr=False, workdir="/"),
    ]
    for name in (foreign.id, foreign.id[:12], foreign.name):
        for call in calls:
            with pytest.raises(docker.errors.NotFound):
                await asyncio.to_thread(call, name)
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        raw = (
            f"POST /v1.41/containers/{name}/attach?{query} HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        assert b" 404 " in (await proxy.exchange(raw.encode())).split(b"\r\n")[0]
    made = engine.api.exec_create(foreign.id, ["id"])["Id"]
    with pytest.raises(docker.errors.NotFound):
        await asyncio.to_thread(intruder.exec_inspect, made)
    seen = await asyncio.to_thread(intruder.containers, all=True)
    assert [one["Names"] for one in seen] == [[f"/{spec.name}"]]
    theirs = {"label": "aiagentchat.installation=" + "f" * 16}
    with pytest.raises(docker.errors.APIError, match="serves the installation"):
        await asyncio.to_thread(intruder.containers, all=True, filters=theirs)
    foreign.reload()
    assert foreign.status == "running"
    assert _SECRET not in proxy.log_path.read_text()


async def test_no_container_is_made_but_a_runner(
    intruder: docker.APIClient, spec: SandboxSpec, engine: docker.DockerClient, tmp_path: Path
) -> None:
    def changed(**host: object) -> dict[str, Any]:
        body = body_of(spec)
        body["HostConfig"] |= host
        return body

    before = {one.id for one in engine.containers.list(all=True)}
    plain = [
        {"Image": spec.image, "HostConfig": {"Privileged": True, "Binds": ["/:/host"]}},
        {"Image": spec.image, "Cmd": ["id"], "Labels": body_of(spec)["Labels"]},
        changed(Privileged=True),
        changed(Binds=["/:/host"]),
        changed(PidMode="host"),
        changed(NetworkMode="host"),
        changed(SecurityOpt=["seccomp=unconfined"]),
        changed(CapAdd=["SYS_ADMIN"]),
        changed(Runtime="runc"),
        body_of(spec) | {"User": "0:0"},
        body_of(spec) | {"Entrypoint": ["/bin/sh"]},
    ]
    for body in plain:
        with pytest.raises(docker.errors.APIError) as caught:
            await asyncio.to_thread(intruder.create_container_from_config, body, spec.name)
        assert caught.value.status_code == 403, body
    assert {one.id for one in engine.containers.list(all=True)} == before
    # … and the runner itself is made, with what was made anew.
    container = engine.containers.get(await asyncio.to_thread(make, intruder, spec))
    assert container.attrs["HostConfig"]["Privileged"] is False
    assert container.attrs["Config"]["User"] == f"{spec.uid}:{spec.gid}"


@pytest.mark.parametrize("part", ["rooms", "room", "workspace"])
async def test_a_link_in_the_way_of_a_directory_is_refused(
    intruder: docker.APIClient, spec: SandboxSpec, tmp_path: Path, part: str
) -> None:
    state = tmp_path / "state"
    elsewhere = tmp_path / "elsewhere"
    place = {"rooms": state / "rooms", "room": spec.workspace.parent, "workspace": spec.workspace}
    place[part].rename(elsewhere)
    place[part].symlink_to("/" if part == "workspace" else elsewhere)
    with pytest.raises(docker.errors.APIError, match="without links"):
        await asyncio.to_thread(make, intruder, spec)


async def test_a_link_that_is_put_there_before_the_start_is_refused_as_well(
    intruder: docker.APIClient, spec: SandboxSpec, tmp_path: Path, engine: docker.DockerClient
) -> None:
    """The engine mounts at the start, as root: it goes through directories closed to others."""
    closed = tmp_path / "closed"
    (closed / "open").mkdir(parents=True)
    (closed / "open" / "file").write_text(_SECRET)
    (closed / "open").chmod(0o755)
    closed.chmod(0o700)
    container_id = await asyncio.to_thread(make, intruder, spec)
    spec.workspace.rename(tmp_path / "elsewhere")
    spec.workspace.symlink_to(closed / "open")
    with pytest.raises(docker.errors.APIError, match="without links"):
        await asyncio.to_thread(intruder.start, container_id)
    assert engine.containers.get(container_id).status == "created"
    spec.workspace.unlink()
    (tmp_path / "elsewhere").rename(spec.workspace)
    await asyncio.to_thread(intruder.start, container_id)
    assert engine.containers.get(container_id).status == "running"


async def test_an_image_that_is_no_runners_is_refused(
    intruder: docker.APIClient, spec: SandboxSpec, engine: docker.DockerClient
) -> None:
    container = engine.containers.create(spec.image, ["x"], entrypoint=_SLEEP)
    other = container.commit(repository=f"test-{secrets.token_hex(4)}", tag="x")
    container.remove()
    try:
        with pytest.raises(docker.errors.APIError, match="--image"):
            await asyncio.to_thread(make, intruder, replace(spec, image=other.id))
        # What is in its environment is nobody's business here, whatever it is called by.
        for name in (other.id, other.id[7:19], other.tags[0]):
            with pytest.raises(docker.errors.ImageNotFound):
                await asyncio.to_thread(intruder.inspect_image, name)
        found = await asyncio.to_thread(intruder.inspect_image, spec.image)
        assert found["Id"] == spec.image
    finally:
        engine.images.remove(other.id, force=True)


async def test_an_image_that_was_allowed_is_there_by_name_and_id(
    tmp_path: Path, spec: SandboxSpec, engine: docker.DockerClient
) -> None:
    name = f"test-{secrets.token_hex(4)}"
    container = engine.containers.create(spec.image, ["x"], entrypoint=_SLEEP)
    other = container.commit(repository=name)
    container.remove()
    try:
        async with open_socket_proxy(tmp_path / "e2", tmp_path / "state", "--image", name) as one:
            client = docker.APIClient(base_url=one.address, version="1.41", timeout=20)
            for reference in (name, other.id):
                found = await asyncio.to_thread(client.inspect_image, reference)
                assert found["Id"] == other.id
            client.close()
    finally:
        engine.images.remove(other.id, force=True)


async def test_an_image_that_is_not_there_is_missing_as_before_the_engine(
    intruder: docker.APIClient, spec: SandboxSpec
) -> None:
    """Who may not be an intruder has to know: a runner that is gone is another thing."""
    gone = replace(spec, image="sha256:" + "0" * 64)
    with pytest.raises(docker.errors.ImageNotFound):
        await asyncio.to_thread(make, intruder, gone)


async def test_the_engine_fetches_nothing_for_an_intruder(proxy: SocketProxy) -> None:
    """A Dockerfile's ADD and a pull come from the host itself, and reach its loopback."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        inside = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        text = f"FROM scratch\nADD http://{inside}/latest/meta-data /x\n".encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
        files = archive.getvalue()
        requests = [
            (f"/v1.41/build?{urlencode(build_query(read_source(), 'scratch', {}))}", files),
            (f"/v1.41/build?t=aiagentchat%2Frunner%3A{secrets.token_hex(6)}", files),
            (f"/v1.41/images/create?fromImage={inside}/x&tag=y", b""),
            # Nor is there a base of theirs, whose programs a build would run as root.
            ("/v1.41/images/create?fromSrc=-&repo=aiagentchat%2Fbase&tag=z", files),
        ]
        for target, body in requests:
            head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            with contextlib.suppress(TimeoutError):  # passed on: what came of it is seen below
                said = await proxy.exchange(head.encode() + body, wait_s=10)
                assert b" 403 " in said.split(b"\r\n")[0]
    assert asked == []


async def test_another_installation_is_refused_once_one_is_served(
    intruder: docker.APIClient, spec: SandboxSpec, tmp_path: Path, proxy: SocketProxy
) -> None:
    await asyncio.to_thread(make, intruder, spec)
    other = InstallationId("e" * 16)
    second = await asyncio.to_thread(room_in_state, tmp_path / "state2", other, spec.image)
    second = replace(
        second,
        workspace=spec.workspace,
        home=spec.home,
        egress_dir=spec.egress_dir,
        slug=spec.slug,
        name=runner_name(other, spec.slug),
    )
    with pytest.raises(docker.errors.APIError, match="serves the installation"):
        await asyncio.to_thread(make, intruder, second)
    kept = proxy.socket.parent / "installation"
    assert kept.read_text().strip() == spec.installation
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_one_connection_has_one_request(
    proxy: SocketProxy, intruder: docker.APIClient, spec: SandboxSpec, foreign: Container
) -> None:
    """What follows the first request, in whatever form, reaches no engine."""
    container_id = await asyncio.to_thread(make, intruder, spec)
    second = f"POST /v1.41/containers/{foreign.id}/stop?t=0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    firsts = [
        b"GET /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
        b"HEAD /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        f"GET /v1.41/containers/{container_id}/json HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        # From here on it is the container's own stream.
        f"POST /v1.41/containers/{container_id}/attach?stream=1 HTTP/1.1\r\nHost: x\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode(),
        # A build whose files are all there.
        b"POST /v1.41/build?t=aiagentchat%2Frunner%3Asmuggled HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 4\r\n\r\nnone",
    ]
    for first in firsts:
        try:
            answer = await proxy.exchange(first + second, wait_s=5)
        except TimeoutError:
            continue  # the engine keeps that connection open; nothing came of the second one
        assert answer.count(b"HTTP/1.1 ") == 1, answer[:500]
        assert b"connection: close" in answer.lower() or answer.startswith(b"HTTP/1.1 101 ")
    foreign.reload()
    assert foreign.status == "running"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1.41/info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1.41/info HTTP/1.1\nHost: x\n\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1.41/volumes HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1.41/containers/../info HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 99999999\r\n\r\n",
        b"POST /v1.41/build?t=aiagentchat%2Frunner%3Aa HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 99999999999\r\n\r\n",
        b"\r\n\r\n",
    ],
)
async def test_what_is_odd_gets_a_refusal(proxy: SocketProxy, raw: bytes) -> None:
    answer = await proxy.exchange(raw)
    assert b" 403 " in answer.split(b"\r\n")[0]
    assert b"aiagentchat's socket proxy" in answer
    assert len(proxy.refusals) == 1


async def test_a_client_that_says_too_much_or_nothing_costs_the_others_nothing(
    proxy: SocketProxy, intruder: docker.APIClient
) -> None:
    idle = []
    for _ in range(50):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(proxy.socket))
        idle.append(client)
    assert await proxy.exchange(b"GET /" + b"x" * 100_000) == b""
    assert await asyncio.to_thread(intruder.ping)
    for client in idle:
        client.close()


async def test_a_body_that_says_a_thing_twice_is_what_was_judged(
    proxy: SocketProxy, spec: SandboxSpec, engine: docker.DockerClient
) -> None:
    text = json.dumps(body_of(spec))
    body = '{"HostConfig": {"Privileged": true, "Binds": ["/:/host"]},' + text[1:]
    raw = (
        f"POST /v1.41/containers/create?name={spec.name} HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    assert b" 201 " in (await proxy.exchange(raw.encode())).split(b"\r\n")[0]
    host = engine.containers.get(spec.name).attrs["HostConfig"]
    assert (host["Privileged"], host["Binds"]) == (False, None)
