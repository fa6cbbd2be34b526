"""Turns of the real CLI against the scripted API, each of which shows one kind of line.

The contract test runs them and checks the events; `record_cli` runs them and keeps the lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.cli_event import PermissionRequest
from orchestrator.core.cli_input import (
    build_interrupt,
    build_permission_allow,
    build_permission_deny,
    build_user_message,
)
from orchestrator.core.stream import parse_line
from orchestrator.model import JsonObject, Permissions, SessionId
from tests.support.cli_process import CliProcess, open_cli
from tests.support.scripted_api import Refusal, Reply, open_scripted_api, text, thinking, tool_use

SESSION = SessionId("11111111-1111-4111-8111-111111111111")
MESSAGE = "22222222-2222-4222-8222-222222222222"
_PLACEHOLDER = "room-placeholder"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DONE = Reply(blocks=(text("All **done**."),))
WRITE = {"file_path": "note.txt", "content": "x"}


def _tool(name: str, arguments: JsonObject, tool_id: str = "toolu_01") -> Reply:
    return Reply(blocks=(tool_use(name, arguments, tool_id=tool_id),), stop_reason="tool_use")


def _bash(command: str, tool_id: str = "toolu_01") -> Reply:
    return _tool("Bash", {"command": command, "description": "a test"}, tool_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One turn: what the model answers, and what we answer to the CLI."""

    replies: tuple[Reply | Refusal, ...]
    """The last one is repeated."""
    prompt: str = "hello"
    allow: bool = False
    interrupt_on: str | None = None
    """Interrupt when a line contains this."""
    permissions: Permissions = Permissions.ASK
    resume: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


_LIMIT_HEADERS = (
    ("anthropic-ratelimit-unified-status", "rejected"),
    ("anthropic-ratelimit-unified-reset", "4102444800"),
    ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
    ("anthropic-ratelimit-unified-5h-reset", "4102444800"),
    ("anthropic-ratelimit-unified-5h-utilization", "1.0"),
)
_NO_RETRY = {"CLAUDE_CODE_MAX_RETRIES": "0"}
_SUBAGENT: JsonObject = {"description": "d", "prompt": "p", "subagent_type": "general-purpose"}

SCENARIOS: Mapping[str, Scenario] = {
    "answer": Scenario(replies=(Reply(blocks=(thinking("let me see"), text("Hello **there**."))),)),
    "two_texts_and_a_tool": Scenario(
        replies=(
            Reply(
                blocks=(
                    text("I look first."),
                    tool_use("Bash", {"command": "echo hi", "description": "say hi"}),
                ),
                stop_reason="tool_use",
            ),
            DONE,
        )
    ),
    "tool_denied": Scenario(replies=(_bash("touch a && rm a"), DONE)),
    "tool_allowed": Scenario(replies=(_bash("touch a && rm a"), DONE), allow=True),
    "edit_accepted": Scenario(
        replies=(_tool("Write", {"file_path": "{cwd}/note.txt", "content": "x"}), DONE),
        permissions=Permissions.ACCEPT_EDITS,
    ),
    "plan_asks": Scenario(
        replies=(_tool("Write", {"file_path": "{cwd}/note.txt", "content": "x"}), DONE),
        permissions=Permissions.PLAN,
    ),
    "subagent": Scenario(
        replies=(
            _tool("Agent", _SUBAGENT),
            _bash("echo sub", "toolu_02"),
            Reply(blocks=(text("sub report"),)),
            DONE,
        )
    ),
    "interrupted_answer": Scenario(
        replies=(Reply(blocks=(text("partial"),), hang_after_blocks=True),),
        interrupt_on='"type":"assistant"',
    ),
    "interrupted_question": Scenario(
        replies=(_bash("touch a && rm a"), DONE), interrupt_on='"can_use_tool"'
    ),
    "retried": Scenario(
        replies=(Refusal(status=529, kind="overloaded_error", message="Overloaded"), DONE)
    ),
    "overloaded": Scenario(
        replies=(Refusal(status=529, kind="overloaded_error", message="Overloaded"),), env=_NO_RETRY
    ),
    "bad_credential": Scenario(
        replies=(Refusal(status=401, kind="authentication_error", message="invalid x-api-key"),),
        env=_NO_RETRY,
    ),
    "rate_limited": Scenario(
        replies=(Refusal(status=429, kind="rate_limit_error", message="slow down"),), env=_NO_RETRY
    ),
    "usage_limit": Scenario(
        replies=(
            Refusal(status=429, kind="rate_limit_error", message="limit", headers=_LIMIT_HEADERS),
        ),
        env={"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": _PLACEHOLDER},
    ),
    "prompt_too_long": Scenario(
        replies=(
            Refusal(
                status=400,
                kind="invalid_request_error",
                message="prompt is too long: 210000 tokens > 200000 maximum",
            ),
        )
    ),
    "no_credit": Scenario(
        replies=(
            Refusal(
                status=400,
                kind="invalid_request_error",
                message="Your credit balance is too low to access the Anthropic API.",
            ),
        )
    ),
    "unknown_model": Scenario(
        replies=(Refusal(status=404, kind="not_found_error", message="model: nope"),)
    ),
    "unknown_session": Scenario(replies=(DONE,), resume=True),
    "slash_is_text": Scenario(replies=(DONE,), prompt="/clear"),
    "lone_surrogate": Scenario(replies=(Reply(blocks=(text("a\ud800b \u202e \x1b[31mred"),)),)),
}


async def run_scenario(scenario: Scenario, *, claude: str, base: Path) -> list[str]:
    """The lines that the CLI prints for the turn; its stdin is closed behind the result."""
    home, cwd = base / "home", base / "ws"
    home.mkdir()
    cwd.mkdir()
    argv = build_cli_argv(
        session_id=SESSION,
        resume=scenario.resume,
        permissions=scenario.permissions,
        executable=claude,
        workspace=str(cwd),
    )
    async with open_scripted_api() as api:
        replies = [_placed(reply, cwd) for reply in scenario.replies]
        api.replies.extend(replies[:-1])
        api.when_empty = replies[-1]
        env = build_cli_env(_PLACEHOLDER, gateway_url=api.base_url, home=str(home))
        env = {**env, "PATH": _PATH, **scenario.env}
        async with open_cli(argv, env=env, cwd=cwd) as cli:
            await _play(scenario, cli)
            return cli.lines


def claude_from_environment() -> str:
    """The CLI's path, as AIAGENTCHAT_TEST_CLI names it."""
    return os.environ.get("AIAGENTCHAT_TEST_CLI") or "claude"


def _placed(reply: Reply | Refusal, cwd: Path) -> Reply | Refusal:
    if isinstance(reply, Refusal):
        return reply
    blocks: tuple[JsonObject, ...] = tuple(
        json.loads(json.dumps(block).replace("{cwd}", str(cwd))) for block in reply.blocks
    )
    return Reply(
        blocks=blocks,
        stop_reason=reply.stop_reason,
        headers=reply.headers,
        hang_after_blocks=reply.hang_after_blocks,
        cut_after_blocks=reply.cut_after_blocks,
    )


async def _play(scenario: Scenario, cli: CliProcess) -> None:
    await cli.send(build_user_message(scenario.prompt, message_uuid=MESSAGE) + "\n")
    answer: Callable[[PermissionRequest], str] = _allow if scenario.allow else _deny
    is_interrupted = False
    while (line := await cli.next_line()) is not None:
        event = parse_line(line)
        if scenario.interrupt_on and scenario.interrupt_on in line and not is_interrupted:
            is_interrupted = True
            await cli.send(build_interrupt("interrupt-1") + "\n")
        elif isinstance(event, PermissionRequest):
            await cli.send(answer(event) + "\n")
        if '"type":"result"' in line:
            cli.close_stdin()


def _allow(event: PermissionRequest) -> str:
    return build_permission_allow(event.request_id, event.input)


def _deny(event: PermissionRequest) -> str:
    return build_permission_deny(event.request_id, "not allowed here")
