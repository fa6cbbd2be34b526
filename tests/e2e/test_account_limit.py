"""What the account may send, on a homeserver with its stock limits: learnt once, and shown."""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from orchestrator.model import UserId
from orchestrator.synapse_admin import open_synapse_admin
from tests.e2e.conftest import Installation
from tests.support.matrix_user import open_matrix_user
from tests.support.messages_api import open_scripted_api
from tests.support.port import free_port
from tests.support.synapse import SynapseServer

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.timeout(240)]


async def read_metric(address: str, name: str) -> float:
    async with aiohttp.request("GET", f"http://{address}/metrics") as answer:
        text = await answer.text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_a_limit_that_was_learnt_is_known_after_a_restart_and_shown(
    stock_synapse: SynapseServer, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    agent = stock_synapse.register(f"claude-{secrets.token_hex(4)}")
    admin = stock_synapse.register(admin=True)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_scripted_api())
        installation = Installation(tmp_path, stock_synapse, api, agent, stack)
        await installation.configure(observability={"metrics": address, "log_format": "text"})
        await installation.orchestrator.start()
        assert math.isnan(await read_metric(address, "aiagentchat_send_rate_learnt"))
        person = await installation.person()
        boss = await stack.enter_async_context(open_matrix_user(stock_synapse.base_url, admin))
        async with open_synapse_admin(stock_synapse.base_url, SecretStr(boss._token)) as asked:
            await asked.lift_send_limit(UserId(person.user_id))
        room = await installation.room(person)
        for _ in range(11):
            await person.send(room, "!help")
        async with asyncio.timeout(60):
            while not await read_metric(address, "aiagentchat_send_limited_total"):  # noqa: ASYNC110 - a page of metrics
                await asyncio.sleep(0.1)
        learnt = await read_metric(address, "aiagentchat_send_rate_learnt")
        assert 0.01 < learnt < 1
        assert await read_metric(address, "aiagentchat_outbox_waiting") >= 1

        await installation.orchestrator.stop()
        await installation.orchestrator.start()
        known = await read_metric(address, "aiagentchat_send_rate_learnt")
        assert 0.01 < known < 1
        await person.send(room, "!status")
        # Rows leave one after the other: this is behind all that the burst left waiting.
        status = await person.wait_for_text(room, "- Account:", timeout_s=120)
        assert "messages/s (learnt)" in status["content"]["body"]
