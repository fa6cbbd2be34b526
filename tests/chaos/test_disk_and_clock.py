"""A full disk, clocks that jump, a machine that stood still: on real parts, without a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.client import ControlClient
from orchestrator.control.models import StoreState
from orchestrator.core.naming import room_slug
from orchestrator.embedded.messages_model import Text
from orchestrator.model import RoomId
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.messages_api import open_scripted_api
from tests.support.orchestrator import (
    CCHAT,
    ORCHESTRATOR,
    Orchestrator,
    open_orchestrator,
    write_config,
)
from tests.support.small_disk import can_mount, open_small_disk
from tests.support.synapse import SynapseServer
from tests.support.tool import bash

pytestmark = [
    pytest.mark.docker,
    pytest.mark.synapse,
    pytest.mark.cli,
    pytest.mark.faults,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not can_mount(), reason="NOT ROOT: no disk can be mounted"),
]
# Debian's package faketime; its wrapper would hide the process's id.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture
async def installation(tmp_path: Path, synapse: SynapseServer) -> AsyncIterator[Installation]:
    import secrets

    agent = synapse.register(f"claude-{secrets.token_hex(4)}")
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_scripted_api())
        yield Installation(tmp_path, synapse, api, agent, stack)


async def warm_room(installation: Installation, person: MatrixUser, name: str) -> str:
    """A room whose runner is up."""
    room = await installation.room(person, name=name)
    await person.send(room, f"warm {name}")
    await person.wait_for_text(room, f"warm {name}", sender=installation.agent.user_id)
    return room


async def settle(person: MatrixUser, seconds: float = 4) -> None:
    """Give a wrong second answer the time to come."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        await person.sync()


async def wait_for_store(orchestrator: Orchestrator, state: StoreState) -> str | None:
    """Until the control socket says so; the reason in words."""
    async with asyncio.timeout(60):
        while True:
            store = (await ControlClient(orchestrator.state_dir).status()).store
            if store.state is state:
                return store.reason
            await asyncio.sleep(0.1)


def integrity(state_dir: Path) -> str:
    with closing(sqlite3.connect(state_dir / "state.sqlite3")) as db:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])


def counts(person: MatrixUser, installation: Installation, room: str, text: str) -> int:
    said = person.texts(room, sender=installation.agent.user_id)
    return sum(text in body for body in said)


async def test_a_full_disk_holds_everything_up_and_nothing_is_lost_or_said_twice(
    installation: Installation,
) -> None:
    installation.api.when("go on", [Text(text="starting"), bash("sleep 3")], "went on")
    orchestrator = await installation.configure()
    with open_small_disk(orchestrator.state_dir, mib=64) as disk:
        await orchestrator.start()
        pid, alice = orchestrator.pid, await installation.person()
        room = await warm_room(installation, alice, "one")
        other = await warm_room(installation, alice, "two")

        await alice.send(room, "go on")
        await alice.wait_for_text(room, "starting")
        disk.fill()
        await alice.send(room, "sent while full")
        await alice.send(other, "sent there while full")
        reason = await wait_for_store(orchestrator, StoreState.DISK_FULL)
        assert str(orchestrator.state_dir) in (reason or "")
        health = await ControlClient(orchestrator.state_dir).health()
        assert not health.ok
        assert "is full" in (health.reason or "")
        seen = subprocess.run(
            [CCHAT, "--state-dir", str(orchestrator.state_dir), "rooms"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "is full" in seen.stderr
        # The tool's three seconds are over, and several attempts to write have failed.
        await settle(alice, 6)
        assert counts(alice, installation, room, "went on") == 0
        assert counts(alice, installation, other, "sent there while full") == 0

        disk.free()
        agent = installation.agent.user_id
        await alice.wait_for_text(room, "went on", sender=agent)
        await alice.wait_for_text(room, "sent while full", sender=agent)
        await alice.wait_for_text(other, "sent there while full", sender=agent)
        await wait_for_store(orchestrator, StoreState.OK)
        await settle(alice)
        for where, text in (
            (room, "starting"),
            (room, "went on"),
            (room, "You said: sent while full"),
            (other, "You said: sent there while full"),
        ):
            assert counts(alice, installation, where, text) == 1
        asked = [request.last_user_text for request in installation.api.asked]
        assert (asked.count("sent while full"), asked.count("sent there while full")) == (1, 1)
        assert orchestrator.pid == pid
        assert "store.full" in orchestrator.log

        # Full again at the end: it ends in time all the same.
        disk.fill()
        await alice.send(room, "sent before the end")
        await wait_for_store(orchestrator, StoreState.DISK_FULL)
        assert await orchestrator.stop(signal.SIGTERM) == 0
        assert integrity(orchestrator.state_dir) == "ok"
        disk.fill()  # the log that was closed has left some room
        await refused_start(installation, orchestrator)
        disk.free()
        await orchestrator.start()
        await alice.wait_for_text(room, "sent before the end", sender=agent)
        await orchestrator.stop(signal.SIGINT)
        assert integrity(orchestrator.state_dir) == "ok"


async def refused_start(installation: Installation, orchestrator: Orchestrator) -> None:
    """On a full disk a start says so, with the code for the database, and changes nothing."""
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        "up",
        "--config",
        str(installation.directory / "config.yaml"),
        "--state-dir",
        str(orchestrator.state_dir),
        env={**os.environ, "MATRIX_PASSWORD": "x", "ANTHROPIC_API_KEY": "sk-ant-test-0123456789"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 4, output.decode()
    assert b"is full" in output
    assert b"Traceback" not in output


async def test_a_first_start_on_a_full_disk_is_refused_in_words(installation: Installation) -> None:
    orchestrator = await installation.configure()
    with open_small_disk(orchestrator.state_dir, mib=1) as disk:
        disk.fill()
        await refused_start(installation, orchestrator)
        # With room for the lock and little more, too.
        disk.free()
        (disk.path / "filler").write_bytes(bytes((1 << 20) - 16 * 4096))
        await refused_start(installation, orchestrator)
        assert not (disk.path / "placeholder.key").exists()


@pytest.mark.long
async def test_a_full_workspace_is_its_rooms_own_trouble(installation: Installation) -> None:
    fill = "head -c 8000000 /dev/zero > big; echo status $?; echo more > small; echo $?"
    installation.api.when("fill it", [bash(fill)])
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice, name="small")
    folder = orchestrator.state_dir / "rooms" / room_slug(RoomId(room)) / "workspace"
    with open_small_disk(folder, mib=1):
        await alice.send(room, "fill it")
        agent = installation.agent.user_id
        await alice.wait_for_text(room, "status 1", sender=agent)
        assert counts(alice, installation, room, "No space left on device") == 1
        await alice.send(room, "still there?")
        await alice.wait_for_text(room, "still there?", sender=agent)
        await warm_room(installation, alice, "another")
        assert await orchestrator.stop(signal.SIGINT) == 0


async def test_a_process_that_was_stopped_for_longer_than_a_turns_limit_ends_no_turn(
    installation: Installation,
) -> None:
    installation.api.when("work", [Text(text="starting"), bash("sleep 4; echo x >> ran")], "worked")
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "timeout_s": 7, "ceiling_s": 15}
    )
    await orchestrator.start()
    alice = await installation.person()
    rooms = [await warm_room(installation, alice, name) for name in ("one", "two")]
    for room in rooms:
        await alice.send(room, "work")
    for room in rooms:
        await alice.wait_for_text(room, "starting")
    os.kill(orchestrator.pid, signal.SIGSTOP)
    await settle(alice, 17)
    os.kill(orchestrator.pid, signal.SIGCONT)
    for room in rooms:
        await alice.wait_for_text(room, "worked", sender=installation.agent.user_id)
        assert counts(alice, installation, room, "Stopped") == 0
    assert "turn.deaf" in orchestrator.log


@asynccontextmanager
async def at_faked_time(installation: Installation, **sections: Any) -> AsyncIterator[Orchestrator]:
    """An orchestrator whose wall clock is as the file `time` says: `+3600`, `-3600`, `+0`."""
    assert FAKETIME is not None
    config = write_config(
        installation.directory / "config.yaml",
        homeserver=installation.server.base_url,
        user_id=installation.agent.user_id,
        upstream=installation.api.base_url,
        defaults={"permissions": "bypass"},
        **sections,
    )
    (installation.directory / "time").write_text("+0")
    env = {
        "MATRIX_PASSWORD": installation.agent.password,
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(installation.directory / "time"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with open_orchestrator(
        installation.directory, "--config", str(config), env=env
    ) as orchestrator:
        yield orchestrator


@pytest.mark.long
@pytest.mark.skipif(FAKETIME is None, reason="NO FAKETIME: type apt-get install faketime (as root)")
async def test_a_clock_that_jumps_by_an_hour_stops_nothing_and_ends_nothing(
    installation: Installation,
) -> None:
    installation.api.when("work", [Text(text="starting"), bash("sleep 5; echo x >> ran")], "worked")
    clock = installation.directory / "time"
    async with at_faked_time(installation) as orchestrator:
        await orchestrator.start()
        alice, agent = await installation.person(), installation.agent.user_id
        room = await warm_room(installation, alice, "one")

        await alice.send(room, "work")
        await alice.wait_for_text(room, "starting")
        clock.write_text("+3600")
        await alice.send(room, "an hour ahead")
        await alice.wait_for_text(room, "worked", sender=agent)
        await alice.wait_for_text(room, "You said: an hour ahead", sender=agent)
        clock.write_text("-3600")
        await alice.send(room, "an hour back")
        await alice.wait_for_text(room, "You said: an hour back", sender=agent)

        # Between two lives, with a turn under way and things to send.
        for way, shift in (("ahead", "+7200"), ("back", "-7200")):
            installation.api.when(f"work {way}", [bash("sleep 5")], f"worked {way}")
            await alice.send(room, f"work {way}")
            await installation.api.wait_until(
                lambda api, text=f"work {way}": api.asked[-1].last_user_text == text
            )
            await orchestrator.kill()
            clock.write_text(shift)
            await orchestrator.start()
            await alice.wait_for_text(room, f"worked {way}", sender=agent)
        await settle(alice)
        assert counts(alice, installation, room, "Stopped") == 0
        assert counts(alice, installation, room, "Interrupted") == 0
        # What a turn says of an API in trouble (the gateway was dead) may be said by two of them.
        said = [t for t in alice.texts(room, sender=agent) if t.startswith(("You said", "worked"))]
        assert len(said) == len(set(said)) == 6


async def test_what_happened_after_the_copy_is_told_and_not_run_again(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice, agent = await installation.person(), installation.agent.user_id
    room = await warm_room(installation, alice, "one")
    copy = installation.directory / "copy.sqlite3"
    made = run_command("backup", "--database-only", "--to", str(copy), orchestrator=orchestrator)
    assert str(copy) in made.stdout
    assert copy.stat().st_mode & 0o777 == 0o600
    await alice.send(room, "after the copy")
    await alice.wait_for_text(room, "You said: after the copy", sender=agent)
    refused = run_command("restore", str(copy), orchestrator=orchestrator)
    assert (refused.returncode, "another orchestrator" in refused.stderr) == (3, True)
    await orchestrator.kill()

    database = orchestrator.state_dir / "state.sqlite3"
    database.write_bytes(database.read_bytes()[:6000])
    with pytest.raises(AssertionError, match=r"ended with 4(.|\n)*orchestrator restore"):
        await orchestrator.start()
    restored = run_command("restore", str(copy), orchestrator=orchestrator)
    assert restored.returncode == 0, restored.stderr
    await alice.send(room, "while it was down")
    await orchestrator.start()
    await alice.wait_for_text(room, "restored from a copy", sender=agent)
    await alice.send(room, "and now?")
    await alice.wait_for_text(room, "You said: and now?", sender=agent)
    await settle(alice)
    assert counts(alice, installation, room, "restored from a copy") == 1
    assert counts(alice, installation, room, "You said: after the copy") == 1
    assert counts(alice, installation, room, "while it was down") == 0
    asked = [request.last_user_text for request in installation.api.asked]
    assert asked.count("after the copy") == 1


def run_command(*words: str, orchestrator: Orchestrator) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ORCHESTRATOR, *words, "--state-dir", str(orchestrator.state_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
