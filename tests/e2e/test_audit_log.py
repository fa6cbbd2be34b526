"""Who asked, who decided, what was run, what left: on real parts, and a log that was changed."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from tests.e2e.conftest import Installation
from tests.support.orchestrator import ORCHESTRATOR
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def verify(installation: Installation, *options: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *("audit", "log", "verify", "--state-dir", str(installation.orchestrator.state_dir)),
        *options,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


def entries(installation: Installation) -> list[dict[str, Any]]:
    path = installation.orchestrator.state_dir / "audit" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_step_has_its_line_and_a_changed_one_shows(installation: Installation) -> None:
    fetch = "curl -sS -m 5 http://not-allowed.example/ || true"
    installation.api.when("fetch it", [bash(fetch)], "it was refused")
    alice = await installation.person()
    orchestrator = await installation.configure(
        defaults={"permissions": "ask"}, access={"users": ["@*:*"], "admins": [alice.user_id]}
    )
    await orchestrator.start()
    room = await installation.room(alice)
    asked = await alice.send(room, "fetch it")
    await alice.wait_for_text(room, fetch)
    await alice.send(room, "!approve")
    await alice.wait_for_text(room, "it was refused")

    found = entries(installation)
    by_action = {entry["action"]: entry for entry in found}
    assert by_action["daemon.begin"]["number"] == 1
    admitted = by_action["turn.admitted"]
    assert (admitted["sender"], admitted["asked"]) == (alice.user_id, asked)
    assert by_action["tool.run"]["tool"] == f"Bash: {fetch}"
    assert by_action["command"]["command"] == "!approve"
    assert by_action["command"]["sender"] == alice.user_id
    assert by_action["tool.decided"]["by"] == alice.user_id
    denied = by_action["egress_proxy_denied"]
    assert denied["host"] == "not-allowed.example"
    assert by_action["turn.end"]["turn"] == admitted["turn"]

    code, said = await verify(installation)
    assert code == 0, said
    head = said.split()[-1]
    await alice.send(room, "!status")
    await alice.wait_for_text(room, "Runner:")
    assert (await verify(installation, "--expect", head))[0] == 0

    await orchestrator.stop()
    path = orchestrator.state_dir / "audit" / "audit.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("not-allowed.example", "allowed.example"))
    code, said = await verify(installation)
    assert code == 1
    assert "does not follow the line before it" in said
    path.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert (await verify(installation))[0] == 0, "a cut end does not show by itself"
    code, said = await verify(installation, "--expect", head)
    assert code == 1
    assert "the log was cut, or written anew" in said
