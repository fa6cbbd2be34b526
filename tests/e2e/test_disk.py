"""A room fills its disk: it is told, the CLI goes on, cleaning up works, nobody else notices."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.mounts import mounts_below
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

MIB = 1 << 20
LIMIT = 64 * MIB
FILL = {
    "fill the workspace": "dd if=/dev/zero of=big bs=64k; echo filled",
    # The CLI keeps its conversation there.
    "fill the home": "cat /dev/zero > ~/big; dd if=/dev/zero of=$HOME/rest bs=1; echo filled",
}
CLEAN = "rm -f big grown ~/big ~/rest; echo cleaned"
WORK = "echo 1 > made && echo $(echo worked)"


class Rooms:
    """Rooms by name, and what is said in them."""

    def __init__(self, installation: Installation, alice: MatrixUser) -> None:
        self.installation = installation
        self.alice = alice
        self.ids: dict[str, str] = {}

    async def ask(self, name: str, text: str, answer: str) -> None:
        """Say something, in a new room maybe, and wait for the answer."""
        if name not in self.ids:
            self.ids[name] = await self.installation.room(self.alice, name=name)
        await self.alice.send(self.ids[name], text)
        await self.hear(name, answer)

    async def hear(self, name: str, text: str) -> None:
        agent = self.installation.agent.user_id
        await self.alice.wait_for_text(self.ids[name], text, sender=agent, timeout_s=120)

    def said(self, name: str) -> list[str]:
        return self.alice.texts(self.ids[name], sender=self.installation.agent.user_id)


async def start(installation: Installation, disk_quota: str) -> Rooms:
    for name, command in FILL.items():
        installation.api.when(f"^{name}$", [bash(command)], f"done: {name}")
    installation.api.when(
        "^grow slowly$", [bash("while sleep 0.1; do head -c 5m /dev/zero >> grown; done")]
    )
    installation.api.when("^clean up$", [bash(CLEAN)])
    installation.api.when("^do some work$", [bash(WORK)])
    await installation.configure(
        defaults={"permissions": "bypass", "timeout_s": 60, "limits": {"disk": LIMIT}},
        docker={"disk_quota": disk_quota},
    )
    await installation.orchestrator.start()
    return Rooms(installation, await installation.person())


async def test_a_full_disk_is_told_once_and_cleaning_up_makes_the_room_work_again(
    installation: Installation,
) -> None:
    rooms = await start(installation, "image")
    state_dir = installation.orchestrator.state_dir
    for name in FILL:
        await rooms.ask(name, "do some work", "The tool said: worked")
        await rooms.ask(name, name, f"done: {name}")
        await rooms.hear(name, "This room's disk is full")
        await rooms.ask(name, "hello", "You said: hello")
    await rooms.ask("quiet", "do some work", "The tool said: worked")
    assert all(
        image.stat().st_blocks * 512 <= LIMIT for image in state_dir.glob("rooms/*/disk.ext4")
    )
    mounted = mounts_below(state_dir)
    assert len(mounted) == len(rooms.ids)

    await installation.orchestrator.kill()
    await installation.orchestrator.start()
    assert mounts_below(state_dir) == mounted
    for name in FILL:
        await rooms.ask(name, "!status", "- Disk: ")
        await rooms.ask(name, "clean up", "The tool said: cleaned")
        await rooms.ask(name, "do some work", "The tool said: worked")
    assert [sum("disk is full" in text for text in rooms.said(name)) for name in FILL] == [2, 2]
    assert not any("disk" in text for text in rooms.said("quiet"))

    await installation.orchestrator.stop(signal.SIGINT)
    assert mounts_below(state_dir) == []


async def test_where_files_are_only_counted_a_turn_that_grows_past_the_limit_is_stopped(
    installation: Installation,
) -> None:
    rooms = await start(installation, "measured")
    await rooms.ask("room", "grow slowly", "Failed: it met this room's disk limit")
    await rooms.ask("room", "!status", "(counted)")
    # What became of the tool that was stopped comes first.
    await rooms.ask("room", "hello", "The tool said: ")
    await rooms.ask("room", "clean up", "The tool said: cleaned")
    await rooms.ask("room", "do some work", "The tool said: worked")
    assert mounts_below(installation.orchestrator.state_dir) == []
