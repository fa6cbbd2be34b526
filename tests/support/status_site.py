"""The status page as it is served, and a client without cookies."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr

from orchestrator.config import StatusTokens
from orchestrator.status.server import open_status
from tests.support.port import free_port
from tests.support.status_view import MemoryPages, make_room

READ, ADMIN = "reader-0123456789abcdef", "admin--0123456789abcdef"
TOKENS = StatusTokens(read=SecretStr(READ), admin=SecretStr(ADMIN))
ROOM = make_room().slug


@dataclass
class Site:
    """The page as it is served, and a client without cookies."""

    address: str
    pages: MemoryPages
    http: aiohttp.ClientSession

    @property
    def origin(self) -> str:
        return f"http://{self.address}"

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, str, Mapping[str, str]]:
        async with self.http.request(
            method, f"{self.origin}{path}", allow_redirects=False, **more
        ) as answer:
            return answer.status, await answer.text(), answer.headers

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str, Mapping[str, str]]:
        return await self.ask("GET", path, headers=headers)

    async def login(self, token: str) -> str:
        """The cookie."""
        status, _, headers = await self.ask(
            "POST", "/login", data={"token": token}, headers={"Origin": self.origin}
        )
        assert status == 303
        return headers["Set-Cookie"].partition(";")[0]

    async def form(self, cookie: str, path: str, verb: str) -> dict[str, str]:
        """A form's fields, as the page has them."""
        _, text, _ = await self.get(path, Cookie=cookie)
        for form in re.findall(r"<form.*?</form>", text, re.DOTALL):
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
            if fields.get("verb") == verb:
                return fields
        raise AssertionError(text)


@asynccontextmanager
async def serve(
    pages: MemoryPages | None = None, tokens: StatusTokens | None = TOKENS, **more: Any
) -> AsyncIterator[Site]:
    pages, address = pages or MemoryPages(), f"127.0.0.1:{free_port()}"
    async with (
        open_status(address, tokens, pages, pages.act, **more),
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        yield Site(address, pages, http)


def bearer(token: str) -> str:
    return f"Bearer {token}"
