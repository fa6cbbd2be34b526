"""What a turn changed is shown and taken back, on the real CLI, its container, and a real room."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from orchestrator.core.texts import workspace as texts
from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.matrix_user import body_of

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


def bash(command: str) -> list[ToolUse]:
    return [ToolUse(name="Bash", input={"command": command, "description": "work"})]


async def test_a_turn_is_shown_taken_back_and_brought_back(installation: Installation) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when("make one", bash("printf 'old\\nsame\\n' > a; mkdir sub; echo k > sub/k"), "made")
    api.when("make two", bash("printf 'new\\nsame\\n' > a; rm -r sub; ln -s /etc up"), "changed")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "make one")
    await alice.wait_for_text(room, "made", sender=agent)
    await alice.send(room, "make two")
    await alice.wait_for_text(room, "changed", sender=agent)
    (workspace,) = (orchestrator.state_dir / "rooms").glob("*/workspace")

    await alice.send(room, "!diff")
    shown = body_of(await alice.wait_for_text(room, "-old", sender=agent))
    assert "+new" in shown
    assert "sub/k" in shown

    await alice.send(room, "!undo")
    await alice.wait_for_text(room, "Undone", sender=agent)
    assert held(workspace) == {"a": "old\nsame\n", "sub/k": "k\n"}
    await alice.send(room, "what now?")
    await alice.wait_for_text(room, "You said: what now?", sender=agent)
    asked = str(api.asked[-1].messages)
    assert "make one" in asked
    assert "make two" not in asked, "the model does not know of it any more"

    await alice.send(room, "!undo back")
    await alice.wait_for_text(room, texts.NOTHING_TO_BRING_BACK, sender=agent)

    await alice.send(room, "!export")
    sent = await alice.wait_for(
        lambda e: e["sender"] == agent and e["content"].get("msgtype") == "m.file", what="a file"
    )
    data = await alice.download(sent["content"]["url"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("workspace/a") == b"old\nsame\n"
        assert "what now?" in archive.read("chat.md").decode()

    await alice.send(room, "!clone https://example.invalid/team/project.git")
    refused = await alice.wait_for_text(room, "example.invalid", sender=agent)
    assert "project" not in held(workspace), body_of(refused)


def held(workspace: Path) -> dict[str, str]:
    return {
        str(path.relative_to(workspace)): path.read_text()
        for path in workspace.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
