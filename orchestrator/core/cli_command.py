"""How the CLI is started: its arguments and its environment, for Claude Code 2.1.330.

Each flag and variable was tried on that version; docs/cli-facts.md says what it did.
"""

from __future__ import annotations

from orchestrator.core import room_tools
from orchestrator.core.cli_policy import NOTHING_MORE, ProjectPolicy, build_launcher
from orchestrator.model import Permissions, SessionId

# By its full path: the search path starts in the home, where the room could put another one.
CLAUDE = "/usr/local/bin/claude"
GATEWAY_URL = "http://127.0.0.1:8317"
"""The loopback end of the room's egress socket, inside the runner."""
HOME = "/home/agent"
WORKSPACE = "/workspace"

PERMISSION_MODES = {
    Permissions.ASK: "default",
    Permissions.ACCEPT_EDITS: "acceptEdits",
    Permissions.PLAN: "plan",
    # Refused for root; works for the room's own uid without any further flag.
    Permissions.BYPASS: "bypassPermissions",
}
# They start turns that nobody asked for, or reach for other sessions; a turn is one batch in, one
# result out.
DISALLOWED_TOOLS = (
    "CronCreate",
    "CronDelete",
    "CronList",
    "ListAgents",
    "Monitor",
    "ScheduleWakeup",
    "SendMessage",
    "Workflow",
)
_WEB_FETCH, _WEB_SEARCH = "WebFetch", "WebSearch"
# Before it fetches, it would ask the vendor about each host, by its name.
_WEB_SETTINGS = '{"skipWebFetchPreflight": true}'
# The CLI's own default is 10 attempts, about 200 s in all, and retries are no progress: with 8 it
# gives up after about 100 s and says why, well before the 300 s that end a turn without progress.
MAX_RETRIES = 8
# The longest approval that may be configured (approval_timeout_s), a week.
_MCP_TOOL_TIMEOUT_MS = 7 * 86400 * 1000


def build_cli_argv(
    *,
    session_id: SessionId,
    resume: bool,
    forks: SessionId | None = None,
    permissions: Permissions,
    model: str | None = None,
    system_prompt: str | None = None,
    effort: str | None = None,
    project: ProjectPolicy = NOTHING_MORE,
    web_fetch: bool = False,
    web_search: bool = False,
    sends_files: bool = False,
    executable: str = CLAUDE,
    workspace: str = WORKSPACE,
) -> list[str]:
    """The command line of one session's process.

    `resume` continues a session that this id already has; without it the id must be unused (the CLI
    refuses with exit code 1 either way). With `forks` it begins as a copy of that session, which
    stays as it is. `system_prompt` is added to the CLI's own. `web_fetch` leaves the tool that
    fetches pages, from this host and so through the proxy; `web_search` the one that the API does,
    where the gateway lets the room's searches through; `sends_files` adds ours that sends a file
    into the room.
    """
    argv = [*build_launcher(project), executable, "-p", "--verbose", "--include-partial-messages"]
    argv += ["--input-format", "stream-json", "--output-format", "stream-json"]
    argv += ["--permission-prompt-tool", "stdio"]
    argv += ["--permission-mode", PERMISSION_MODES[permissions]]
    # No settings of the workspace or of the home: they could allow tools, run hooks, and set
    # ANTHROPIC_BASE_URL. `--add-dir` brings CLAUDE.md back (see build_cli_env), and only that; what
    # else the room honours is the launcher's to bring.
    argv += ["--setting-sources", "", "--strict-mcp-config"]
    if project.claude_md:
        argv += ["--add-dir", workspace]
    web = [*([] if web_fetch else [_WEB_FETCH]), *([] if web_search else [_WEB_SEARCH])]
    argv += ["--disallowedTools", ",".join([*DISALLOWED_TOOLS, *web])]
    if sends_files:
        argv += ["--mcp-config", room_tools.CONFIG]
    if web_fetch:
        argv += ["--settings", _WEB_SETTINGS]
    if forks is not None:
        argv += ["--resume", forks, "--fork-session"]
    argv += ["--resume" if resume else "--session-id", session_id]
    if model is not None:
        argv.append(f"--model={model}")
    if effort is not None:
        argv.append(f"--effort={effort}")
    if system_prompt:
        # With "=": a prompt that starts with a dash is no flag.
        argv.append(f"--append-system-prompt={system_prompt}")
    return argv


def build_cli_env(
    placeholder: str,
    *,
    is_subscription: bool = False,
    claude_md: bool = True,
    is_home_full: bool = False,
    gateway_url: str = GATEWAY_URL,
    home: str = HOME,
) -> dict[str, str]:
    """The variables that the CLI needs, beside PATH. `placeholder` stands for the credential.

    With a subscription's token behind the gateway the CLI has to know that it is one: only then
    does it say when a usage limit resets.
    """
    claude_md_variable = (
        "CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD"
        if claude_md
        else "CLAUDE_CODE_DISABLE_CLAUDE_MDS"
    )
    return {
        "CLAUDE_CODE_OAUTH_TOKEN" if is_subscription else "ANTHROPIC_API_KEY": placeholder,
        "ANTHROPIC_BASE_URL": gateway_url,
        "HOME": home,
        "LANG": "C.UTF-8",
        # Each of its tools writes there first. In /tmp, which tools fill up by accident, no tool
        # would work any more that could empty it; nor in a home that takes nothing more.
        "CLAUDE_CODE_TMPDIR": "/tmp" if is_home_full else f"{home}/.tmp",  # noqa: S108 - a runner's
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        # Otherwise subagents and commands outlive the turn that started them, and their end starts
        # a turn of its own.
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_CRON": "1",
        # The list of tasks that the room sees tick itself off; without a terminal it is off.
        "CLAUDE_CODE_ENABLE_TODO_TOOLS": "1",
        claude_md_variable: "1",
        "CLAUDE_CODE_MAX_RETRIES": str(MAX_RETRIES),
        "MCP_TOOL_TIMEOUT": str(_MCP_TOOL_TIMEOUT_MS),
    }
