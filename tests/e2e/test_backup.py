"""A host is lost in mid-turn: what was backed up while it ran goes on in an empty directory."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import docker
import nio
import pytest

from tests.e2e.conftest import Installation
from tests.support.containers import find_runners, remove_containers
from tests.support.encrypted_user import (
    create_encrypted_room,
    read_until,
    say,
)
from tests.support.mounts import unmount_below
from tests.support.orchestrator import ORCHESTRATOR, open_orchestrator
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def command(*words: str | Path) -> str:
    """The orchestrator's command; what it said."""
    done = await asyncio.to_thread(
        subprocess.run, [ORCHESTRATOR, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def lose_host(installation: Installation) -> None:
    """Nothing of the installation runs any more, and its state directory is out of the way."""
    await installation.orchestrator.kill()
    client = docker.from_env()
    remove_containers(find_runners(client, installation.directory))
    client.close()
    unmount_below(installation.orchestrator.state_dir)


async def test_an_encrypted_room_goes_on_from_a_backup_that_was_made_while_a_turn_ran(
    installation: Installation, person: nio.AsyncClient, tmp_path: Path
) -> None:
    installation.api.when("write it down", [bash("echo swordfish > word")], "It is written down.")
    installation.api.when("work on", [bash("touch started; sleep 4248")])
    orchestrator = await installation.configure()
    await orchestrator.start()
    agent = installation.agent.user_id
    room = await create_encrypted_room(person, agent)
    await say(person, room, "write it down")
    await read_until(person, room, "It is written down.", agent)
    await say(person, room, "work on")
    rooms = orchestrator.state_dir / "rooms"
    async with asyncio.timeout(60):
        while not list(rooms.glob("*/workspace/started")):  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.1)

    archive = tmp_path / "all.tar"
    said = await command("backup", "--state-dir", orchestrator.state_dir, "--to", archive)
    digest = said.partition("SHA-256 ")[2].split()[0]
    await lose_host(installation)
    # Sent before anybody knows that the host is gone, with the key that the agent has.
    await say(person, room, "are you there?")

    second = tmp_path / "second"
    told = await command("restore", archive, "--state-dir", second / "state", "--expect", digest)
    assert "1 room(s) with files" in told
    assert "1 turn(s) that had not ended" in told
    # The login came with it: no password is needed.
    async with open_orchestrator(second, "--config", str(installation.config_path)) as new:
        await new.start()
        await read_until(person, room, "Interrupted", agent)
        installation.api.when("look it up", [bash("cat word")])
        await say(person, room, "look it up")
        await read_until(person, room, "swordfish", agent)
        asked = installation.api.asked[-1].user_texts
        assert any("write it down" in text for text in asked), "the same conversation"
        assert sum("work on" in text for text in asked) <= 1
        await say(person, room, "and after that?")
        await read_until(person, room, "and after that?", agent)
        assert "can't be decrypted" not in new.log
    (word,) = (second / "state" / "rooms").glob("*/disk.ext4")
    assert word.stat().st_mode & 0o777 == 0o600
