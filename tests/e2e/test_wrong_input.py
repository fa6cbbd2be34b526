"""What an operator gets wrong: one sentence for each mistake, an exit code, and no traceback."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.orchestrator import API_KEY, ORCHESTRATOR, write_config
from tests.support.synapse import SynapseServer

KEY = {"ANTHROPIC_API_KEY": API_KEY}


async def run(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run the orchestrator to its end: exit code, stdout, stderr."""
    base = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    process = await asyncio.create_subprocess_exec(
        ORCHESTRATOR,
        *arguments,
        env={**base, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


def up(config: Path) -> list[str]:
    return ["up", "--config", str(config), "--state-dir", str(config.parent / "state")]


def config_in(directory: Path, **changes: object) -> Path:
    values = {
        "homeserver": "http://127.0.0.1:9",
        "user_id": "@c:x",
        "upstream": "http://127.0.0.1:9",
    }
    return write_config(directory / "config.yaml", **{**values, **changes})  # type: ignore[arg-type]


async def test_the_version_is_printed() -> None:
    assert await run("--version") == (0, "aiagentchat 0.1.0\n", "")


async def test_each_mistake_in_the_configuration_has_its_own_line(tmp_path: Path) -> None:
    config = config_in(
        tmp_path, user_id="claude", defaults={"permissions": "yolo", "timeout_s": 0}, extra=1
    )
    code, out, err = await run("config", "check", str(config))
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 4
    for key in ("matrix.user_id", "defaults.permissions", "defaults.timeout_s", "extra"):
        assert sum(f": {key}: " in line for line in lines) == 1
    assert (await run(*up(config), env=KEY))[0] == 2


async def test_a_good_configuration_is_called_fine(tmp_path: Path) -> None:
    code, out, err = await run("config", "check", str(config_in(tmp_path)))
    assert (code, err) == (0, "")
    assert out.endswith(": fine\n")


async def test_without_a_key_it_names_the_variable_to_set(tmp_path: Path) -> None:
    code, _, err = await run(*up(config_in(tmp_path)))
    assert code == 2
    assert "ANTHROPIC_API_KEY" in err
    assert "CLAUDE_CODE_OAUTH_TOKEN" in err


async def test_an_unknown_option_is_refused_with_the_usage() -> None:
    code, _, err = await run("up", "--no-such-option")
    assert code == 2
    assert "--no-such-option" in err


@pytest.mark.docker
@pytest.mark.timeout(120)
async def test_an_unreachable_homeserver_is_named(tmp_path: Path) -> None:
    env = {**KEY, "MATRIX_PASSWORD": "x"}
    code, _, err = await run(*up(config_in(tmp_path)), env=env)
    assert code == 5
    assert "http://127.0.0.1:9" in err


@pytest.mark.docker
@pytest.mark.synapse
async def test_a_wrong_password_is_told_with_what_to_check(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    account = synapse.register()
    config = config_in(tmp_path, homeserver=synapse.base_url, user_id=account.user_id)
    code, _, err = await run(*up(config), env={**KEY, "MATRIX_PASSWORD": "not-the-password"})
    assert code == 5
    assert "MATRIX_PASSWORD" in err
    assert "not-the-password" not in err


@pytest.mark.docker
@pytest.mark.synapse
async def test_without_password_and_token_it_names_the_variables(
    tmp_path: Path, synapse: SynapseServer
) -> None:
    account = synapse.register()
    config = config_in(tmp_path, homeserver=synapse.base_url, user_id=account.user_id)
    code, _, err = await run(*up(config), env=KEY)
    assert code in (2, 5)
    assert "MATRIX_PASSWORD" in err


async def test_without_an_engine_it_says_how_to_start_one(tmp_path: Path) -> None:
    env = {**KEY, "MATRIX_PASSWORD": "x", "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    code, _, err = await run(*up(config_in(tmp_path)), env=env)
    assert code == 3
    assert "Docker" in err


@pytest.mark.docker
async def test_a_missing_image_is_named(tmp_path: Path) -> None:
    config = config_in(tmp_path, docker={"image": "aiagentchat/no-such-image:1"})
    code, _, err = await run(*up(config), env={**KEY, "MATRIX_PASSWORD": "x"})
    assert code == 3
    assert "aiagentchat/no-such-image:1" in err


async def test_a_full_disk_for_the_database_is_a_sentence(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    try:
        (small / "filler").write_bytes(b"x" * (56 << 10))
        arguments = [
            "up",
            "--config",
            str(config_in(tmp_path)),
            "--state-dir",
            str(small / "state"),
        ]
        code, _, err = await run(*arguments, env={**KEY, "MATRIX_PASSWORD": "x"})
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert code in (3, 4)
    assert "full" in err or "No space" in err


async def test_a_state_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["up", "--config", str(config_in(tmp_path))]
    code, _, err = await run(
        *arguments, "--state-dir", str(tmp_path / "file" / "state"), env={**KEY}
    )
    assert code == 3
    assert "--state-dir" in err


async def test_somebody_else_than_root_is_told_how_to_start_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from orchestrator.main import main; "
        "os.setgid(65534); os.setuid(65534); sys.argv = ['orchestrator', 'up']; main()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert process.returncode == 3
    assert b"sudo make up" in err
    assert b"Traceback" not in err
