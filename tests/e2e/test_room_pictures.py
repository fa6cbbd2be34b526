"""A room as a person sees it, at another client: drawn by Chromium, nothing out of the screen.

With AIAGENTCHAT_PICTURES=DIRECTORY the pictures are written there (`make pictures`): those of the
README.
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from orchestrator.core.texts import mark as signs
from orchestrator.embedded.messages_model import Stall, Text, ToolUse
from tests.e2e.conftest import Installation
from tests.support.room_page import PHONE, WINDOW, RoomPage, picture_room
from tests.support.web_client import WebClient, open_web_client

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(400)]

_NOTES = """\
The release is ready. What changed:

| part | before | now |
|---|---|---|
| start | 4.2 s | 1.4 s |
| memory | 210 MiB | 148 MiB |

```python
def greet(name: str) -> str:
    return f"Hello, {name}!"
```

1. Look at the changelog
2. Tag it
   - `git tag v1.2.0`
   - ~~`git push --force`~~ `git push --tags`

- [x] tests
- [ ] announcement
"""
_TASKS = ("read the changelog", "run the tests", "write the notes")
_QUESTION = {
    "questions": [
        {
            "question": "Which database shall the service use?",
            "header": "Store",
            "options": [
                {"label": "SQLite", "description": "one file, no server"},
                {"label": "PostgreSQL", "description": "a server of its own"},
            ],
            "multiSelect": False,
        }
    ]
}


def bash(command: str) -> ToolUse:
    return ToolUse(name="Bash", input={"command": command, "description": "work"})


def progress(task: str, status: str) -> ToolUse:
    return ToolUse(name="TaskUpdate", input={"taskId": task, "status": status})


def says(text: str) -> Any:
    """Whether an event of somebody else's says it."""
    return lambda e: e["type"] == "m.room.message" and text in e["content"].get("body", "")


def asks(text: str) -> Any:
    """Whether an event asks for a decision about it; the live answer names the tool before."""
    is_said = says(text)
    return lambda e: is_said(e) and "May I do this?" in e["content"]["body"]


class Camera:
    """Takes pictures of some events of a room."""

    def __init__(self, bob: WebClient, room: str, names: Mapping[str, str], folder: Path) -> None:
        self._bob = bob
        self._room = room
        self._names = names
        self._folder = folder

    async def take(self, name: str, *texts: str, width: int = PHONE) -> RoomPage:
        """The events with these texts, and nothing of them out of the screen."""
        events = await self._bob.timeline(self._room)
        shown = [e["event_id"] for e in events if any(says(text)(e) for text in texts)]
        assert len(shown) >= len(texts), [e["content"].get("body") for e in events]
        page = await picture_room(
            self._bob,
            self._room,
            self._folder / f"{name}.png",
            width=width,
            names=self._names,
            only=shown,
        )
        assert page.too_wide == (), name
        with Image.open(page.picture) as picture:
            assert picture.width == width
            picture.convert("RGB").quantize(64).save(page.picture, optimize=True)
        return page


async def test_a_room_looks_right_on_a_phone_and_in_a_window(
    installation: Installation, tmp_path: Path
) -> None:
    api, agent = installation.api, installation.agent.user_id
    folder = Path(os.environ.get("AIAGENTCHAT_PICTURES", tmp_path / "pictures"))
    folder.mkdir(exist_ok=True, parents=True)
    api.when(
        "release notes",
        [
            Text(text="I look at it."),
            *(
                ToolUse(name="TaskCreate", input={"subject": task, "description": task})
                for task in _TASKS
            ),
        ],
        [progress("1", "completed"), progress("2", "in_progress"), bash("ls")],
        [bash("sleep 12")],
        [Stall(seconds=0.2), Text(text=_NOTES)],
    )
    api.when("publish", [bash("npm publish --access public ./dist")], "Published.")
    api.when("database", [ToolUse(name="AskUserQuestion", input=_QUESTION)], "PostgreSQL it is.")
    api.when("limit", [bash("printf 'limit = 20\\nretries = 3\\n' > settings.toml")], "Raised.")
    api.when(
        "chart",
        [ToolUse(name="mcp__room__send_file", input={"path": "chart.png", "caption": "Builds"})],
        "There it is.",
    )
    account = installation.server.register(f"bob-{secrets.token_hex(4)}")
    await installation.configure(
        defaults={"stream": "edit", "footer": ["duration", "tokens"], "permissions": "ask"},
        access={"users": ["@*:*"], "admins": [account.user_id]},
    )
    orchestrator = installation.orchestrator
    await orchestrator.start()
    async with open_web_client(
        installation.server.base_url, account.user_id, account.password
    ) as bob:
        room = await bob.create_room(agent)
        camera = Camera(bob, room, {agent: "Claude", account.user_id: "Bob"}, folder)

        await bob.send(room, "Write the release notes, please")
        await bob.wait_for(room, says("sleep 12"))
        page = await camera.take("live-answer", "release notes", "sleep 12")
        assert "<details>" in page.html
        assert "☑ read the changelog" in page.html
        await bob.wait_for(room, says("announcement"))
        asked = await bob.wait_for(
            room, lambda e: signs.DONE in [r["key"] for r in e.get("reactions", [])]
        )
        assert says("Write the release notes")(asked)
        for name, width in (("answer-phone", PHONE), ("answer", WINDOW)):
            page = await camera.take(name, "The release is ready", width=width)
            assert 'class="language-python"' in page.html
            assert "<table>" in page.html
            assert "tokens" in page.html
        answer = await bob.wait_for(room, says("The release is ready"))
        assert answer["is_edited"], "one message, which grew"
        assert not answer["highlights"], "nobody is pinged"

        await bob.send(room, "Now publish it")
        question = await bob.wait_for(room, asks("npm publish --access public"))
        await camera.take("approval", "Now publish it", "npm publish --access public")
        await bob.react(room, question["event_id"], "✅")
        await bob.wait_for(room, says("Published."))

        await bob.send(room, "We need a database")
        question = await bob.wait_for(room, says("Which database"))
        await camera.take("question", "We need a database", "Which database")
        await bob.react(room, question["event_id"], "2️⃣")
        await bob.wait_for(room, says("PostgreSQL it is."))

        (workspace,) = (orchestrator.state_dir / "rooms").glob("*/workspace")
        put(workspace / "settings.toml", b"limit = 10\nretries = 3\n")
        put(workspace / "chart.png", draw_chart())
        await bob.send(room, "Raise the limit")
        question = await bob.wait_for(room, asks("settings.toml"))
        await bob.react(room, question["event_id"], "✅")
        await bob.wait_for(room, says("Raised."))
        await bob.send(room, "!diff")
        await bob.wait_for(room, says("+limit = 20"))
        page = await camera.take("diff", "!diff", "+limit = 20")
        assert 'class="language-diff"' in page.html

        await bob.send(room, "Show me the chart")
        await bob.wait_for(room, says("Builds"))
        await bob.wait_for(room, says("There it is."))
        await camera.take("file", "Show me the chart", "Builds", "There it is.")


def draw_chart() -> bytes:
    """Something to look at."""
    picture = Image.new("RGB", (640, 300), "white")
    draw = ImageDraw.Draw(picture)
    for number, height in enumerate((80, 120, 60, 180, 220, 200, 260)):
        left = 40 + number * 82
        draw.rectangle((left, 280 - height, left + 56, 280), fill=(60, 110, 180))
    draw.line((20, 280, 620, 280), fill=(90, 90, 90), width=2)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def put(path: Path, data: bytes) -> None:
    """A file of the room's own."""
    path.write_bytes(data)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
