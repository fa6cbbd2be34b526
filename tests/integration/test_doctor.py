"""The doctor at a real Synapse and a real engine: each login made to fail, and one that works."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.embedded.offline_model import open_offline_model
from tests.support.orchestrator import ORCHESTRATOR, write_config
from tests.support.synapse import Account, SynapseServer

pytestmark = [pytest.mark.docker, pytest.mark.synapse]

KEY = {"ANTHROPIC_API_KEY": "sk-ant-something"}


async def examine(
    folder: Path, config: Path, env: Mapping[str, str]
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the checks by name; of several the worst."""
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *("doctor", "--config", str(config), "--state-dir", str(folder / "state"), "--json"),
        env={"PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    checks = json.loads(out)["checks"]
    order = ["pass", "warn", "fail"]
    worst = sorted(checks, key=lambda check: order.index(check["verdict"]))
    return process.returncode or 0, {check["name"]: check for check in worst}


async def devices(server: SynapseServer, account: Account) -> list[str]:
    """The account's devices but the one that asks."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": account.user_id},
        "password": account.password,
        "device_id": "asks",
    }
    async with aiohttp.ClientSession(server.base_url) as http:
        async with http.post("/_matrix/client/v3/login", json=body) as answer:
            token = (await answer.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with http.get("/_matrix/client/v3/devices", headers=headers) as answer:
            found = (await answer.json())["devices"]
    return [one["device_id"] for one in found if one["device_id"] != "asks"]


async def test_all_is_well_and_nothing_is_left_behind(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    agent = synapse.register()
    async with open_offline_model() as upstream:
        config = write_config(
            tmp_path / "config.yaml",
            homeserver=synapse.base_url,
            user_id=agent.user_id,
            upstream=upstream,
        )
        code, found = await examine(tmp_path, config, {**KEY, "MATRIX_PASSWORD": agent.password})
    assert [name for name, check in found.items() if check["verdict"] == "fail"] == []
    assert code == 0
    assert "tried, and ended again" in found["login"]["found"]
    assert await devices(synapse, agent) == []
    assert not (tmp_path / "state").exists()


async def test_each_way_in_that_does_not_work_is_named(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    agent, other = synapse.register(), synapse.register()
    config = write_config(
        tmp_path / "config.yaml",
        homeserver=synapse.base_url,
        user_id=agent.user_id,
        upstream="http://127.0.0.1:1",
    )
    code, found = await examine(tmp_path, config, {**KEY, "MATRIX_PASSWORD": "wrong"})
    assert code == 1
    assert found["login"]["verdict"] == "fail"
    assert "M_FORBIDDEN" in found["login"]["found"]
    assert found["messages api"]["verdict"] == "fail"

    _, found = await examine(tmp_path, config, {**KEY, "MATRIX_ACCESS_TOKEN": "nonsense"})
    assert found["login"]["found"] == "MATRIX_ACCESS_TOKEN is refused"

    async with aiohttp.ClientSession(synapse.base_url) as http:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": other.user_id},
            "password": other.password,
        }
        async with http.post("/_matrix/client/v3/login", json=body) as answer:
            token = (await answer.json())["access_token"]
    _, found = await examine(tmp_path, config, {**KEY, "MATRIX_ACCESS_TOKEN": token})
    assert found["login"]["found"] == f"MATRIX_ACCESS_TOKEN is {other.user_id}'s"


async def test_an_engine_that_is_not_there_and_an_image_that_is_not(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    agent = synapse.register()
    config = write_config(
        tmp_path / "config.yaml",
        homeserver=synapse.base_url,
        user_id=agent.user_id,
        upstream="http://127.0.0.1:1",
        docker={"image": "no.such/image:1"},
    )
    env = {**KEY, "MATRIX_PASSWORD": agent.password}
    _, found = await examine(tmp_path, config, env)
    assert found["runner image"]["verdict"] == "fail"
    assert found["runner image"]["mend"] == "docker pull no.such/image:1"
    _, found = await examine(tmp_path, config, {**env, "DOCKER_HOST": "unix:///nonexistent"})
    assert found["docker engine"]["verdict"] == "fail"
    assert "DOCKER_HOST" in found["docker engine"]["mend"]


async def test_a_configuration_with_mistakes_does_not_hide_the_rest(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("matrix: {homeserver: nowhere}\nother: 1\n")
    code, found = await examine(tmp_path, config, {})
    assert code == 1
    assert found["configuration"]["verdict"] == "fail"
    assert found["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert "docker engine" in found
    assert found["messages api"]["verdict"] == "fail"
