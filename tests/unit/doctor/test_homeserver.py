"""What is no homeserver, or one whose clock is off; logins are tried on a real one elsewhere."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from orchestrator.config import MatrixConfig, Secrets
from orchestrator.core.diagnosis import Check, Verdict
from orchestrator.doctor.homeserver import check_homeserver
from orchestrator.model import UserId
from tests.support.port import free_port

GOOD = {"versions": ["v1.1", "v1.5", "v1.11"]}
ME = UserId("@claude:test")


@asynccontextmanager
async def serving(
    body: object = GOOD, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    app = web.Application()
    app.router.add_get("/_matrix/client/versions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def look(homeserver: str, folder: Path) -> dict[str, Check]:
    config = MatrixConfig(homeserver=homeserver, user_id=ME)
    found = await check_homeserver(config, Secrets(), folder, wall=time.time)
    return {check.name: check for check in found}


async def test_nobody_there(tmp_path: Path) -> None:
    found = await look(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert list(found) == ["homeserver"]
    assert found["homeserver"].verdict is Verdict.FAIL
    assert "matrix.homeserver" in str(found["homeserver"].mend)


@pytest.mark.parametrize(
    ("body", "status"), [({}, 200), (GOOD, 404), ([], 200), ("text", 200), ({"versions": 1}, 200)]
)
async def test_something_else_there(tmp_path: Path, body: object, status: int) -> None:
    async with serving(body, status=status) as homeserver:
        found = await look(homeserver, tmp_path)
    assert list(found) == ["homeserver"]
    assert found["homeserver"].verdict is Verdict.FAIL


async def test_an_old_one_is_worth_a_look(tmp_path: Path) -> None:
    async with serving({"versions": ["r0.6.1"]}) as homeserver:
        found = await look(homeserver, tmp_path)
    assert found["homeserver"].verdict is Verdict.WARN
    assert found["clock"].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("off_s", "verdict"),
    [
        (0, Verdict.PASS),
        (-20, Verdict.PASS),
        (60, Verdict.WARN),
        (-60, Verdict.WARN),
        (600, Verdict.FAIL),
    ],
)
async def test_a_clock_that_is_off_is_named(tmp_path: Path, off_s: float, verdict: Verdict) -> None:
    async with serving(headers={"Date": formatdate(time.time() + off_s, usegmt=True)}) as server:
        found = await look(server, tmp_path)
    assert found["clock"].verdict is verdict


async def test_a_homeserver_without_a_time_is_not_compared(tmp_path: Path) -> None:
    async with serving(headers={"Date": "yesterday"}) as server:
        found = await look(server, tmp_path)
    assert found["clock"].verdict is Verdict.PASS
    assert "not compared" in found["clock"].found


async def test_nothing_to_log_in_with_is_told_with_what_to_set(tmp_path: Path) -> None:
    async with serving() as server:
        found = await look(server, tmp_path)
    assert found["login"].verdict is Verdict.FAIL
    assert "MATRIX_PASSWORD" in str(found["login"].mend)
    assert found["message limit"].verdict is Verdict.PASS


async def test_a_kept_session_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "matrix-session.json").write_text("{")
    async with serving() as server:
        found = await look(server, tmp_path)
    assert found["login"].verdict is Verdict.FAIL
    assert found["login"].mend == f"delete it: rm {tmp_path}/matrix-session.json"
