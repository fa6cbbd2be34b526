"""The status page in Chromium: a person with a phone, hostile words, another site's page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from orchestrator.core.approval import ApprovalKind
from orchestrator.core.page_action import PageVerb
from tests.support.browser import open_browser
from tests.support.port import free_port
from tests.support.status_site import ADMIN, ROOM, serve
from tests.support.status_view import MemoryPages, make_room, make_subject, make_view


@pytest.fixture
def pages() -> MemoryPages:
    return MemoryPages()


async def test_in_a_browser_a_person_logs_in_reads_on_a_phone_and_decides(
    tmp_path: Path, pages: MemoryPages
) -> None:
    async with serve(pages) as site, open_browser(tmp_path) as browser:
        for dark in (False, True):
            await browser.use_screen(360, dark=dark)
            await browser.open(site.origin)
            await browser.run(f"document.querySelector('#token').value = '{ADMIN}'")
            await browser.press("Show it")
            await browser.wait_for("document.body.innerText.includes('npm publish')")
            assert await browser.too_wide() == []
            background = await browser.run("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(20, 23, 26)" if dark else "rgb(246, 247, 249)")
            assert "aiagentchat-status" not in await browser.run("document.cookie")
            pages.seen = make_view(problems=("homeserver: 502",))
            await browser.wait_for("document.body.innerText.includes('homeserver: 502')")
            pages.seen = make_view()
            await browser.press("Log out")
            await browser.wait_for("document.querySelector('#token') !== null")
        await browser.run(f"document.querySelector('#token').value = '{ADMIN}'")
        await browser.press("Show it")
        await browser.wait_for("document.body.innerText.includes('npm publish')")
        await browser.open(f"{site.origin}/question/a-1")
        assert await browser.too_wide() == []
        await browser.press("Allow it once")
        await browser.wait_for("document.body.innerText.includes('the room is told')")
    assert [(a.verb, a.subject) for _, _, a in pages.acts] == [(PageVerb.ALLOW, "a-1")]


async def test_in_a_browser_hostile_words_do_nothing(tmp_path: Path, pages: MemoryPages) -> None:
    hostile = '"><script>document.title="owned"</script><img src=x onerror="document.title=1">'
    pages.seen = make_view(rooms=(make_room(hostile),), problems=(hostile,))
    pages.subjects["a-1"] = make_subject(hostile * 20, kind=ApprovalKind.PLAN, what=hostile)
    async with serve(pages) as site, open_browser(tmp_path) as browser:
        await browser.use_screen(360)
        await browser.open(site.origin)
        await browser.run(f"document.querySelector('#token').value = '{ADMIN}'")
        await browser.press("Show it")
        await browser.wait_for("document.body.innerText.includes('Log out')")
        for path in ("/", f"/room/{ROOM}", "/question/a-1"):
            await browser.open(f"{site.origin}{path}")
            await browser.wait_for("document.body.innerText.includes('owned')")
            assert await browser.run("document.title") == "aiagentchat"
            assert await browser.run("document.querySelectorAll('img, script').length") == 0
            assert await browser.too_wide() == []


async def test_in_a_browser_another_sites_page_can_not_press_anything(
    tmp_path: Path, pages: MemoryPages
) -> None:
    """On another port of this host, which for cookies is the same site."""
    async with serve(pages) as site, open_browser(tmp_path) as browser:
        await browser.open(site.origin)
        await browser.run(f"document.querySelector('#token').value = '{ADMIN}'")
        await browser.press("Show it")
        await browser.wait_for("document.body.innerText.includes('npm publish')")
        form = (
            f'<form method="post" action="{site.origin}/act"><input name="verb" value="restart">'
            f'<input name="room" value="{ROOM}"><input name="once" value="{"a" * 16}">'
            f"<button>Win a prize</button></form><iframe src='{site.origin}/'></iframe>"
        )
        async with open_page(form) as evil:
            await browser.open(evil)
            # Nothing of the page is in the frame: it is an error page, of nobody's origin.
            shown = "(f => f.contentDocument ? f.contentDocument.body.innerText : '')"
            assert await browser.run(f"{shown}(document.querySelector('iframe'))") == ""
            await browser.press("Win a prize")
            await browser.wait_for("document.body.innerText.includes('sent by another page')")
    assert pages.acts == []


@asynccontextmanager
async def open_page(html: str) -> AsyncIterator[str]:
    """Some other program's page on this host."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    app, port = web.Application(), free_port()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}/"
    finally:
        await runner.cleanup()
