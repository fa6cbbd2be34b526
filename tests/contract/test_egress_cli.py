"""The pinned CLI through the shim's forwarder and the real gateway: nothing it needs is refused.

The CLI's binary is the runner image's, or what AIAGENTCHAT_TEST_CLI names.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.core.api_policy import ApiPolicy, build_policy
from orchestrator.core.cli_event import Result
from orchestrator.core.failure import explain_failure
from orchestrator.core.stream import parse_line
from orchestrator.egress.gateway import EgressGateway, RoomDoor
from orchestrator.model import JsonObject, JsonValue
from tests.support.claude_cli import ensure_claude_cli
from tests.support.cli_process import open_cli
from tests.support.egress import PLACEHOLDER, REAL_KEY, TAG, open_room
from tests.support.scripted_api import (
    Reply,
    ScriptedApi,
    open_scripted_api,
    text,
    tool_use,
)

pytestmark = [
    pytest.mark.cli,
    pytest.mark.timeout(300),
    # The scripted API keeps its state under a plain string.
    pytest.mark.filterwarnings("ignore:It is recommended to use web.AppKey"),
]

_ROOT = Path(__file__).parents[2]
_FORWARDER = """
import sys
from shim.forwarder import Forwarder
from shim.reactor import Reactor
reactor = Reactor()
forwarder = Forwarder(reactor, 0, sys.argv[1])
print(forwarder._listener.getsockname()[1], flush=True)
while True:
    reactor.turn()
"""
# A PNG of one pixel.
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def cli() -> Path:
    return ensure_claude_cli()


@dataclass(frozen=True, slots=True)
class Runner:
    """What a runner has, without the container: a forwarder, a home, a working directory."""

    cli: Path
    address: str
    directory: Path
    api: ScriptedApi
    gateway: EgressGateway
    door: RoomDoor

    async def run(
        self, *arguments: str, exit_code: int = 0, **environment: str
    ) -> list[JsonObject]:
        """Run `claude -p` to its end; the lines that it printed."""
        command = [str(self.cli), "-p", "--output-format", "stream-json", "--verbose", *arguments]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory / "home"),
            "ANTHROPIC_BASE_URL": self.address,
            "ANTHROPIC_API_KEY": PLACEHOLDER,
            "DISABLE_AUTOUPDATER": "1",
            **environment,
        }
        async with open_cli(command, env=env, cwd=self.directory / "work") as process:
            process.close_stdin()
            code = await process.read_to_end(timeout_s=60)
            assert code == exit_code, await process.stderr() + "".join(process.lines)
            return [json.loads(line) for line in process.lines]

    def denials(self) -> int:
        return self.gateway.stats(self.door.slug).requests_denied


@contextlib.asynccontextmanager
async def _forwarder(socket_path: Path) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",
        "-c",
        _FORWARDER,
        str(socket_path),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(_ROOT / "runner-image")},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(10):
            port = (await process.stdout.readline()).decode().strip()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def _runner(
    cli: Path, *, api: ApiPolicy | None = None, budget_micro_usd: int | None = None
) -> AsyncIterator[Runner]:
    # Short, because the shim's path in a runner is short too.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        for part in ("home", "work"):
            (directory / part).mkdir()
        async with (
            open_scripted_api() as scripted,
            open_room(
                directory / "e", scripted.base_url, api=api, budget_micro_usd=budget_micro_usd
            ) as (gateway, door),
            _forwarder(directory / "e" / "egress.sock") as address,
        ):
            yield Runner(cli, address, directory, scripted, gateway, door)


@pytest.fixture
async def runner(cli: Path) -> AsyncIterator[Runner]:
    async with _runner(cli) as opened:
        yield opened


def _result(lines: list[JsonObject]) -> JsonValue:
    assert lines[-1]["type"] == "result"
    return lines[-1]["result"]


async def test_a_turn_with_tools_an_image_and_a_second_turn_passes_whole(runner: Runner) -> None:
    image = runner.directory / "work" / "p.png"
    image.write_bytes(_PIXEL)
    runner.api.replies.extend(
        [
            Reply(
                blocks=(tool_use("Bash", {"command": "echo 7$((1))", "description": "d"}),),
                stop_reason="tool_use",
            ),
            Reply(
                blocks=(tool_use("Read", {"file_path": str(image)}, tool_id="toolu_02"),),
                stop_reason="tool_use",
            ),
            Reply(blocks=(text("Grüße, 世界 🎉"),)),
            Reply(blocks=(text("second"),)),
        ]
    )
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    first = await runner.run("hi", "--allowedTools", "Bash,Read", **quiet)
    assert _result(first) == "Grüße, 世界 🎉"
    second = await runner.run("more", "--resume", str(first[-1]["session_id"]), **quiet)
    assert _result(second) == "second"
    assert runner.denials() == 0
    assert '"71' in json.dumps(runner.api.requests)
    assert '"source": {"type": "base64"' in json.dumps(runner.api.requests)
    assert all(r["metadata"] == {"user_id": TAG} for r in runner.api.requests)
    assert REAL_KEY not in json.dumps([first, second])


async def test_what_the_cli_asks_besides_is_refused_without_breaking_the_turn(
    runner: Runner,
) -> None:
    runner.api.replies.append(Reply(blocks=(text("fine"),)))
    assert _result(await runner.run("hi")) == "fine"
    assert {path.partition("?")[0] for path in runner.api.paths} == {"POST /v1/messages"}


async def test_a_server_side_search_is_refused_in_words_that_the_agent_reads(
    runner: Runner,
) -> None:
    runner.api.replies.extend(
        [
            Reply(blocks=(tool_use("WebSearch", {"query": "x y z"}),), stop_reason="tool_use"),
            Reply(blocks=(text("no search"),)),
        ]
    )
    lines = await runner.run("hi", "--tools", "WebSearch", "--allowedTools", "WebSearch")
    assert _result(lines) == "no search"
    assert "not allowed to leave a room" in json.dumps(lines)
    assert runner.gateway.stats(runner.door.slug).last_denial is not None
    assert "web_search" not in json.dumps([r.get("tools") for r in runner.api.requests])


async def test_a_server_side_search_works_in_a_room_whose_profile_names_it(cli: Path) -> None:
    async with _runner(cli, api=build_policy(server_tools=["web_search"])) as runner:
        runner.api.replies.extend(
            [
                Reply(blocks=(tool_use("WebSearch", {"query": "x y z"}),), stop_reason="tool_use"),
                Reply(blocks=(text("found"),)),
                Reply(blocks=(text("searched"),)),
            ]
        )
        lines = await runner.run("hi", "--tools", "WebSearch", "--allowedTools", "WebSearch")
        assert _result(lines) == "searched"
        assert "not allowed to leave a room" not in json.dumps(lines)
        assert '"web_search_20250305"' in json.dumps([r.get("tools") for r in runner.api.requests])
        assert all(r["metadata"] == {"user_id": TAG} for r in runner.api.requests)


@pytest.mark.parametrize("key", ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"])
async def test_over_its_budget_the_cli_asks_once_and_the_room_reads_why(
    cli: Path, key: str
) -> None:
    credential = {"ANTHROPIC_API_KEY": "", key: PLACEHOLDER}
    async with _runner(cli, budget_micro_usd=1) as runner:
        runner.api.when_empty = Reply(blocks=(text("fine"),))
        quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", **credential}
        assert _result(await runner.run("hi", **quiet)) == "fine"
        asked, spent = len(runner.api.requests), runner.gateway.spent_micro_usd(runner.door.slug)
        assert spent > 0
        lines = await runner.run("more", exit_code=1, **quiet)
        assert len(runner.api.requests) == asked
        assert runner.denials() == 1
        assert not [line for line in lines if line.get("subtype") == "api_retry"]
        result = parse_line(json.dumps(lines[-1]))
        assert isinstance(result, Result)
        failure = explain_failure(result)
        assert failure.startswith("this room has spent its budget for today: $0.")
        assert "until 00:00 UTC" in failure
        assert runner.gateway.spent_micro_usd(runner.door.slug) == spent


async def test_a_subagent_works_through_the_same_door(runner: Runner) -> None:
    call: JsonObject = {"description": "d", "prompt": "p", "subagent_type": "general-purpose"}
    runner.api.replies.append(Reply(blocks=(tool_use("Agent", call),), stop_reason="tool_use"))
    runner.api.when_empty = Reply(blocks=(text("done"),))
    lines = await runner.run(
        "hi", "--allowedTools", "Agent", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1"
    )
    assert _result(lines) == "done"
    assert len(runner.api.requests) >= 3
    assert runner.denials() == 0


async def test_the_cli_goes_on_when_its_door_was_closed_and_opened_again(runner: Runner) -> None:
    runner.api.when_empty = Reply(blocks=(text("again"),))
    assert _result(await runner.run("hi")) == "again"
    await runner.gateway.close_door(runner.door.slug)
    await runner.gateway.open_door(runner.door)
    assert _result(await runner.run("hi")) == "again"


async def test_a_wrong_key_is_shown_as_what_it_is(runner: Runner) -> None:
    with pytest.raises(AssertionError, match="Another key than the room's own"):
        await runner.run("hi", ANTHROPIC_API_KEY="sk-ant-api03-attacker")
    assert not runner.api.requests
