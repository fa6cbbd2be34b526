"""The real CLI does what the parser, the view and the command line were written for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.cli_event import Garbled, Init, Result, Unknown
from orchestrator.core.cli_input import build_user_message
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import Ended, TurnView
from orchestrator.model import Permissions, TurnOutcome
from tests.support.claude_cli import ensure_claude_cli
from tests.support.cli_expectations import EXPECTED, check, watch
from tests.support.cli_process import open_cli
from tests.support.cli_scenarios import (
    DONE,
    MESSAGE,
    SCENARIOS,
    SESSION,
    run_scenario,
)
from tests.support.scripted_api import Reply, ScriptedApi, open_scripted_api, tool_use

pytestmark = pytest.mark.cli
PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.fixture
def claude_path() -> str:
    return str(ensure_claude_cli())


async def run_turn(
    claude: str, api: ScriptedApi, base: Path, *, resume: bool, message: str
) -> list[str]:
    """One process, one turn, without answers to questions."""
    argv = build_cli_argv(
        session_id=SESSION,
        resume=resume,
        permissions=Permissions.ASK,
        executable=claude,
        workspace=str(base / "ws"),
        system_prompt="--a prompt with a dash",
    )
    env = build_cli_env("room-placeholder", gateway_url=api.base_url, home=str(base / "home"))
    async with open_cli(argv, env={**env, "PATH": PATH}, cwd=base / "ws") as cli:
        await cli.send(build_user_message("hello", message_uuid=message) + "\n")
        while (line := await cli.next_line()) is not None:
            is_end = isinstance(parse_line(line), Result) or '"completed"' in line
            if is_end or '"can_use_tool"' in line:
                cli.close_stdin()
        return cli.lines


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "ws").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", SCENARIOS)
async def test_each_kind_of_turn_is_typed_and_shown_as_recorded(
    name: str, claude_path: str, tmp_path: Path
) -> None:
    lines = await run_scenario(SCENARIOS[name], claude=claude_path, base=tmp_path)
    assert [line for line in lines if isinstance(parse_line(line), Unknown | Garbled)] == []
    check(watch(lines), EXPECTED[name])


async def test_a_resumed_session_remembers_and_runs_a_message_only_once(
    claude_path: str, base: Path
) -> None:
    other = "44444444-4444-4444-8444-444444444444"
    async with open_scripted_api() as api:
        api.when_empty = DONE
        await run_turn(claude_path, api, base, resume=False, message=MESSAGE)
        again = await run_turn(claude_path, api, base, resume=True, message=MESSAGE)
        assert len(api.requests) == 1
        ended = watch(again)[-1]
        assert isinstance(ended, Ended)
        assert ended.outcome is TurnOutcome.INTERRUPTED
        next_turn = await run_turn(claude_path, api, base, resume=True, message=other)
        shows = watch(next_turn, TurnView(message_uuid=other, now=0.0))
    assert isinstance(shows[-1], Ended)
    assert shows[-1].outcome is TurnOutcome.DONE
    assert "All **done**." in json.dumps(api.requests[-1]["messages"])


async def test_settings_of_the_workspace_or_the_home_widen_nothing_and_claude_md_is_read(
    claude_path: str, base: Path
) -> None:
    settings = {
        "permissions": {"allow": ["Bash"], "defaultMode": "bypassPermissions"},
        "env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"},
        "hooks": {
            "SessionStart": [{"hooks": [{"type": "command", "command": f"touch {base}/hook"}]}]
        },
    }
    for folder in (base / "ws", base / "home"):
        (folder / ".claude").mkdir()
        for name in ("settings.json", "settings.local.json"):
            (folder / ".claude" / name).write_text(json.dumps(settings))
    server = {"mcpServers": {"x": {"command": "touch", "args": [f"{base}/server"]}}}
    (base / "ws" / ".mcp.json").write_text(json.dumps(server))
    (base / "ws" / "CLAUDE.md").write_text("The password of the day is swordfish.")
    call = tool_use("Bash", {"command": f"touch {base}/ran; rm -f x", "description": "d"})
    async with open_scripted_api() as api:
        api.replies.append(Reply(blocks=(call,), stop_reason="tool_use"))
        api.when_empty = DONE
        lines = await run_turn(claude_path, api, base, resume=False, message=MESSAGE)
    assert any('"can_use_tool"' in line for line in lines)
    init = next(e for e in map(parse_line, lines) if isinstance(e, Init))
    assert init.permission_mode == "default"
    assert not [name for name in ("hook", "server", "ran") if (base / name).exists()]
    assert "swordfish" in json.dumps(api.requests[0])
    assert "--a prompt with a dash" in json.dumps(api.requests[0]["system"])
