"""`orchestrator audit isolation`, as an operator types it: beside a running turn, and after it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.orchestrator import API_KEY, ORCHESTRATOR, clean_environment

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]
_AUDIT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def results(self) -> dict[str, str]:
        """By control, of the one room."""
        (room,) = self.value["rooms"]
        return {control["id"]: control["result"] for control in room["controls"]}


async def audit(installation: Installation, *options: str) -> Said:
    """The command, with the orchestrator's own secrets in its environment."""
    arguments = ("--config", str(installation.config_path))
    arguments += ("--state-dir", str(installation.orchestrator.state_dir), *options)
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        "audit",
        "isolation",
        *arguments,
        env={**clean_environment(), "ANTHROPIC_API_KEY": API_KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(_AUDIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert API_KEY not in (out + err).decode()
    return Said(code=process.returncode, out=out.decode(), err=err.decode())


async def test_an_audit_beside_a_turn_finds_all_well_and_does_not_disturb_it(
    installation: Installation,
) -> None:
    """And then: what was changed by hand; no orchestrator; no runner."""
    wait = ToolUse(
        name="Bash", input={"command": "sleep 5 & wait; echo rested", "description": "t"}
    )
    installation.api.when("take long", [wait])
    await installation.configure(access={"users": ["@alice-*:*"]})
    await installation.orchestrator.start()
    alice = await installation.person()
    room, agent = await installation.room(alice), installation.agent.user_id
    await alice.send(room, "take long")
    await installation.api.wait_until(
        lambda api: any(r.last_user_text == "take long" for r in api.asked)
    )
    for _ in range(3):
        beside = await audit(installation, "--json")
        assert (beside.code, beside.err) == (0, ""), beside.out
        assert beside.results() | {"apparmor": "pass"} == dict.fromkeys(beside.results(), "pass")
    await alice.wait_for_text(room, "rested", sender=agent)

    (name,) = [found["runner"] for found in beside.value["rooms"]]
    docker("update", "--pids-limit", "-1", name)
    changed = await audit(installation)
    assert changed.code == 1
    (line,) = [line for line in changed.out.splitlines() if line.startswith("  FAIL")]
    assert "pids" in line
    assert "CIS 5.29" in line
    docker("update", "--pids-limit", "512", name)

    assert await installation.orchestrator.stop(signal.SIGTERM) == 0
    alone = await audit(installation, "--json", "--outside")
    assert (alone.code, alone.results()["listener"]) == (0, "skip"), alone.out
    assert alone.results()["inside-answers"] == "skip"
    docker("rm", "-f", name)
    empty = await audit(installation)
    assert empty.code == 0
    assert "no live runner" in empty.out.splitlines()[-1]


async def test_an_audit_that_can_not_read_says_so_by_its_exit_code(
    installation: Installation,
) -> None:
    await installation.configure()
    missing = await audit(installation)
    assert (missing.code, "does not exist" in missing.err) == (3, True)
    installation.orchestrator.state_dir.mkdir()
    assert (await audit(installation)).code == 4
    installation.config_path.write_text("matrix: 3\n")
    assert (await audit(installation)).code == 2


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True, timeout=60)
