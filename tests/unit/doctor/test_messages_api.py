"""The API at the doctor's: reachable or not, and whether it takes the key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pydantic import SecretStr

from orchestrator.core.diagnosis import Verdict
from orchestrator.doctor.messages_api import check_messages_api
from orchestrator.egress.credential import ApiKey, OAuthToken
from orchestrator.embedded.offline_model import open_offline_model
from tests.support.port import free_port

KEY = ApiKey(SecretStr("sk-ant-the-key"))


@asynccontextmanager
async def serving(status: int, seen: list[dict[str, str]]) -> AsyncIterator[str]:
    """An API that answers all with this status."""

    async def answer(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen.append({**headers, "path": request.path_qs})
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.PASS),
        (401, Verdict.FAIL),
        (403, Verdict.FAIL),
        (404, Verdict.WARN),
        (429, Verdict.WARN),
        (500, Verdict.WARN),
        (302, Verdict.WARN),
    ],
)
async def test_what_it_answers_is_what_is_said(status: int, verdict: Verdict) -> None:
    seen: list[dict[str, str]] = []
    async with serving(status, seen) as upstream:
        check = await check_messages_api(upstream, KEY)
    assert check.verdict is verdict
    assert "sk-ant-the-key" not in f"{check.found} {check.mend}"
    (request,) = seen
    assert request["path"] == "/v1/models?limit=1"
    assert request["x-api-key"] == "sk-ant-the-key"


async def test_a_subscription_goes_as_a_bearer() -> None:
    seen: list[dict[str, str]] = []
    async with serving(200, seen) as upstream:
        assert (await check_messages_api(upstream, OAuthToken(SecretStr("tok")))).verdict == "pass"
    assert seen[0]["authorization"] == "Bearer tok"
    assert "oauth" in seen[0]["anthropic-beta"]


async def test_nobody_there_and_no_key() -> None:
    away = await check_messages_api(f"http://127.0.0.1:{free_port()}", KEY)
    assert away.verdict is Verdict.FAIL
    assert "does not answer" in away.found
    none = await check_messages_api("http://127.0.0.1:1", None)
    assert none.verdict is Verdict.FAIL
    assert "ANTHROPIC_API_KEY" in str(none.mend)


async def test_the_offline_model_is_such_an_api() -> None:
    async with open_offline_model() as upstream:
        assert (await check_messages_api(upstream, KEY)).verdict is Verdict.PASS
