"""A room's `project` settings take effect with its next turn, opening and closing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import docker
import pytest

from orchestrator.core.sandbox import WORKSPACE
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser, body_of

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

HOOK = {"hooks": [{"type": "command", "command": f"touch {WORKSPACE}/hooked"}]}
# The mode is none that a workspace can set, whatever the room honours.
SETTINGS = {"hooks": {"UserPromptSubmit": [HOOK]}, "permissions": {"defaultMode": "plan"}}


async def turn(installation: Installation, alice: MatrixUser, room: str, words: str) -> str:
    """One turn; the id of the container that it was in."""
    await alice.send(room, words)
    answer = await alice.wait_for_text(room, f"You said: {words}", timeout_s=120)
    assert body_of(answer) == f"You said: {words}"
    (runner,) = await installation.orchestrator.runners()
    return runner.container_id


def facts(container_id: str) -> dict[str, Path]:
    """Where the container's mounts are on this host."""
    client = docker.from_env()
    try:
        mounts = client.containers.get(container_id).attrs["Mounts"]
    finally:
        client.close()
    return {mount["Destination"]: Path(mount["Source"]) for mount in mounts if not mount["RW"]} | {
        WORKSPACE: Path(next(m["Source"] for m in mounts if m["Destination"] == WORKSPACE))
    }


async def restart(installation: Installation, *, hooks: bool) -> None:
    await installation.orchestrator.stop()
    defaults = {"permissions": "ask", "project": {"hooks": hooks}}
    await (await installation.configure(defaults=defaults)).start()


async def test_what_a_room_honours_changes_with_its_next_turn(installation: Installation) -> None:
    await (await installation.configure(defaults={"permissions": "ask"})).start()
    alice = await installation.person()
    room = await installation.room(alice)
    first = await turn(installation, alice, room, "one")
    workspace = facts(first)[WORKSPACE]
    (workspace / ".claude").mkdir()
    (workspace / ".claude/settings.json").write_text(json.dumps(SETTINGS))
    owner = workspace.stat()
    for path in (workspace / ".claude", workspace / ".claude/settings.json"):
        os.chown(path, owner.st_uid, owner.st_gid)
    hooked = workspace / "hooked"

    await restart(installation, hooks=False)
    assert await turn(installation, alice, room, "two") == first, "nothing has changed"
    assert not hooked.exists()

    await restart(installation, hooks=True)
    second = await turn(installation, alice, room, "three")
    assert second != first, "its managed settings are others"
    assert hooked.exists()
    policy = facts(second)["/etc/claude-code"]
    assert policy.parent.parent == installation.orchestrator.state_dir / "rooms"
    assert policy.stat().st_uid == 0
    settings = json.loads((policy / "managed-settings.json").read_text())
    assert "allowManagedHooksOnly" not in settings
    assert settings["allowManagedPermissionRulesOnly"] is True

    hooked.unlink()
    await restart(installation, hooks=False)
    third = await turn(installation, alice, room, "four")
    assert third != second
    assert "/etc/claude-code" not in facts(third)
    assert not hooked.exists()
