"""Headless Chromium that is told what to do, over its debugging protocol: a person at a page."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.room_page import HEADLESS, chromium

_STARTED_S = 60.0
_DONE_S = 60.0
_LOOK_EVERY_S = 0.05


class Browser:
    """One page of one browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def open(self, address: str) -> None:
        """Go there, and wait until it is shown."""
        await self._ask("Page.navigate", url=address)
        await self.wait_for("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """What a script of the page gives; whatever the page's policy is."""
        answer = await self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        """Until it holds on the page that is shown; pages may come and go meanwhile."""
        async with asyncio.timeout(_DONE_S):
            while True:
                try:
                    if await self.run(condition) is True:
                        return
                except AssertionError:
                    pass  # in between two pages
                await asyncio.sleep(_LOOK_EVERY_S)

    async def words(self) -> str:
        """What a person reads."""
        return str(await self.run("document.body.innerText"))

    async def press(self, label: str) -> None:
        """Click the button with this label, once it is there."""
        await self.wait_for(
            "(b => b ? (b.click(), true) : false)([...document.querySelectorAll('button')]"
            f".find(b => b.innerText === {json.dumps(label)}))"
        )

    async def use_screen(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """A phone's screen, by day or by night."""
        await self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=True,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._ask("Emulation.setEmulatedMedia", features=[scheme])

    async def too_wide(self) -> list[str]:
        """What stands out of the screen at the right."""
        found: list[str] = await self.run(
            "[...document.querySelectorAll('body *')].filter(e => "
            "e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + "
            "e.className)"
        )
        return found

    async def picture(self, path: Path) -> None:
        """All of the page, as PNG."""
        height = await self.run("document.documentElement.scrollHeight")
        width = await self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = await self._ask(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    async def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_DONE_S):
            while True:
                answer = await self._socket.receive_json()
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own in `folder`."""
    profile = folder / "chromium"
    process = await asyncio.create_subprocess_exec(
        chromium(),
        *HEADLESS,
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_STARTED_S):
            while not (said := _read(profile / "DevToolsActivePort")):  # noqa: ASYNC110 - a file
                await asyncio.sleep(_LOOK_EVERY_S)
        port = said[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(
                pages[0]["webSocketDebuggerUrl"], max_msg_size=1 << 26
            ) as socket:
                yield Browser(socket)
    finally:
        process.kill()
        await process.wait()


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
