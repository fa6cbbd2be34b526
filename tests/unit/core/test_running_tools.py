"""What the CLI runs, as it says it: bounded, one line each, without effect in a room."""

from __future__ import annotations

from typing import Any

from orchestrator.core.cli_event import AssistantMessage, ToolResult, ToolUseBlock, UserMessage
from orchestrator.core.running_tools import RunningTools


def use(tool_id: str, name: str = "Bash", **given: Any) -> AssistantMessage:
    block = ToolUseBlock(tool_use_id=tool_id, name=name, input=given)
    return AssistantMessage(message_id="m", blocks=(block,))


def result(tool_id: str) -> UserMessage:
    return UserMessage(results=(ToolResult(tool_use_id=tool_id, text="", is_error=False),))


def test_a_call_runs_until_its_result() -> None:
    tools = RunningTools()
    tools.feed(use("1", command="curl https://example.org"))
    tools.feed(use("2", "WebFetch", url="https://a.org"))
    assert tools.describe() == ("WebFetch: https://a.org", "Bash: curl https://example.org")
    tools.feed(result("1"))
    assert tools.describe() == ("WebFetch: https://a.org",)
    tools.feed(result("unknown"))
    tools.feed(result("2"))
    assert tools.describe() == ()


def test_a_hostile_cli_costs_a_bounded_memory() -> None:
    tools = RunningTools()
    for i in range(10_000):
        tools.feed(use(f"{i}" + "x" * 10_000, "n" * 10_000, command="c" * 100_000))
    held = tools.describe()
    assert len(held) == 8
    assert all(len(line) < 200 for line in held)


def test_a_command_is_one_harmless_line() -> None:
    tools = RunningTools()
    tools.feed(use("1", "Ba`sh\n", command="a`b\n\x1b[31m\u202ec  \u2028d"))
    (line,) = tools.describe()
    assert line == "Ba'sh: a'b [U+202E]c d"


def test_a_tool_without_a_telling_input_is_named_alone() -> None:
    tools = RunningTools()
    tools.feed(use("1", "Mcp", command=7))
    assert tools.describe() == ("Mcp",)
