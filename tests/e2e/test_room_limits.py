"""A room uses up what it may use: it is told, its next message works, and other rooms don't notice.

Real parts; one room for each way, all at the same time, and a quiet room beside them.
"""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(400)]

PIDS = 128
# Children in sessions of their own: neither the CLI nor a closed terminal ends them.
FORKS = """python3 -c '
import os, time
while True:
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    except OSError:
        time.sleep(0.1)
' >/dev/null 2>&1 &
"""
BOMB = "bomb() { bomb | bomb & }; bomb >/dev/null 2>&1 & "
# What each way prints is long; only its end is looked at.
WAYS = {
    "leave processes": f"{FORKS} sleep 2; echo left",
    "leave processes without their cli": f"{FORKS} sleep 2; kill -9 $PPID",
    "fill tmp": "head -c 200m /dev/zero > /tmp/full; echo filled",
    "fill inodes": "cd /tmp && seq 1 200000 | xargs touch; echo filled",
}


class Rooms:
    """Rooms by name, and what is said in them."""

    def __init__(self, installation: Installation, alice: MatrixUser) -> None:
        self.api = installation.api
        self.agent = installation.agent.user_id
        self.alice = alice
        self.ids: dict[str, str] = {}
        self._installation = installation

    async def open(self, *names: str) -> None:
        """Make rooms, all warm."""
        for name in names:
            self.ids[name] = await self._installation.room(self.alice, name=name)
            await self.say(name, "hello")
        for name in names:
            await self.hear(name, "You said: hello")

    async def say(self, name: str, text: str) -> None:
        await self.alice.send(self.ids[name], text)

    async def hear(self, name: str, text: str) -> None:
        await self.alice.wait_for_text(self.ids[name], text, sender=self.agent, timeout_s=120)

    async def work(self, name: str) -> None:
        """A turn with a tool that starts processes and writes a file works here."""
        await self.say(name, "do some work")
        await self.hear(name, "The tool said: worked")

    def count(self, name: str, text: str) -> int:
        return sum(text in said for said in self.alice.texts(self.ids[name], sender=self.agent))


async def start(installation: Installation, **limits: object) -> Rooms:
    # Python and Bash, a subshell, a file in the workspace.
    work = "python3 -c 'print(1)' > made && echo $(echo worked)"
    installation.api.when("do some work", [bash(work)])
    orchestrator = await installation.configure(
        defaults={"permissions": "bypass", "timeout_s": 60, "limits": limits}
    )
    await orchestrator.start()
    return Rooms(installation, await installation.person())


async def test_a_room_that_uses_up_processes_or_tmp_works_again_with_its_next_message(
    installation: Installation,
) -> None:
    for name, command in WAYS.items():
        installation.api.when(f"^{name}$", [bash(command)], "that was it")
    installation.api.when("^bomb$", [bash(f"{BOMB} sleep 600")])
    rooms = await start(installation, pids=PIDS, tmp="64m", cpus=0.5)
    await rooms.open(*WAYS, "bomb", "quiet")

    for name in (*WAYS, "bomb"):
        await rooms.say(name, name)
    await rooms.work("quiet")
    told = f"limit of {PIDS} processes"
    await rooms.hear("leave processes", told)
    await rooms.hear("leave processes without their cli", "Claude Code ended by itself")
    await rooms.hear("leave processes without their cli", told)
    for name in ("leave processes", "fill tmp", "fill inodes"):
        await rooms.hear(name, "that was it")
    await rooms.say("bomb", "!cancel")
    await rooms.hear("bomb", "Cancelled.")
    for name in (*WAYS, "bomb"):
        await rooms.work(name)
    assert rooms.count("quiet", "limit") == 0
    assert rooms.count("leave processes", told) == 1


async def test_a_cli_or_a_whole_runner_without_memory_is_told_with_the_limits_number(
    installation: Installation,
) -> None:
    hog = "python3 -c 'x = bytearray(10**9)'"
    ways = {
        # Offered to the kernel first.
        "the cli": f"echo 1000 > /proc/$PPID/oom_score_adj; {hog}; sleep 60",
        # Memory that no kill gives back, until the last process of the container is gone.
        "the runner": "head -c 900m /dev/zero > /tmp/full; sleep 60",
    }
    for name, command in ways.items():
        installation.api.when(f"^use up {name}$", [bash(command)])
    rooms = await start(installation, memory="600m", tmp="1g")
    await rooms.open(*ways, "quiet")
    for name in ways:
        await rooms.say(name, f"use up {name}")
    await rooms.work("quiet")
    for name in ways:
        await rooms.hear(name, "memory limit of 600 MiB")
    for name in ways:
        await rooms.work(name)
    assert rooms.count("quiet", "memory") == 0
