"""Files go into a workspace and out of it: a real homeserver, container, CLI, and two clients."""

from __future__ import annotations

import base64
import os
import secrets

import pytest
from nio.crypto.attachments import encrypt_attachment

from orchestrator.core.texts import file as texts
from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.support.web_client import open_web_client

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def test_a_file_comes_in_is_worked_on_listed_and_comes_out(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    command = "tr a-z A-Z < uploads/notes_1.txt > out.txt; ln -s /etc/passwd link"
    api.when("make it loud", [ToolUse(name="Bash", input={"command": command})], "done loudly")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    uri = await alice.upload(b"quiet words", mimetype="text/plain")
    await alice.send(
        room, "make it loud", msgtype="m.file", filename="../notes 1.txt", url=uri, info={}
    )
    await alice.wait_for_text(room, "done loudly", sender=agent)
    assert "- uploads/notes_1.txt (text/plain, 11 B)" in str(api.asked[0].messages)

    await alice.send(room, "!ls")
    await alice.wait_for_text(room, "`out.txt` · 11 B", sender=agent)
    await alice.send(room, "!get out.txt")
    sent = await alice.wait_for(
        lambda e: e["sender"] == agent and e["content"].get("filename") == "out.txt",
        what="the file",
    )
    assert await alice.download(sent["content"]["url"]) == b"QUIET WORDS"
    await alice.send(room, "!get link")
    await alice.wait_for_text(room, texts.GET_FORM, sender=agent)


async def test_the_agent_sends_a_file_once_by_its_tool_without_asking(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    make = (
        "printf GIF89a > dot.gif; printf '\\012\\000\\024\\000' >> dot.gif; ln -s /etc/passwd link"
    )
    api.when(
        "a picture",
        [ToolUse(name="Bash", input={"command": make, "description": "draw"})],
        [ToolUse(name="mcp__room__send_file", input={"path": "dot.gif", "caption": "a dot"})],
        [ToolUse(name="mcp__room__send_file", input={"path": "link"})],
        "there it is",
    )
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "a picture")
    await alice.wait_for_text(room, "there it is", sender=agent)
    images = [e for e in alice.timeline if e["content"].get("msgtype") == "m.image"]
    (image,) = images
    assert image["content"]["body"] == "a dot"
    assert (image["content"]["info"]["w"], image["content"]["info"]["h"]) == (10, 20)
    assert (await alice.download(image["content"]["url"])).startswith(b"GIF89a")
    refused = str(api.asked[-1].messages[-1])
    assert "it is a link, or behind one" in refused
    assert "root:" not in refused


async def test_a_sealed_file_of_another_client_is_opened(installation: Installation) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    account = installation.server.register(f"bob-{secrets.token_hex(4)}")
    data = os.urandom(5000)
    async with open_web_client(
        installation.server.base_url, account.user_id, account.password
    ) as bob:
        room = await bob.create_room(installation.agent.user_id, encrypted=True)
        sealed, keys = encrypt_attachment(data)
        uploaded = await bob.ask(
            "upload", base64=base64.b64encode(sealed).decode(), name="x", mimetype="x/x"
        )
        file = {**keys, "url": uploaded["url"]}
        await bob.send(room, "secret.bin", msgtype="m.file", file=file, info={"size": len(data)})
        await bob.wait_for(
            room,
            lambda e: e["sender"] != bob.user_id and "secret.bin" in e["content"].get("body", ""),
        )
    (workspace,) = (orchestrator.state_dir / "rooms").glob("*/workspace")
    assert (workspace / "uploads" / "secret.bin").read_bytes() == data
