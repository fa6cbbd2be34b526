"""A room as a person sees it: its events as a page, the page as a picture, by headless Chromium."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.web_client import WEB, WebClient, node

# CSS pixels of a small phone's screen, and of a window beside others.
PHONE = 390
WINDOW = 760
_CHROMIUM_S = 60.0
HEADLESS = (
    "--headless=new",
    # The sandbox needs user namespaces, which a container may not have; the pages are ours.
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPage:
    """A page as Chromium laid it out."""

    html: str
    document: str
    """The document as it is shown, scripts run."""
    picture: Path
    too_wide: tuple[str, ...]
    """Elements that stand out of the screen at the right."""


def chromium() -> str:
    """The browser; a test without one is skipped."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    return found


async def picture_room(
    client: WebClient,
    room: str,
    picture: Path,
    *,
    width: int = PHONE,
    names: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
) -> RoomPage:
    """Lay the room out and write its picture (PNG); `only` these events, where given."""
    events = [e for e in await client.timeline(room) if only is None or e["event_id"] in only]
    for event in events:
        if event["content"].get("msgtype") == "m.image" and not event["is_redacted"]:
            event["data"] = _data_url(event, await client.download(room, event["event_id"]))
    room_data = {"title": "room", "me": client.user_id, "names": names or {}, "events": events}
    html = await _run([node(), "render.mjs"], json.dumps(room_data).encode(), cwd=WEB)
    page = picture.with_suffix(".html")
    page.write_text(html, encoding="utf-8")
    document = await _browse(page, "--dump-dom", width=width, height=2000)
    height = int(_read(document, "height")) + 8
    await _browse(page, f"--screenshot={picture}", width=width, height=height)
    wide = tuple(_read(document, "wide").split())
    return RoomPage(html=html, document=document, picture=picture, too_wide=wide)


def _data_url(event: Mapping[str, Any], data: bytes) -> str:
    mimetype = event["content"].get("info", {}).get("mimetype", "image/png")
    return f"data:{mimetype};base64,{base64.b64encode(data).decode()}"


def _read(document: str, name: str) -> str:
    found = re.search(rf'data-{name}="([^"]*)"', document)
    assert found is not None, f"the page did not measure its {name}"
    return found[1]


async def _browse(page: Path, what: str, *, width: int, height: int) -> str:
    profile = page.parent / "chromium"
    return await _run(
        [
            chromium(),
            *HEADLESS,
            "--force-device-scale-factor=1",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            what,
            page.as_uri(),
        ]
    )


async def _run(argv: Sequence[str], stdin: bytes = b"", *, cwd: Path | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_CHROMIUM_S):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode(errors="replace")[-2000:]
    return out.decode()
