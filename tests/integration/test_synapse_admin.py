"""Lifting the account's message limit: on a real Synapse, and where it can't be done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from orchestrator.errors import AdminApiError, HomeserverUnreachableError
from orchestrator.model import UserId
from orchestrator.synapse_admin import SendLimit, open_synapse_admin
from tests.support.matrix_user import MatrixRefusalError, MatrixUser, open_matrix_user
from tests.support.orchestrator import ORCHESTRATOR, write_config
from tests.support.synapse import Account, SynapseServer

AGENT = UserId("@claude:synapse.test")


async def run(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """The command, as an operator types it."""
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *arguments,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def config_of(directory: Path, server: SynapseServer, agent: Account) -> str:
    path = directory / "config.yaml"
    where = {"homeserver": server.base_url, "user_id": agent.user_id}
    return str(write_config(path, **where, upstream="http://127.0.0.1:9"))


async def refusals_of_a_burst(user: MatrixUser, room: str) -> int:
    sends = (user.send(room, f"message {number}") for number in range(25))
    results = await asyncio.gather(*sends, return_exceptions=True)
    return sum(isinstance(r, MatrixRefusalError) for r in results)


@pytest.mark.synapse
@pytest.mark.docker
async def test_the_limit_is_shown_lifted_and_gone(
    stock_synapse: SynapseServer, tmp_path: Path
) -> None:
    agent, admin = stock_synapse.register(), stock_synapse.register(admin=True)
    config = config_of(tmp_path, stock_synapse, agent)
    async with (
        open_matrix_user(stock_synapse.base_url, admin) as boss,
        open_matrix_user(stock_synapse.base_url, agent, patient=False) as user,
    ):
        room = await user.create_room()
        assert await refusals_of_a_burst(user, room) > 0
        (tmp_path / "token").write_text(f"{boss._token}\n")
        env = {"MATRIX_ADMIN_TOKEN_FILE": str(tmp_path / "token")}
        shown = await run("matrix", "limit", "--config", config, env=env)
        assert shown == (0, f"{agent.user_id}: the homeserver's own limit (no override)\n", "")
        code, out, _ = await run("matrix", "unlimit", "--config", config, env=env)
        first = f"{agent.user_id}: the homeserver's own limit (no override) → no limit\n"
        assert (code, out[: len(first)]) == (0, first)
        again = await run("matrix", "unlimit", "--config", config, env=env)
        assert again == (0, f"{agent.user_id}: no limit already; nothing was changed\n", "")
        shown = await run("matrix", "limit", "--config", config, env=env)
        assert shown == (0, f"{agent.user_id}: no limit\n", "")
        assert await refusals_of_a_burst(user, room) == 0


@pytest.mark.synapse
@pytest.mark.docker
async def test_what_keeps_it_from_being_lifted_is_said(
    synapse: SynapseServer, tmp_path: Path
) -> None:
    agent, admin = synapse.register(), synapse.register(admin=True)
    config = config_of(tmp_path, synapse, agent)
    async with (
        open_matrix_user(synapse.base_url, admin) as boss,
        open_matrix_user(synapse.base_url, agent) as user,
    ):
        tokens = {"none": None, "wrong": "syt_wrong", "agent": user._token, "admin": boss._token}
        for token, option, code, sentence in (
            ("none", (), 2, "set MATRIX_ADMIN_TOKEN or MATRIX_ADMIN_TOKEN_FILE"),
            ("wrong", (), 5, "the token in MATRIX_ADMIN_TOKEN is not valid"),
            ("agent", (), 5, "is of an account that is no server admin"),
            ("admin", ("--user", "@nobody:synapse.test"), 5, "has no account @nobody:synapse.test"),
            ("admin", ("--user", "@a:elsewhere.org"), 5, "refuses for @a:elsewhere.org"),
            ("admin", ("--user", "claude"), 2, "--user: expected a user id"),
        ):
            held = tokens[token]
            env = {} if held is None else {"MATRIX_ADMIN_TOKEN": held}
            got = await run("matrix", "unlimit", "--config", config, *option, env=env)
            assert (got[0], got[1]) == (code, ""), got
            assert sentence in got[2]
            assert held is None or held not in got[2]
        limit = SecretStr(boss._token)
        async with open_synapse_admin(synapse.base_url, limit) as asked:
            assert not (await asked.send_limit(UserId(agent.user_id))).is_lifted


@asynccontextmanager
async def another_homeserver(status: int, text: str) -> AsyncIterator[str]:
    """Something that answers all of it the same way."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers={"Location": "http://127.0.0.1:9/"})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, '{"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}'),
        (404, "<html>not found</html>"),
        (405, ""),
        (302, ""),
        (403, "<html>forbidden by the proxy</html>"),
        (200, "<html>welcome</html>"),
        (200, "[" * 50_000),
    ],
)
async def test_what_is_not_synapse_is_called_so(status: int, text: str) -> None:
    async with (
        another_homeserver(status, text) as url,
        open_synapse_admin(url, SecretStr("token")) as admin,
    ):
        with pytest.raises(AdminApiError, match="not Synapse"):
            await admin.send_limit(AGENT)


async def test_one_that_is_down_is_called_so() -> None:
    async with (
        another_homeserver(502, "") as url,
        open_synapse_admin(url, SecretStr("token")) as admin,
    ):
        with pytest.raises(HomeserverUnreachableError, match="502"):
            await admin.lift_send_limit(AGENT)
    async with open_synapse_admin(url, SecretStr("token")) as admin:
        with pytest.raises(HomeserverUnreachableError):
            await admin.send_limit(AGENT)


def test_a_limit_is_told_in_words() -> None:
    assert str(SendLimit(per_second=2.5, burst=20)) == "2.5 messages/s, 20 at once (override)"
    assert str(SendLimit(per_second=0, burst=5)) == "no limit"
