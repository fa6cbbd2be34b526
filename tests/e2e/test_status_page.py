"""The status page of a running orchestrator, as somebody with a phone uses it.

With AIAGENTCHAT_PICTURES=DIRECTORY its picture is written there (`make pictures`): the one of
docs/operations.md.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import Installation
from tests.support.browser import Browser, open_browser
from tests.support.matrix_user import MatrixUser
from tests.support.orchestrator import ORCHESTRATOR, clean_environment
from tests.support.port import free_port
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(400)]

READ, ADMIN = "e2e-reader-0123456789", "e2e-admin-0123456789"
# CSS pixels of the narrowest phones.
NARROW = 360
BY = "`status page`"
_UPLOAD = "echo published > out.txt && curl -sS -m 5 -T out.txt https://a.example"


async def orchestrate(*arguments: str, **env: str) -> tuple[int, str, str]:
    """A command of ours; its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *arguments,
        env={**clean_environment(), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def log_in(browser: Browser, origin: str, token: str) -> None:
    await browser.open(origin)
    await browser.run(f"document.querySelector('#token').value = '{token}'")
    await browser.press("Show it")
    await sees(browser, "Log out")


async def sees(browser: Browser, words: str) -> None:
    await browser.wait_for(f"document.body.innerText.includes({json.dumps(words)})")


async def follow(browser: Browser, label: str) -> None:
    """Click the link; the page may have looked again just before."""
    await browser.wait_for(
        "(a => a ? (a.click(), true) : false)([...document.querySelectorAll('a')]"
        f".find(a => a.innerText.includes({json.dumps(label)})))"
    )


async def test_on_a_phone_one_sees_what_is_and_allows_stops_and_restarts(
    installation: Installation, tmp_path: Path
) -> None:
    api, agent = installation.api, installation.agent.user_id
    api.when("publish", [bash(_UPLOAD)], "It is out.")
    api.when("hang", [bash("sleep 4242")], "never")
    api.when("hello", "Hello.")
    api.when("tidy", [bash("rm -rf drafts && touch tidied.txt")], "Tidied.")
    address = f"127.0.0.1:{free_port()}"
    alice, bob = await installation.person(), await installation.person("bob")
    orchestrator = await installation.configure(
        env={"STATUS_TOKEN": READ, "STATUS_ADMIN_TOKEN": ADMIN},
        observability={"status": address, "log_level": "DEBUG", "log_format": "text"},
        defaults={"permissions": "ask", "budget": {"usd_per_day": 5}},
        access={"users": ["@*:*"], "admins": [alice.user_id]},
    )
    await orchestrator.start()
    room = await installation.room(alice, name="release")
    other = await installation.room(bob, name="docs")
    await bob.send(other, "hello")
    await bob.wait_for_text(other, "Hello.", sender=agent)
    await alice.send(room, "please publish")
    await alice.wait_for_text(room, "echo published", sender=agent)

    folder = Path(os.environ.get("AIAGENTCHAT_PICTURES", tmp_path / "pictures"))
    folder.mkdir(exist_ok=True, parents=True)
    async with open_browser(tmp_path) as browser:
        await browser.use_screen(NARROW)
        await log_in(browser, f"http://{address}", ADMIN)
        await sees(browser, "waits for a person")
        for words in ("All well", "release", "docs", "2 rooms", alice.user_id, "done"):
            await sees(browser, words)
        await follow(browser, "echo published")
        await sees(browser, f"```bash\n{_UPLOAD}\n```")
        await browser.press("Allow it once")
        await sees(browser, "the room is told")
        await alice.wait_for_text(room, f"Allowed by {BY}", sender=agent)
        await alice.wait_for_text(room, "It is out.", sender=agent)
        (written,) = (orchestrator.state_dir / "rooms").glob("*/workspace/out.txt")
        assert written.read_text() == "published\n"
        await sees(browser, "refused")  # what curl was

        await alice.send(room, "now hang")
        await bob.send(other, "tidy up, please")
        for words in ("Bash: sleep 4242", "rm -rf drafts", "host: https a.example:443"):
            await sees(browser, words)
        assert await browser.too_wide() == []
        await browser.picture(folder / "status.png")
        shrink(folder / "status.png")
        await follow(browser, "release")
        await browser.press("Cancel this turn")
        await alice.wait_for_text(room, f"By {BY}: Stopping…", sender=agent)
        await sees(browser, "cancelled")

        before = await container_of(installation, room)
        await follow(browser, "release")
        await browser.press("Restart this room's runner")
        await alice.wait_for_text(room, "started anew", sender=agent)
        await alice.send(room, "hello again")
        await alice.wait_for_text(room, "Hello.", sender=agent)
        assert await container_of(installation, room) != before

        await only_reads(browser, address)
    await the_log_says_who(installation, alice)
    await the_socket_shows_the_same(installation)


async def container_of(installation: Installation, room: str) -> str:
    return next(
        one.container_id for one in await installation.orchestrator.runners() if one.room_id == room
    )


async def only_reads(browser: Browser, address: str) -> None:
    """The other token."""
    await browser.open(f"http://{address}/")
    await browser.press("Log out")
    await browser.wait_for("document.querySelector('#token') !== null")
    await log_in(browser, f"http://{address}", READ)
    await follow(browser, "release")
    await sees(browser, "nothing can be changed here")
    buttons = await browser.run("[...document.querySelectorAll('button')].map(b => b.innerText)")
    assert buttons == ["Log out"]


async def the_log_says_who(installation: Installation, alice: MatrixUser) -> None:
    state = installation.orchestrator.state_dir
    lines = (state / "audit" / "audit.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    actions = [entry["action"] for entry in entries if entry.get("sender") == "status page"]
    assert actions == ["page.allow", "page.cancel", "page.restart"]
    by = [entry["by"] for entry in entries if entry["action"] == "tool.grant"]
    assert by == ["status page"]
    assert sum(entry["action"] == "status.login" for entry in entries) == 2
    for token in (READ, ADMIN):
        assert token not in "\n".join(lines)
        assert token not in installation.orchestrator.log
    assert alice.user_id in "\n".join(lines)


async def the_socket_shows_the_same(installation: Installation) -> None:
    where = ("--state-dir", str(installation.orchestrator.state_dir))
    code, text, _ = await orchestrate("status", *where)
    assert code == 0
    for words in ("All well", "release", "cancelled", "a.example:443 refused"):
        assert words in text, text
    code, html, _ = await orchestrate("status", "--html", *where)
    assert code == 0
    assert html.startswith("<!doctype html>")
    assert "<bdi>release</bdi>" in html
    assert "<form" not in html


def shrink(picture: Path) -> None:
    with Image.open(picture) as image:
        assert image.width == NARROW
        image.convert("RGB").quantize(256).save(picture, optimize=True)


async def test_switched_on_without_a_token_it_says_what_to_set_and_does_not_start(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "matrix: {homeserver: 'http://127.0.0.1:1', user_id: '@claude:example.org'}\n"
        "observability: {status: '127.0.0.1:9465'}\n"
    )
    arguments = ("up", "--config", str(config), "--state-dir", str(tmp_path / "state"))
    code, _, said = await orchestrate(*arguments, ANTHROPIC_API_KEY="x", MATRIX_PASSWORD="x")
    assert code == 2
    assert "set STATUS_TOKEN or STATUS_TOKEN_FILE" in said
    assert not (tmp_path / "state").exists()
    code, _, said = await orchestrate("status", "--state-dir", str(tmp_path / "state"))
    assert code != 0
    assert "Traceback" not in said
