"""How the CLI is started: what a room could otherwise widen is closed."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.cli_command import MAX_RETRIES, build_cli_argv, build_cli_env
from orchestrator.core.cli_policy import ProjectPolicy
from orchestrator.model import Permissions, SessionId

SESSION = SessionId("11111111-1111-4111-8111-111111111111")


def argv(
    *, resume: bool = False, permissions: Permissions = Permissions.ASK, prompt: str | None = None
) -> list[str]:
    return build_cli_argv(
        session_id=SESSION, resume=resume, permissions=permissions, system_prompt=prompt
    )


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


@pytest.mark.parametrize(
    ("permissions", "mode"),
    [
        (Permissions.ASK, "default"),
        (Permissions.ACCEPT_EDITS, "acceptEdits"),
        (Permissions.PLAN, "plan"),
        (Permissions.BYPASS, "bypassPermissions"),
    ],
)
def test_each_permission_setting_has_its_mode(permissions: Permissions, mode: str) -> None:
    assert value_of(argv(permissions=permissions), "--permission-mode") == mode


def test_a_session_is_started_or_resumed_never_both() -> None:
    assert value_of(argv(), "--session-id") == SESSION
    assert value_of(argv(resume=True), "--resume") == SESSION
    assert "--resume" not in argv()
    assert "--session-id" not in argv(resume=True)


def test_no_settings_and_no_servers_of_the_workspace_are_read() -> None:
    arguments = argv()
    assert value_of(arguments, "--setting-sources") == ""
    assert "--strict-mcp-config" in arguments


def test_the_clis_own_fetch_is_off_unless_given_and_then_asks_the_vendor_about_no_host() -> None:
    assert "WebFetch" in value_of(argv(), "--disallowedTools").split(",")
    given = build_cli_argv(
        session_id=SESSION, resume=False, permissions=Permissions.ASK, web_fetch=True
    )
    denied = value_of(given, "--disallowedTools").split(",")
    assert "WebFetch" not in denied
    assert "WebSearch" in denied
    assert json.loads(value_of(given, "--settings")) == {"skipWebFetchPreflight": True}


def test_a_system_prompt_can_not_become_a_flag() -> None:
    arguments = argv(prompt="--dangerously-skip-permissions")
    assert "--dangerously-skip-permissions" not in arguments
    assert "--append-system-prompt=--dangerously-skip-permissions" in arguments
    assert not any(a.startswith("--append-system-prompt") for a in argv(prompt=""))


def test_the_model_is_named_only_when_configured() -> None:
    assert not any(a.startswith("--model") for a in argv())
    named = build_cli_argv(
        session_id=SESSION, resume=False, permissions=Permissions.ASK, model="sonnet"
    )
    assert "--model=sonnet" in named


def test_searching_is_disallowed_unless_the_gateway_lets_it_through() -> None:
    searching = build_cli_argv(
        session_id=SESSION, resume=False, permissions=Permissions.ASK, web_search=True
    )
    closed, opened = (value_of(a, "--disallowedTools").split(",") for a in (argv(), searching))
    assert set(closed) - set(opened) == {"WebSearch"}
    assert set(opened) < set(closed)


def test_the_environment_holds_the_placeholder_and_nothing_of_ours() -> None:
    env = build_cli_env("room-placeholder")
    assert env["ANTHROPIC_API_KEY"] == "room-placeholder"
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8317"
    assert env["HOME"] == "/home/agent"
    assert env["CLAUDE_CODE_TMPDIR"] == "/home/agent/.tmp"
    assert env["CLAUDE_CODE_MAX_RETRIES"] == str(MAX_RETRIES)
    assert "PATH" not in env


def test_in_a_full_home_the_tools_write_elsewhere_first_so_that_one_can_empty_it() -> None:
    env = build_cli_env("room-placeholder", is_home_full=True)
    assert env["CLAUDE_CODE_TMPDIR"] == "/tmp"
    assert env["HOME"] == "/home/agent"


def test_a_subscriptions_placeholder_is_given_as_its_token_and_not_as_a_key() -> None:
    env = build_cli_env("room-placeholder", is_subscription=True)
    assert env["CLAUDE_CODE_OAUTH_TOKEN"] == "room-placeholder"
    assert "ANTHROPIC_API_KEY" not in env


# ---- what a workspace may configure


def test_without_claude_md_the_workspace_is_not_given_as_a_place_to_read_it_from() -> None:
    arguments = build_cli_argv(
        session_id=SESSION,
        resume=False,
        permissions=Permissions.ASK,
        project=ProjectPolicy(claude_md=False),
    )
    assert "--add-dir" not in arguments
    env = build_cli_env("room-placeholder", claude_md=False)
    assert env["CLAUDE_CODE_DISABLE_CLAUDE_MDS"] == "1"
    assert "CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD" not in env


def test_with_claude_md_and_nothing_else_the_cli_is_started_directly() -> None:
    assert argv()[0] == "/usr/local/bin/claude"
    assert value_of(argv(), "--add-dir") == "/workspace"
    env = build_cli_env("room-placeholder")
    assert env["CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD"] == "1"
    assert "CLAUDE_CODE_DISABLE_CLAUDE_MDS" not in env


@pytest.mark.parametrize(
    "kind", ["hooks", "mcp_servers", "permission_rules", "environment", "plugins"]
)
def test_what_a_room_honours_goes_through_the_launcher_and_opens_no_source_of_the_cli(
    kind: str,
) -> None:
    arguments = build_cli_argv(
        session_id=SESSION,
        resume=False,
        permissions=Permissions.ASK,
        project=ProjectPolicy(**{kind: True}),
    )
    assert arguments[:4] == ["/usr/bin/python3", "-I", "-S", "/opt/aiagentchat/launcher"]
    assert arguments[4:6] == [kind, "/usr/local/bin/claude"]
    assert arguments[5:] == argv()
