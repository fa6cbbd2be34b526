"""Files from a hostile room: what it sends, and what it leaves in its own directories."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from orchestrator.core.texts import file as texts
from orchestrator.model import RunnerState
from tests.e2e.conftest import Installation
from tests.support import hostile_contents
from tests.support.fault_proxy import open_fault_proxy
from tests.support.matrix_user import Json, MatrixUser, body_of
from tests.support.opened_files import OpenedFiles, open_watch
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

# ---- what is sent

MARK = "mark-of-a-hostile-name"
_SEALED = {"v": "v2", "key": {"k": "x", "alg": "A256CTR"}, "iv": "x", "hashes": {"sha256": "x"}}
NAMES = (
    "../../../../etc/cron.d/{}",
    "/etc/{}",
    "..\\..\\{}",
    "{}\n\nforged line",
    "{}\x00.txt",
    "\u202e{}gpj.exe",
    "{}\u200b\u2066",
    "-rf {}",
    "!new {}",
    "@room {}",
    "<img src=x onerror={}>",
    "{}" + "x" * 3000,
    "con.{}",
    "{}\ud7ff\U000e0041",
)
INFOS: tuple[Any, ...] = (
    {"size": 0},
    {"size": -1},
    {"size": (1 << 53) - 1},
    {"size": "large", "mimetype": "text/html; charset=\r\nX: y"},
    {"mimetype": "../../x", "thumbnail_url": "mxc://evil.example/thumbnail"},
    {"thumbnail_file": {"url": "mxc://evil.example/sealed", **_SEALED}},
    {"w": (1 << 53) - 1, "h": -1, "duration": "x"},
    "not an object",
    [1, 2],
    None,
)
URLS: tuple[Any, ...] = (
    "mxc://evil.example/a",
    "mxc://../../x",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "",
    7,
    None,
)


def hostile_events() -> Iterator[Json]:
    """Contents of m.room.message, each of which names a file in its own odd way."""
    for name in NAMES:
        body = name.format(MARK)
        yield {"msgtype": "m.file", "body": body, "filename": body, "url": URLS[0]}
    for info in INFOS:
        yield {"msgtype": "m.image", "body": MARK, "url": URLS[0], "info": info}
    for url in URLS:
        yield {"msgtype": "m.video", "body": MARK, "url": url}
        yield {"msgtype": "m.audio", "body": MARK, "file": {"url": url, **_SEALED}}
    yield {"msgtype": "m.file", "body": MARK, "file": [MARK]}
    yield {"msgtype": "m.audio", "body": MARK, "org.matrix.msc3245.voice": {}}


async def test_where_no_files_are_taken_a_hostile_one_ends_in_one_plain_notice_and_no_download(
    installation: Installation,
) -> None:
    events = list(hostile_events())
    async with open_fault_proxy(installation.server.base_url) as proxy:
        orchestrator = await installation.configure(
            matrix={"homeserver": proxy.base_url, "user_id": installation.agent.user_id},
            gateway={"sender_burst": 1000},
            defaults={"permissions": "bypass", "files": {"received_per_turn": 0}},
        )
        await orchestrator.start()
        alice = await installation.person()
        room = await installation.room(alice)
        for content in events:
            await alice.send_event(room, "m.room.message", content)
        await alice.send(room, "are you there")
        await alice.wait_for_text(room, "You said: are you there", timeout_s=120)

        agent = installation.agent.user_id
        wanted = len(events)
        await alice.collect(
            lambda _: len(alice.texts(room, sender=agent)) > wanted,
            timeout_s=120,
            what="a notice for each file",
        )
        said = alice.texts(room, sender=agent)
        assert said.count(texts.TAKES_NONE) == wanted
        assert len(said) == wanted + 1
        shown = [event for event in alice.timeline if event["sender"] == agent]
        assert MARK not in json.dumps(shown)
        assert proxy.requests("GET *media*") == []
        assert [s.path for s in proxy.seen if "evil.example" in s.path] == []
        assert MARK not in orchestrator.log
        prompts = json.dumps([request.last_user_text for request in installation.api.asked])
        assert MARK not in prompts


# ---- what lies in its directories


@contextmanager
def the_container(installation: Installation, name: str) -> Iterator[Container]:
    client = docker.from_env()
    try:
        yield client.containers.get(name)
    finally:
        client.close()


def directories(container: Container) -> dict[str, Path]:
    """Where the runner's mounts are on this host."""
    return {mount["Destination"]: Path(mount["Source"]) for mount in container.attrs["Mounts"]}


async def ask(installation: Installation, alice: MatrixUser, room: str, name: str) -> str:
    """A turn with a command in it; what the agent said."""
    installation.api.when(f"run {name}", [bash(f"ls | wc -l; echo end-of-{name}")])
    await alice.send(room, f"run {name}")
    return body_of(await alice.wait_for_text(room, f"end-of-{name}", timeout_s=120))


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[OpenedFiles]:
    with open_watch(tmp_path / "state") as opened:
        yield opened


def assert_nothing_of_the_rooms(opened: set[Path]) -> None:
    """Neither in a workspace nor in a home; the two themselves are given their owner."""
    inside = {path for path in opened if {"workspace", "home"} & {*path.parts[:-1]}}
    assert inside == set()
    assert Path("state.sqlite3") in opened, "the watch sees what the daemon opens"


async def test_the_daemon_opens_nothing_that_a_room_can_write(
    installation: Installation, watch: OpenedFiles
) -> None:
    orchestrator = await installation.configure(docker={"disk_quota": "image"})
    await orchestrator.start()
    pids = [orchestrator.pid]
    alice = await installation.person()
    room = await installation.room(alice)
    await ask(installation, alice, room, "before")
    watch.watch_mounts()
    (runner,) = await orchestrator.runners()
    await orchestrator.stop()

    # A room fills its directories, and both the runner and the orchestrator start anew on them.
    with the_container(installation, runner.container) as container:
        found = directories(container)
        uid, gid = (int(part) for part in container.attrs["Config"]["User"].split(":"))
        for target in ("/workspace", "/home/agent"):
            hostile_contents.fill(found[target], other_room=found[target], uid=uid, gid=gid)
        container.remove(force=True)
    await orchestrator.start()
    pids.append(orchestrator.pid)
    assert await ask(installation, alice, room, "after")

    # Swapped as fast as it goes, during a turn and a restart that adopts the runner.
    (runner,) = await orchestrator.runners()
    with the_container(installation, runner.container) as container:
        for folder in ("/workspace", "/home/agent"):
            command = ["python3", "-c", hostile_contents.SWAPS, folder, "/etc"]
            container.exec_run(command, detach=True)
    await ask(installation, alice, room, "swapping")
    await orchestrator.stop()
    await orchestrator.start()
    pids.append(orchestrator.pid)
    await ask(installation, alice, room, "adopted")

    await alice.kick(room, installation.agent.user_id)
    async with asyncio.timeout(60):
        while RunnerState.RUNNING in {  # noqa: ASYNC110 -- another process stops it
            runner.state for runner in await orchestrator.runners()
        }:
            await asyncio.sleep(0.1)
    await orchestrator.stop()

    for pid in pids:
        assert_nothing_of_the_rooms(watch.by(pid))
    assert not Path("/tmp/aiagentchat-ran-gits-program").exists()
