"""A person at matrix-js-sdk with its Rust crypto, in a process of its own.

Of another make than the agent's own code and than the plain HTTP client of most tests: what both
see is what a room holds.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

WEB = Path(__file__).parents[1] / "web"
# Lines of a whole timeline; the default of asyncio is 64 KiB.
_LINE_BYTES = 64 << 20
_ANSWER_S = 60.0


def node() -> str:
    """Node.js, of the locked package beside this Python."""
    return str(Path(sys.executable).with_name("node"))


class WebClient:
    """Invariant: one request at a time is under way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._lock = asyncio.Lock()
        self.user_id = ""

    async def ask(self, do: str, **arguments: Any) -> Any:
        """What the client answers.

        Raises:
            AssertionError: it failed; says how.
        """
        async with self._lock, asyncio.timeout(_ANSWER_S):
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            number = next(self._ids)
            line = json.dumps({"id": number, "do": do, **arguments})
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()
            while True:
                answer = json.loads(await self._process.stdout.readline() or b'{"error": "ended"}')
                if answer.get("id", number) == number:
                    break
        assert "error" not in answer, f"{do}: {answer.get('error')}"
        return answer["ok"]

    async def create_room(self, agent: str, *, name: str = "web", encrypted: bool = False) -> str:
        """A room with the agent in it; returns when it has joined."""
        created = await self.ask("create_room", invite=[agent], name=name, encrypted=encrypted)
        room = str(created["room_id"])
        async with asyncio.timeout(_ANSWER_S):
            while True:
                if agent in await self.ask("members", room=room):
                    return room
                await asyncio.sleep(0.2)

    async def send(self, room: str, text: str, **more: Any) -> str:
        """Send a text message; returns its event's id."""
        content = {"msgtype": "m.text", "body": text, **more}
        return str((await self.ask("send", room=room, content=content))["event_id"])

    async def react(self, room: str, event_id: str, key: str) -> None:
        """React to a message."""
        await self.ask("react", room=room, event_id=event_id, key=key)

    async def polls(self, room: str) -> list[dict[str, Any]]:
        """The polls that the client would show, with the votes that count there."""
        found: list[dict[str, Any]] = await self.ask("polls", room=room)
        return found

    async def wait_for_poll(
        self, room: str, is_it: Callable[[dict[str, Any]], bool], *, timeout_s: float = 60
    ) -> dict[str, Any]:
        """The first poll that is it, once the room has one."""
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = await self.polls(room)
                    for poll in found:
                        if is_it(poll):
                            return poll
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"no such poll: {found}") from None

    async def vote(self, room: str, poll: str, *answers: str) -> None:
        """Vote as clients do: all that is chosen, by the answers' ids."""
        await self.ask("vote", room=room, event_id=poll, answers=list(answers))

    async def timeline(self, room: str) -> list[dict[str, Any]]:
        """The room as the client shows it, edits applied, oldest first."""
        shown: list[dict[str, Any]] = await self.ask("timeline", room=room)
        return shown

    async def wait_for(
        self, room: str, is_it: Callable[[dict[str, Any]], bool], *, timeout_s: float = 60
    ) -> dict[str, Any]:
        """The first event that is it, once the room shows one."""
        shown: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    shown = await self.timeline(room)
                    for event in shown:
                        if is_it(event):
                            return event
                    await asyncio.sleep(0.2)
        except TimeoutError:
            bodies = [(e["type"], e["content"].get("body")) for e in shown]
            raise AssertionError(f"not shown: {bodies}") from None

    async def download(self, room: str, event_id: str, *, thumbnail: bool = False) -> bytes:
        """The file of a message, in clear; or its thumbnail."""
        answer = await self.ask("download", room=room, event_id=event_id, thumbnail=thumbnail)
        return base64.b64decode(answer["base64"])


@asynccontextmanager
async def open_web_client(homeserver: str, user_id: str, password: str) -> AsyncIterator[WebClient]:
    """Log in and follow the rooms until the end."""
    process = await asyncio.create_subprocess_exec(
        node(),
        "client.mjs",
        cwd=WEB,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_LINE_BYTES,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
    )
    try:
        client = WebClient(process)
        answer = await client.ask("login", homeserver=homeserver, user=user_id, password=password)
        client.user_id = str(answer["user_id"])
        yield client
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
