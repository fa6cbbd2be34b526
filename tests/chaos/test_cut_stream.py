"""A kill cuts the API's stream: what the real CLI makes of the tools that it was told to call.

It runs a tool as soon as its block is complete, before the message is. What it does when the rest
never comes decides whether a kill of the orchestrator runs a tool twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.cli_event import Result
from orchestrator.core.cli_input import build_user_message
from orchestrator.core.stream import parse_line
from orchestrator.embedded.messages_model import (
    Block,
    CutStream,
    HttpError,
    Stall,
    StreamError,
    Text,
)
from orchestrator.model import Permissions, SessionId
from tests.support.claude_cli import ensure_claude_cli
from tests.support.cli_process import open_cli
from tests.support.messages_api import open_scripted_api
from tests.support.tool import bash

pytestmark = [pytest.mark.cli, pytest.mark.timeout(300)]
SESSION = SessionId("55555555-5555-4555-8555-555555555555")
MESSAGE = "66666666-6666-4666-8666-666666666666"
# As the runner answers while no orchestrator is there.
NOBODY = HttpError(status=502, type="api_error", message="the gateway is not there")


async def run_cut_turn(claude: str, base: Path, cut: Sequence[Block]) -> tuple[Counter[str], bool]:
    """One turn whose first answer is cut so; how often each tool ran, and whether it ended well."""
    for folder in ("home", "ws"):
        (base / folder).mkdir(parents=True)
    argv = build_cli_argv(
        session_id=SESSION,
        resume=False,
        permissions=Permissions.BYPASS,
        executable=claude,
        workspace=str(base / "ws"),
    )
    async with open_scripted_api() as api:
        api.once("go", cut)
        for _ in range(2):
            api.once("go", NOBODY)
        # A model that is asked again from the start calls the same tools again.
        api.when("go", [bash("echo first >> ledger"), bash("echo slow >> ledger")], "done")
        env = build_cli_env("room", gateway_url=api.base_url, home=str(base / "home"))
        # The CLI refuses to skip permissions for root, unless it is told where it is.
        env |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "IS_SANDBOX": "1"}
        async with open_cli(argv, env=env, cwd=base / "ws") as cli:
            await cli.send(build_user_message("go", message_uuid=MESSAGE) + "\n")
            result = None
            while not isinstance(result, Result):
                line = await cli.next_line(timeout_s=120)
                assert line is not None, await cli.stderr()
                result = parse_line(line)
    return Counter((base / "ws" / "ledger").read_text().split()), not result.is_error


async def test_a_tool_of_a_stream_that_is_cut_runs_once(tmp_path: Path) -> None:
    claude = str(await asyncio.to_thread(ensure_claude_cli))
    first, slow = bash("echo first >> ledger"), bash("sleep 3; echo slow >> ledger")
    cuts: dict[str, list[Block]] = {
        "after both have run": [Text(text="so"), first, slow, Stall(seconds=5), CutStream()],
        "while one runs": [first, slow, Stall(seconds=1), CutStream()],
        "by an error of the API": [first, slow, Stall(seconds=1), StreamError()],
    }
    outcomes = await asyncio.gather(
        *(run_cut_turn(claude, tmp_path / name, cut) for name, cut in cuts.items())
    )
    expected = (Counter(first=1, slow=1), True)
    assert dict(zip(cuts, outcomes, strict=True)) == dict.fromkeys(cuts, expected)
