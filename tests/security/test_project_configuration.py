"""What a workspace and a home may configure of the real CLI: what the room honours, nothing else.

The room's directories carry every kind of configuration at once; each case switches some kinds on,
and names all that acts then.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.core.cli_command import build_cli_argv, build_cli_env
from orchestrator.core.cli_input import (
    build_permission_allow,
    build_permission_deny,
    build_user_message,
)
from orchestrator.core.cli_policy import NOTHING_MORE, ProjectPolicy
from orchestrator.core.sandbox import WORKSPACE, SandboxSpec
from orchestrator.egress.gateway import ApiKey, open_egress
from orchestrator.model import JsonObject, Permissions, SessionId
from orchestrator.runners.link import AsideLine, CliLine, CliStderr, SessionExited
from tests.support import planted
from tests.support.hostile_room import Room, open_runner
from tests.support.runner_engine import ensure_runner_image, open_clean_backend
from tests.support.scripted_api import Reply, ScriptedApi, open_scripted_api, text, tool_use

pytestmark = [
    pytest.mark.docker,
    pytest.mark.cli,
    pytest.mark.timeout(300),
    # The scripted API keeps its state under a plain string.
    pytest.mark.filterwarnings("ignore:It is recommended to use web.AppKey"),
]

TURN_S = 60
LOOK = (
    "env > marks/env; for name in x managed-settings.json managed-settings.d/x managed-mcp.json;"
    " do echo {} 2>/dev/null >> /etc/claude-code/$name && touch marks/wrote-policy; done; true"
)
"""The one command that is allowed when it is asked for."""


ALL = ProjectPolicy(
    hooks=True, mcp_servers=True, permission_rules=True, environment=True, plugins=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a turn showed."""

    init: JsonObject
    marks: frozenset[str]
    asked: tuple[str, ...]
    environment: dict[str, str]
    requests: str
    stderr: str

    def acted(self) -> set[str]:
        """Each kind that acted, by the mark that it alone leaves."""
        kinds = {mark for mark in self.marks if mark not in {"env", "by-rule"}}
        kinds |= {"rule"} if "by-rule" in self.marks else set()
        kinds |= {"variable"} if self.environment.get("FLAVOUR") == planted.FLAVOUR else set()
        kinds |= {"claude_md"} if planted.CLAUDE_MD in self.requests else set()
        kinds |= {"nested claude_md"} if planted.NESTED_MD in self.requests else set()
        kinds |= {"plugin"} if "plug:planted-plugin" in json.dumps(self.init["agents"]) else set()
        return kinds


HOOKS = {"hook-project", "hook-local"}
TEXT = {"claude_md"}
"""That of the workspace's root; those of its folders are never read by themselves."""
CASES: dict[str, tuple[ProjectPolicy, set[str]]] = {
    "nothing but CLAUDE.md": (NOTHING_MORE, TEXT),
    "not even CLAUDE.md": (ProjectPolicy(claude_md=False), set()),
    "hooks": (ProjectPolicy(hooks=True), TEXT | HOOKS),
    "servers": (ProjectPolicy(mcp_servers=True), TEXT | {"mcp-project"}),
    "permission rules": (ProjectPolicy(permission_rules=True), TEXT | {"rule"}),
    "variables": (ProjectPolicy(environment=True), TEXT | {"variable"}),
    "plugins": (ProjectPolicy(plugins=True), TEXT | {"plugin"}),
    "everything": (
        ALL,
        TEXT | HOOKS | {"mcp-project", "rule", "variable", "plugin", "hook-plugin"},
    ),
}


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_runner_image()


@asynccontextmanager
async def open_planted(
    root: Path, image: str, project: ProjectPolicy, before: Callable[[SandboxSpec], None]
) -> AsyncIterator[tuple[Room, ScriptedApi]]:
    async with (
        open_clean_backend() as backend,
        open_scripted_api() as api,
        open_egress(upstream=api.base_url, credential=ApiKey(SecretStr("sk-ant-real"))) as gateway,
        open_runner(backend, gateway, root, image, 0, project=project, before=before) as room,
    ):
        yield room, api


def call(name: str, number: int, **arguments: str) -> Reply:
    use = tool_use(name, {**arguments}, tool_id=f"toolu_{number}")
    return Reply(blocks=(use,), stop_reason="tool_use")


async def see(room: Room, api: ScriptedApi, project: ProjectPolicy) -> Seen:
    """One turn in `ask` mode: a command that a rule may allow, a look around, a nested file."""
    session = SessionId(str(uuid.uuid4()))
    api.replies.extend(
        [
            call("Bash", 1, command=planted.RULED, description="by the rule"),
            call("Bash", 2, command=LOOK, description="look around"),
            call("Read", 3, file_path=f"{WORKSPACE}/nested/file"),
            Reply(blocks=(text("done"),)),
        ]
    )
    await room.link.open_session(
        "open",
        session,
        argv=build_cli_argv(
            session_id=session, resume=False, permissions=Permissions.ASK, project=project
        ),
        env=build_cli_env(room.placeholder, claude_md=project.claude_md),
        cwd=WORKSPACE,
    )
    line = build_user_message("hello", message_uuid=str(uuid.uuid4()))
    await room.link.send_line("say", session, line)
    lines, asked, stderr = await follow(room, session)
    marks = room.spec.workspace / "marks"
    shown = (marks / "env").read_text().splitlines()
    return Seen(
        init=next(line for line in lines if line.get("subtype") == "init"),
        marks=frozenset(path.name for path in marks.iterdir()),
        asked=tuple(asked),
        environment=dict(entry.split("=", 1) for entry in shown if "=" in entry),
        requests=json.dumps(api.requests),
        stderr=stderr,
    )


async def follow(room: Room, session: str) -> tuple[list[JsonObject], list[str], str]:
    """The turn's lines, what was asked, and stderr; only the look around is allowed."""
    lines: list[JsonObject] = []
    asked: list[str] = []
    stderr = ""
    async with asyncio.timeout(TURN_S):
        async for event in room.link.events():
            assert not isinstance(event, AsideLine)
            await room.link.ack(event.q)
            if isinstance(event, CliStderr):
                stderr += event.text
            if isinstance(event, SessionExited):
                assert lines, f"the CLI ended: {stderr}"
                break
            if not isinstance(event, CliLine):
                continue
            line = json.loads(event.line)
            lines.append(line)
            if line["type"] == "control_request":
                asked.append(json.dumps(line["request"]["input"]))
                await room.link.send_line(f"answer:{len(asked)}", session, answer(line))
            elif line["type"] == "result":
                await room.link.close_session("close", session)
    return lines, asked, stderr


def answer(line: JsonObject) -> str:
    request = line["request"]
    assert isinstance(request, dict)
    tool_input = request["input"]
    assert isinstance(tool_input, dict)
    if tool_input.get("command") == LOOK:
        return build_permission_allow(str(line["request_id"]), tool_input)
    return build_permission_deny(str(line["request_id"]), "no")


@pytest.mark.parametrize("case", CASES)
async def test_only_what_the_room_honours_acts(tmp_path: Path, image: str, case: str) -> None:
    project, expected = CASES[case]
    async with open_planted(tmp_path, image, project, planted.plant) as (room, api):
        seen = await see(room, api, project)
    assert seen.acted() == expected
    assert_nothing_widened(seen)
    was_asked = any(planted.RULED in words for words in seen.asked)
    assert was_asked is not project.permission_rules


@pytest.mark.parametrize(
    ("policy", "let_through"),
    [(NOTHING_MORE, set()), (ProjectPolicy(plugins=True), {"plugin"})],
    ids=["of the image", "of a room with plugins"],
)
async def test_the_managed_settings_refuse_a_second_time_what_the_launcher_let_through(
    tmp_path: Path, image: str, policy: ProjectPolicy, let_through: set[str]
) -> None:
    async with open_planted(tmp_path, image, policy, planted.plant) as (room, api):
        seen = await see(room, api, ALL)
    assert seen.acted() == TEXT | {"mcp-project", "variable"} | let_through
    assert_nothing_widened(seen)


async def test_a_configuration_behind_a_symlink_is_not_honoured(tmp_path: Path, image: str) -> None:
    project = ProjectPolicy(hooks=True, permission_rules=True, environment=True)
    async with open_planted(tmp_path, image, project, planted.plant_symlinked_folder) as opened:
        seen = await see(*opened, project)
    assert seen.acted() == TEXT
    assert_nothing_widened(seen)
    assert ".claude/settings.json does not count" in seen.stderr


def assert_nothing_widened(seen: Seen) -> None:
    """What no setting of ours lets a workspace or a home decide."""
    assert seen.init["permissionMode"] == "default"
    assert seen.init["output_style"] == "default"
    assert "planted" not in str(seen.init["model"])
    names = json.dumps([seen.init["agents"], seen.init["skills"], seen.init["slash_commands"]])
    assert "planted-project" not in names
    assert "planted-user" not in names
    for name in ("ANTHROPIC_CUSTOM_HEADERS", "HTTPS_PROXY", "LD_PRELOAD", "BASH_ENV"):
        assert planted.EVIL_URL not in seen.environment.get(name, "")
        assert "planted" not in seen.environment.get(name, "").lower()
    assert seen.environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8317"
    assert seen.environment["CLAUDE_CODE_MAX_RETRIES"] == "8"
    assert WORKSPACE not in seen.environment["PATH"]
    assert "sk-ant-planted" not in seen.environment.values()
