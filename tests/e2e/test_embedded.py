"""What a newcomer does: `orchestrator up` with nothing, then `cchat`; and Ctrl-C at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from tests.support.messages_api import open_scripted_api
from tests.support.orchestrator import API_KEY, CCHAT, Orchestrator, open_orchestrator
from tests.support.port import free_port

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

OFFLINE = {"ANTHROPIC_API_KEY": ""}


@pytest.fixture
async def newcomer(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    """The embedded homeserver and the offline model; not started yet."""
    arguments = ("--embedded", "--port", str(free_port()))
    async with open_orchestrator(tmp_path, *arguments, env=OFFLINE) as orchestrator:
        yield orchestrator


async def cchat(
    orchestrator: Orchestrator, *arguments: str, text: str = ""
) -> tuple[int, str, str]:
    """Run cchat beside the installation, with nothing set up for it."""
    process = await asyncio.create_subprocess_exec(
        CCHAT,
        *arguments,
        env={"PATH": os.environ["PATH"], "AIAGENTCHAT_STATE_DIR": str(orchestrator.state_dir)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def processes_of(directory: Path) -> list[str]:
    """Command lines of this machine's processes that name the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and "pytest" not in line:
            found.append(line)
    return found


async def test_a_newcomer_gets_an_answer_with_no_set_up_at_all(newcomer: Orchestrator) -> None:
    await newcomer.start()
    code, out, err = await cchat(newcomer, "send", "--wait", "#demo", "Hello, who are you?")
    assert (code, err) == (0, "")
    assert "offline" in out
    code, out, _ = await cchat(newcomer, "send", "--wait", "demo", text="What did I say first?")
    assert code == 0
    assert "Hello, who are you?" in out

    code, out, _ = await cchat(newcomer, "runners", "--json")
    assert code == 0
    (runner,) = json.loads(out)
    assert runner["state"] == "running"
    code, out, _ = await cchat(newcomer, "rooms")
    assert code == 0
    assert "#demo:localhost" in out
    code, out, _ = await cchat(newcomer, "tail", "demo", "--no-follow")
    assert code == 0
    assert "What did I say first?" in out

    told = newcomer.log
    assert "OFFLINE MODEL" in told
    assert "message limit is lifted" in told
    assert "cchat" in told
    assert "Traceback" not in told


async def test_embedded_json_has_what_scripts_need_and_is_private(newcomer: Orchestrator) -> None:
    await newcomer.start()
    path = newcomer.state_dir / "embedded.json"
    held = json.loads(path.read_text())
    assert set(held) == {"homeserver", "user_id", "password", "room_id", "agent_user_id"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert newcomer.state_dir.stat().st_mode & 0o777 == 0o700
    loose = [
        file
        for file in newcomer.state_dir.rglob("*")
        if file.is_file() and "rooms" not in file.parts and file.stat().st_mode & 0o077
    ]
    assert loose == []


async def test_ctrl_c_leaves_no_process_and_a_second_start_finds_everything(
    newcomer: Orchestrator,
) -> None:
    await newcomer.start()
    assert (await cchat(newcomer, "send", "--wait", "demo", "remember me"))[0] == 0
    (runner,) = await newcomer.runners()
    assert await newcomer.stop(signal.SIGINT) == 0

    assert processes_of(newcomer.state_dir) == []
    client = docker.from_env()
    try:
        assert client.containers.get(runner.container).status == "exited"
    finally:
        client.close()
    code, _, err = await cchat(newcomer, "runners")
    assert code == 3
    assert "make up" in err

    # The port is remembered.
    arguments = ("--embedded",)
    async with open_orchestrator(newcomer.state_dir.parent, *arguments, env=OFFLINE) as again:
        await again.start()
        code, out, _ = await cchat(again, "send", "--wait", "demo", "What did I say first?")
    assert code == 0
    assert "remember me" in out


async def test_a_killed_orchestrator_finds_its_homeserver_and_answers_what_came_meanwhile(
    newcomer: Orchestrator,
) -> None:
    await newcomer.start()
    assert (await cchat(newcomer, "send", "--wait", "demo", "one"))[0] == 0
    await newcomer.kill()
    code, _, err = await cchat(newcomer, "send", "demo", "two")
    assert code == 0
    assert err, "it warns that nobody answers now"

    await newcomer.start()
    code, out, _ = await cchat(newcomer, "send", "--wait", "demo", "three")
    assert code == 0
    _, out, _ = await cchat(newcomer, "tail", "demo", "--no-follow", "-n", "20")
    assert out.count("“two”") + out.count('"two"') == 1


async def test_two_installations_run_beside_each_other(
    newcomer: Orchestrator, tmp_path: Path
) -> None:
    await newcomer.start()
    async with open_scripted_api() as api:
        api.when("which one", "The second one.")
        env = {"ANTHROPIC_API_KEY": API_KEY, "ANTHROPIC_BASE_URL": api.base_url}
        arguments = ("--embedded", "--port", str(free_port()))
        async with open_orchestrator(tmp_path / "second", *arguments, env=env) as second:
            await second.start()
            answers = await asyncio.gather(
                cchat(newcomer, "send", "--wait", "demo", "which one are you?"),
                cchat(second, "send", "--wait", "demo", "which one are you?"),
            )
            assert [code for code, _, _ in answers] == [0, 0]
            assert "second" not in answers[0][1]
            assert "The second one." in answers[1][1]
            assert "OFFLINE" not in second.log
            names = [(await one.runners())[0].container for one in (newcomer, second)]
            assert await second.stop(signal.SIGINT) == 0
            client = docker.from_env()
            try:
                states = [client.containers.get(name).status for name in names]
            finally:
                client.close()
            assert states == ["running", "exited"]
        messages = [r for r in api.requests if r.path.startswith("/v1/messages")]
        assert {r.headers.get("x-api-key") for r in messages} == {API_KEY}


async def test_a_taken_port_is_named_with_the_option_to_change_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with open_orchestrator(tmp_path, "--embedded", "--port", port, env=OFFLINE) as other:
            with pytest.raises(AssertionError, match="--port"):
                await other.start()
