"""The CLI misbehaves: a program in its place hangs, is deaf, or ends as it is started."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Installation
from tests.support.orchestrator import Orchestrator
from tests.support.runner_engine import ensure_cli_image

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

# What it does depends on a file that the test writes; without it, it is the real CLI.
PROGRAM = """#!/bin/sh
case "$(cat /workspace/mode 2>/dev/null)" in
    crash) echo 'fatal: cannot read settings' >&2; exit 7 ;;
    deaf) trap '' INT TERM HUP; exec >&-; while :; do sleep 4247; done ;;
    *) exec /usr/local/bin/claude-real "$@" ;;
esac
"""
TIMEOUT_S = 6


def set_mode(orchestrator: Orchestrator, mode: str | None) -> None:
    (workspace,) = (orchestrator.state_dir / "rooms").glob("*/workspace")
    file = workspace / "mode"
    file.unlink(missing_ok=True)
    if mode is not None:
        file.write_text(mode)
        file.chmod(0o644)


async def test_a_cli_that_hangs_or_crashes_is_told_and_the_next_message_works(
    installation: Installation,
) -> None:
    image = await asyncio.to_thread(ensure_cli_image, PROGRAM)
    orchestrator = await installation.configure(
        docker={"image": image},
        defaults={"permissions": "bypass", "timeout_s": TIMEOUT_S, "ceiling_s": 600},
    )
    await orchestrator.start()
    alice = await installation.person()
    room = await installation.room(alice)
    agent = installation.agent.user_id
    await alice.send(room, "one")
    await alice.wait_for_text(room, "You said: one", sender=agent)

    # Never reads its input, has closed its output, ignores everything but a kill.
    set_mode(orchestrator, "deaf")
    await alice.send(room, "!new")
    await alice.wait_for_text(room, "new conversation", sender=agent)
    await alice.send(room, "two")
    await alice.wait_for_text(room, f"Stopped: nothing came for {TIMEOUT_S} s.", timeout_s=60)
    set_mode(orchestrator, None)
    await alice.send(room, "three")
    await alice.wait_for_text(room, "You said: three", sender=agent)

    set_mode(orchestrator, "crash")
    await alice.send(room, "!new")
    await alice.send(room, "four")
    told = await alice.wait_for_text(room, "ended by itself (code 7)", timeout_s=60)
    assert "fatal: cannot read settings" in told["content"]["body"]
    set_mode(orchestrator, None)
    await alice.send(room, "five")
    await alice.wait_for_text(room, "You said: five", sender=agent)
    (runner,) = await orchestrator.runners()
    assert runner.generation == 1
