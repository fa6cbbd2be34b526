"""An orchestrator that has the socket proxy for an engine does all that it does otherwise."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from pathlib import Path

import docker
import pytest

from orchestrator.errors import EngineRequestError, ImageMissingError
from orchestrator.runners.base_image import MADE_NAME
from orchestrator.runners.engine import open_engine
from orchestrator.runners.image import IMAGE_NAME, ensure_image
from tests.e2e.conftest import Installation
from tests.support.orchestrator import ORCHESTRATOR, clean_environment
from tests.support.socket_proxy import SocketProxy, open_socket_proxy

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]


async def run(installation: Installation, proxy: SocketProxy, *words: str) -> tuple[int, str]:
    """One of its commands, with the proxy for an engine."""
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *words,
        "--config",
        str(installation.config_path),
        "--state-dir",
        str(installation.orchestrator.state_dir),
        env={**clean_environment(), "DOCKER_HOST": proxy.address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_a_room_is_answered_restarted_audited_and_cleaned_up_through_the_proxy(
    installation: Installation, tmp_path: Path
) -> None:
    agent, state_dir = installation.agent.user_id, tmp_path / "state"
    async with open_socket_proxy(tmp_path / "engine", state_dir) as proxy:
        orchestrator = await installation.configure(env={"DOCKER_HOST": proxy.address})
        assert orchestrator.state_dir == state_dir
        await orchestrator.start()
        alice = await installation.person()
        room = await installation.room(alice)
        await alice.send(room, "hello")
        await alice.wait_for_text(room, "You said: hello", sender=agent)

        await alice.send(room, "!restart")
        await alice.wait_for_text(room, "started anew", sender=agent)
        await alice.send(room, "hello again")
        await alice.wait_for_text(room, "You said: hello again", sender=agent)

        # The runner goes on without the orchestrator, and the next one finds it.
        await orchestrator.kill()
        await orchestrator.start()
        await alice.send(room, "still there?")
        await alice.wait_for_text(room, "You said: still there?", sender=agent)

        code, said = await run(installation, proxy, "audit", "isolation")
        assert code == 0, said
        assert " 0 fail," in said, said
        assert await orchestrator.stop(signal.SIGTERM) == 0
        pinned = (proxy.socket.parent / "installation").read_text().strip()
        ours = {"label": f"aiagentchat.installation={pinned}"}
        engine = docker.from_env()
        (container,) = engine.containers.list(filters=ours)
        container.kill()
        code, said = await run(installation, proxy, "gc", "--yes")
        assert code == 0, said
        assert engine.containers.list(all=True, filters=ours) == []
        engine.close()
        assert proxy.refusals == []
    lines = [json.loads(line) for line in proxy.log_path.read_text().splitlines() if "{" in line]
    assert {"socket_proxy.open"} <= {line.get("action") for line in lines}


async def test_the_image_is_built_listed_and_removed_through_the_proxy(tmp_path: Path) -> None:
    tag = secrets.token_hex(6)
    client = docker.from_env()
    async with (
        open_socket_proxy(tmp_path / "engine", tmp_path / "state") as proxy,
        open_engine(proxy.address) as engine,
    ):
        said: list[str] = []
        # Of this version's files, as `orchestrator image build` asks for it.
        built = await ensure_image(engine, on_line=said.append, rebuild=True)
        assert proxy.refusals == []
        client.images.get(built).tag(IMAGE_NAME, tag)
        found = await engine.call(engine.api.inspect_image, f"{IMAGE_NAME}:{tag}")
        assert found["Id"] == built
        names = [n for i in await engine.call(engine.api.images) for n in i["RepoTags"] or ()]
        assert f"{IMAGE_NAME}:{tag}" in names
        assert not [name for name in names if not name.startswith(f"{IMAGE_NAME}:")]
        await engine.call(engine.api.remove_image, f"{IMAGE_NAME}:{tag}", force=False)
        with pytest.raises(ImageMissingError):
            await engine.call(engine.api.inspect_image, f"{IMAGE_NAME}:{tag}")
        with pytest.raises(EngineRequestError, match="socket proxy"):
            await engine.call(engine.api.remove_image, f"{MADE_NAME}:{tag}", force=False)
    client.close()
