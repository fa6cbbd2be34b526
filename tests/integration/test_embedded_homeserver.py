"""The embedded homeserver with a real Synapse: what `up` without a configuration stands on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from orchestrator.embedded.homeserver import (
    EmbeddedHomeserver,
    open_embedded_homeserver,
    require_free_port,
    write_embedded_json,
)
from orchestrator.embedded.synapse_config import write_synapse_files
from orchestrator.embedded.synapse_process import start_synapse
from orchestrator.errors import HomeserverUnreachableError, PreconditionError
from tests.support.matrix_user import MatrixRefusalError, open_matrix_user
from tests.support.port import free_port
from tests.support.synapse import Account

pytestmark = pytest.mark.synapse


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory after its first start."""
    path = tmp_path_factory.mktemp("made-before")

    async def make() -> None:
        async with open_embedded_homeserver(path, port=free_port(), say=print):
            pass

    asyncio.run(make())
    return path


@pytest.fixture
def seeded(made_before: Path, tmp_path: Path) -> Path:
    """A state directory of this test's own whose first start was made before: saves 2 s."""
    path = tmp_path / "seeded"
    shutil.copytree(made_before, path)
    return path


def user_of(server: EmbeddedHomeserver) -> Account:
    return Account(user_id=server.user_id, password=server.user_password)


def agent_of(server: EmbeddedHomeserver) -> Account:
    return Account(user_id=server.agent_user_id, password=server.agent_password)


def is_running(pid: int) -> bool:
    """Whether the process runs; one that ended and waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_the_user_finds_the_agent_in_the_demo_room(tmp_path: Path, port: int) -> None:
    said: list[str] = []
    async with open_embedded_homeserver(tmp_path, port=port, say=said.append) as server:
        assert server.first_start
        assert not server.adopted
        assert server.limit_lifted
        async with (
            open_matrix_user(server.base_url, user_of(server)) as you,
            open_matrix_user(server.base_url, agent_of(server), patient=False) as agent,
        ):
            assert await you.members(server.room_id) == {you.user_id, agent.user_id}
            await you.send(server.room_id, "hello")
            await agent.wait_for_text(server.room_id, "hello", sender=you.user_id)
            # The stock limit lets 10 through at once, then one in 5 s.
            for number in range(30):
                await agent.send(server.room_id, f"answer {number}")
            state = await you.request("GET", f"/_matrix/client/v3/rooms/{server.room_id}/state")
    assert not any(event["type"] == "m.room.encryption" for event in state)
    assert any("Synapse started (" in line for line in said)


async def test_the_users_own_limit_is_left_as_it_is(seeded: Path, port: int) -> None:
    async with (
        open_embedded_homeserver(seeded, port=port, say=print) as server,
        open_matrix_user(server.base_url, user_of(server), patient=False) as you,
    ):
        sends = (you.send(server.room_id, f"message {number}") for number in range(30))
        results = await asyncio.gather(*sends, return_exceptions=True)
    refused = [r.status for r in results if isinstance(r, MatrixRefusalError)]
    assert set(refused) == {429}


async def test_nobody_can_register_there(seeded: Path, port: int) -> None:
    register = {"username": "eve", "password": "eve", "auth": {"type": "m.login.dummy"}}
    async with (
        open_embedded_homeserver(seeded, port=port, say=print) as server,
        aiohttp.ClientSession(server.base_url) as http,
        http.post("/_matrix/client/v3/register", json=register) as answer,
    ):
        assert answer.status == 403


async def test_a_second_start_finds_everything_as_it_was(tmp_path: Path, port: int) -> None:
    async with open_embedded_homeserver(tmp_path, port=port, say=print) as first:
        path = write_embedded_json(tmp_path, first)
        async with open_matrix_user(first.base_url, user_of(first)) as you:
            await you.send(first.room_id, "remember me")
    assert not is_running(first.pid)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {
        "homeserver": first.base_url,
        "user_id": "@you:localhost",
        "password": first.user_password,
        "room_id": first.room_id,
        "agent_user_id": "@claude:localhost",
    }
    async with open_embedded_homeserver(tmp_path, port=port, say=print) as second:
        assert not second.first_start
        assert (second.room_id, second.user_password, second.agent_password) == (
            first.room_id,
            first.user_password,
            first.agent_password,
        )
        async with open_matrix_user(second.base_url, user_of(second)) as you:
            await you.wait_for_text(second.room_id, "remember me", sender=you.user_id)


async def test_many_starts_never_meet_the_login_limit(seeded: Path, port: int) -> None:
    for _ in range(3):
        async with open_embedded_homeserver(seeded, port=port, say=print) as server:
            pass
    async with (
        open_embedded_homeserver(seeded, port=port, say=print) as server,
        open_matrix_user(server.base_url, user_of(server), patient=False) as you,
    ):
        devices = (await you.request("GET", "/_matrix/client/v3/devices"))["devices"]
    assert len(devices) == 2  # the set-up's, and the one of this test


async def test_an_interrupted_set_up_is_finished_by_the_next_start(seeded: Path, port: int) -> None:
    # As if it had been killed before the token was saved: the accounts are there, the session not.
    path = seeded / "embedded" / "accounts.json"
    held = json.loads(path.read_text())
    del held["user_token"]
    path.write_text(json.dumps(held))
    async with (
        open_embedded_homeserver(seeded, port=port, say=print) as server,
        open_matrix_user(server.base_url, user_of(server)) as you,
    ):
        assert (
            len((await you.request("GET", "/_matrix/client/v3/joined_rooms"))["joined_rooms"]) == 1
        )
        assert await you.members(server.room_id) == {server.user_id, server.agent_user_id}
    assert "user_token" in json.loads(path.read_text())


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from orchestrator.embedded.homeserver import open_embedded_homeserver

async def main():
    async with open_embedded_homeserver(Path(sys.argv[1]), port=int(sys.argv[2]), say=print) as hs:
        print("pid", hs.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def start_and_be_killed(state_dir: Path, port: int) -> int:
    """Another process opens the homeserver and is killed; the number of the Synapse it leaves."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(state_dir), str(port), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    return int(output.split(b"pid ")[1])


async def test_a_synapse_that_outlived_its_orchestrator_is_adopted(seeded: Path, port: int) -> None:
    left = await start_and_be_killed(seeded, port)
    assert is_running(left)
    async with open_embedded_homeserver(seeded, port=port, say=print) as server:
        assert server.adopted
        assert server.pid == left
        async with open_matrix_user(server.base_url, user_of(server)) as you:
            await you.send(server.room_id, "still here")
    assert not is_running(left)


async def test_one_that_runs_with_another_port_is_replaced(seeded: Path, port: int) -> None:
    left = await start_and_be_killed(seeded, port)
    other = free_port()
    async with open_embedded_homeserver(seeded, port=other, say=print) as server:
        assert not server.adopted
        assert server.base_url == f"http://127.0.0.1:{other}"
        assert not is_running(left)


async def test_a_frozen_one_is_replaced(
    seeded: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.embedded.homeserver._ADOPT_TIMEOUT_S", 1.0)
    monkeypatch.setattr("orchestrator.embedded.synapse_process._TERM_GRACE_S", 1.0)
    left = await start_and_be_killed(seeded, port)
    os.kill(left, signal.SIGSTOP)
    async with open_embedded_homeserver(seeded, port=port, say=print) as server:
        assert not server.adopted
    assert not is_running(left)


async def test_two_installations_run_side_by_side(tmp_path: Path, port: int) -> None:
    async with open_embedded_homeserver(tmp_path / "a", port=port, say=print) as one:
        other = free_port()
        async with open_embedded_homeserver(tmp_path / "b", port=other, say=print) as two:
            assert one.pid != two.pid
        assert is_running(one.pid)


async def test_a_taken_port_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        with pytest.raises(PreconditionError, match="--port"):
            async with open_embedded_homeserver(tmp_path, port=port, say=print):
                pass
        with pytest.raises(PreconditionError, match="taken by another program"):
            require_free_port(port)


async def test_the_end_of_synapse_is_noticed_and_explained(seeded: Path, port: int) -> None:
    async with open_embedded_homeserver(seeded, port=port, say=print) as server:
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            with pytest.raises(HomeserverUnreachableError, match=r"ended by itself.*exit code -9"):
                await server.wait_died()


async def test_the_end_of_an_adopted_one_is_noticed_too(seeded: Path, port: int) -> None:
    await start_and_be_killed(seeded, port)
    async with open_embedded_homeserver(seeded, port=port, say=print) as server:
        assert server.adopted
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            with pytest.raises(HomeserverUnreachableError, match="ended by itself"):
                await server.wait_died()


async def test_nothing_stays_when_the_context_is_cancelled_or_fails(
    seeded: Path, port: int
) -> None:
    pids = []
    runs = asyncio.Event()

    async def serve() -> None:
        async with open_embedded_homeserver(seeded, port=port, say=print) as server:
            pids.append(server.pid)
            runs.set()
            await asyncio.sleep(60)

    async def fail_when_it_runs() -> None:
        await runs.wait()
        raise ConnectionError

    async def daemon() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            group.create_task(fail_when_it_runs())

    with pytest.raises(ExceptionGroup):
        await daemon()
    assert len(pids) == 1
    assert not is_running(pids[0])


async def test_a_cancel_during_the_start_leaves_no_process(tmp_path: Path, port: int) -> None:
    async def start_half() -> None:
        async with (
            asyncio.timeout(0.5),
            open_embedded_homeserver(tmp_path, port=port, say=print),
        ):
            pass

    with pytest.raises(TimeoutError):
        await start_half()
    require_free_port(port)
    assert b"homeserver" not in await running_commands(tmp_path)


async def running_commands(below: Path) -> bytes:
    """The command lines of the processes that mention a path."""
    found = b""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if str(below).encode() in line:
            found += line
    return found


async def test_a_synapse_that_can_not_start_shows_why(seeded: Path, port: int) -> None:
    (seeded / "embedded" / "homeserver.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(PreconditionError, match=r"ended by itself[^$]*file is not a database"):
        async with open_embedded_homeserver(seeded, port=port, say=print):
            pass


async def test_no_credential_of_ours_reaches_synapse(
    seeded: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-5e1f")
    async with open_embedded_homeserver(seeded, port=port, say=print) as server:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes()
        assert b"canary-5e1f" not in environment
        # A session of its own: a terminal's Ctrl-C does not reach it.
        assert os.getsid(server.pid) == server.pid


async def test_one_that_ignores_the_polite_end_is_killed(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.embedded.synapse_process._TERM_GRACE_S", 0.3)
    tmp_path.chmod(0o700)
    process = await start_synapse(tmp_path, write_synapse_files(tmp_path, "server_name: x"))
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    await process.stop()
    process.close()
    assert time.monotonic() - began < 5
    assert not is_running(process.pid)
