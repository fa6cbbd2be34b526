"""Files go into a workspace and out of it: a real homeserver, container, CLI, and two clients."""

from __future__ import annotations

import base64
import os
import secrets
import struct
import zlib
from typing import Any

import pytest
from nio.crypto.attachments import encrypt_attachment

from orchestrator.core.texts import file as texts
from orchestrator.core.thumbnail import parse_thumbnail
from orchestrator.embedded.messages_model import ToolUse
from orchestrator.runners import wire
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


# Nothing compresses it: as it comes out of the runner it has more than the shim's spool holds.
DRAW = (
    "from PIL import Image; import os; "
    "Image.frombytes('RGB', (2400, 1600), os.urandom(2400 * 1600 * 3)).save('noise.png')"
)


async def test_a_large_image_is_sent_with_a_thumbnail_that_its_room_made(
    installation: Installation,
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when(
        "a picture",
        [ToolUse(name="Bash", input={"command": f'/usr/bin/python3 -c "{DRAW}"'})],
        [ToolUse(name="mcp__room__send_file", input={"path": "noise.png"})],
        "there it is",
    )
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "a picture")
    await alice.wait_for_text(room, "there it is", sender=agent, timeout_s=120)
    await alice.send(room, "!get noise.png")
    await alice.wait_for_text(room, "`noise.png`,", sender=agent, timeout_s=120)

    def images() -> list[dict[str, Any]]:
        return [e["content"] for e in alice.timeline if e["content"].get("msgtype") == "m.image"]

    await alice.wait_for(lambda _: len(images()) == 2, what="the image that was asked for")
    for content in images():
        info = content["info"]
        data = await alice.download(content["url"])
        assert (info["w"], info["h"], info["size"]) == (2400, 1600, len(data))
        assert len(data) > wire.SPOOL_BYTES
        thumbnail = parse_thumbnail(await alice.download(info["thumbnail_url"]))
        assert thumbnail is not None
        assert info["thumbnail_info"] == {
            "mimetype": "image/jpeg",
            "size": len(thumbnail.data),
            "w": thumbnail.width,
            "h": thumbnail.height,
        }


async def test_in_an_encrypted_room_an_image_and_its_thumbnail_are_sealed(
    installation: Installation,
) -> None:
    orchestrator = await installation.configure()
    await orchestrator.start()
    account = installation.server.register(f"bob-{secrets.token_hex(4)}")
    async with open_web_client(
        installation.server.base_url, account.user_id, account.password
    ) as bob:
        room = await bob.create_room(installation.agent.user_id, encrypted=True)
        await bob.send(room, "hello")
        await bob.wait_for(room, lambda e: "hello" in says(e, to=bob.user_id))
        (workspace,) = (orchestrator.state_dir / "rooms").glob("*/workspace")
        picture = _png(1600, 1200)
        (workspace / "large.png").write_bytes(picture)
        (workspace / "large.png").chmod(0o644)
        await bob.send(room, "!get large.png")
        image = await bob.wait_for(room, lambda e: e["content"].get("msgtype") == "m.image")
        content = image["content"]
        assert "url" not in content
        assert "thumbnail_url" not in content["info"]
        assert await bob.download(room, image["event_id"]) == picture
        opened = await bob.download(room, image["event_id"], thumbnail=True)
        thumbnail = parse_thumbnail(opened)
        assert thumbnail is not None
        assert (thumbnail.width, thumbnail.height) == (800, 600)
        assert content["info"]["thumbnail_info"]["size"] == len(opened)


def says(event: dict[str, Any], *, to: str) -> str:
    """What somebody else said."""
    return str(event["content"].get("body", "")) if event["sender"] != to else ""


async def test_an_image_is_shown_to_the_model(installation: Installation) -> None:
    api, agent = installation.api, installation.agent.user_id
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    picture = _png(12, 8)
    uri = await alice.upload(picture, mimetype="image/png")
    await alice.send(room, "what is it?", msgtype="m.image", filename="dot.png", url=uri, info={})
    await alice.wait_for_text(room, "what is it?", sender=agent)
    parts = [part for m in api.asked[0].messages for part in m.content if not isinstance(part, str)]
    (image,) = [part for part in parts if part.type == "image"]
    assert image.source["media_type"] == "image/png"
    assert base64.b64decode(str(image.source["data"])) == picture


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    )


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
