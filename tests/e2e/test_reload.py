"""The configuration changes while a turn runs: the turn goes on, the next one has what is new."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded.messages_model import Text
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser
from tests.support.orchestrator import ORCHESTRATOR, write_config
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

BYPASS = {"permissions": "bypass"}


def rewrite(installation: Installation, path: Path | None = None, **sections: Any) -> None:
    write_config(
        path or installation.config_path,
        homeserver=installation.server.base_url,
        user_id=installation.agent.user_id,
        upstream=installation.api.base_url,
        **{"defaults": BYPASS, **sections},
    )


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - another process's log
            await asyncio.sleep(0.2)


async def diff(installation: Installation, path: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *("config", "diff", str(path)),
        *("--state-dir", str(installation.orchestrator.state_dir)),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return out.decode()


async def begin(installation: Installation) -> tuple[MatrixUser, str]:
    installation.api.when("count", [Text(text="starting"), bash("sleep 12; echo done")], "counted")
    orchestrator = await installation.configure()
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    await alice.send(room, "count")
    await alice.wait_for_text(room, "starting")
    return alice, room


@pytest.mark.parametrize("how", ["signal", "change"])
async def test_a_reload_leaves_the_running_turn_alone_and_the_next_one_has_what_is_new(
    installation: Installation, how: str
) -> None:
    alice, room = await begin(installation)
    orchestrator = installation.orchestrator
    pid, (before,) = orchestrator.pid, await orchestrator.runners()
    new = {**BYPASS, "model": "claude-haiku-4-5"}
    draft = installation.directory / "draft.yaml"
    rewrite(installation, draft, defaults=new)
    assert 'defaults.model: – → "claude-haiku-4-5"' in await diff(installation, draft)
    rewrite(installation, defaults=new)
    if how == "signal":
        orchestrator.send_signal(signal.SIGHUP)
    await until(lambda: "Reading the configuration again" in orchestrator.log)
    await alice.wait_for_text(room, "counted")
    await orchestrator.wait_ready()
    assert orchestrator.pid == pid
    (after,) = await orchestrator.runners()
    assert after.container_id == before.container_id

    await alice.send(room, "and now?")
    await alice.wait_for_text(room, "and now?", sender=installation.agent.user_id)
    assert installation.api.asked[-1].model == "claude-haiku-4-5"
    assert "count" in str(installation.api.asked[-1].messages), "the conversation went on"
    assert "as it is in force" in await diff(installation, draft)
    answers = alice.texts(room, sender=installation.agent.user_id)
    assert len([text for text in answers if "counted" in text]) == 1


async def test_a_configuration_that_it_does_not_start_with_is_given_up(
    installation: Installation,
) -> None:
    alice, room = await begin(installation)
    orchestrator = installation.orchestrator
    rewrite(installation, docker={"runtime": "no-such-runtime"})
    orchestrator.send_signal(signal.SIGHUP)
    await until(lambda: "the old one is taken again" in orchestrator.log)
    await alice.wait_for_text(room, "counted")
    await alice.send(room, "still there?")
    await alice.wait_for_text(room, "still there?", sender=installation.agent.user_id)
