"""Whatever stands behind a command, it is answered in words of ours, and breaks nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.core import texts
from orchestrator.core.command import COMMANDS, CommandName
from tests.support.outbox import MemoryHomeserver
from tests.support.room_rig import Rig
from tests.unit.rooms.scenario import run
from tests.unit.rooms.test_room_settings import ACCESS, CAROL

NASTY = (
    "x",
    "-1",
    "0",
    "99999999999999999999",
    "--help",
    "../../etc/passwd",
    "\u202e\u200b",
    "`",
    "a\nb",
    "drop 0",
    "remove 0",
    '"* * * * *" x',
    "@a:b",
    "x" * 3000,
    "\ud800",
    "%s {0}",
)


@pytest.mark.parametrize("name", CommandName)
def test_any_argument_is_answered_and_the_room_works_on(tmp_path: Path, name: CommandName) -> None:
    async def test(rig: Rig) -> None:
        server = rig.account = MemoryHomeserver()
        arguments = ["", *NASTY, *(e.partition(" ")[2] for e in COMMANDS[name].examples)]
        async with rig.life() as life:
            for argument in arguments:
                before = len(server.bodies("!room:test"))
                await rig.receive(f"!{name} {argument}".strip(), sender=CAROL)
                life.notify()

                async def is_answered(least: int = before) -> bool:
                    return len(server.bodies("!room:test")) > least

                await rig.wait(is_answered, timeout_s=60)
                await asyncio.sleep(6)
            said = [str(body) for body in server.bodies("!room:test")]
            assert texts.FAILED_INSIDE not in said
            await rig.receive("still there?", sender=CAROL)
            life.notify()
            await rig.wait_body("You said: still there?")

    run(tmp_path, test, access=ACCESS)
